"""A small federation for checks: a tiny model, ragged clients, one without data, and a broken one."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from ragged import ragged_cohort
from tiny import tiny_backbone, tiny_model, tiny_tokenizer

from fedprofit.algorithm.base import Context
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.load import Backbone
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import Vectorized

POISON = 340  # a token whose embedding is NaN in the broken model
ROUNDS = 3


@cache
def engine(broken=False):
    """Return the engine of the tiny model, or of one in which `POISON` gives NaN."""
    if not broken:
        return Engine(tiny_backbone("llama"), "packed")
    model = tiny_model("llama").requires_grad_(False).eval()
    model.get_input_embeddings().weight[POISON] = float("nan")
    device = torch.device("cpu")
    return Engine(Backbone("broken", model, tiny_tokenizer(), device, torch.float32, "broken"), "packed")


def start():
    """Return the common initialization."""
    width = engine().backbone.width
    return {"prompt": torch.randn(4, width, generator=torch.Generator().manual_seed(7)) * 0.3}


def cohort_of(number, broken=()):
    """Return the ragged cohort of a round; the named clients' first batches have a broken row."""
    found = []
    for one in ragged_cohort(number):
        if one.client in broken and one.batches:
            first = list(one.batches[0])
            source = np.append(first[0].source, POISON).astype(np.int32)
            first[0] = replace(first[0], source=source)
            one = replace(one, batches=[first, *one.batches[1:]])
        found.append(one)
    return found


def run(settings, solver=None, broken=(), assign=None, state=None, clients=None):
    """Run rounds; return the algorithm, its context, the last state and the reports."""
    context = Context(solver or Vectorized(engine(bool(broken))), seed=3, population=20)
    context = replace(context, clients=clients) if clients else context
    algorithm = settings.build(context)
    state, reports = state or algorithm.init(start()), []
    for number in range(state.round + 1, ROUNDS + 1):
        cohort = assign(number) if assign else cohort_of(number, broken)
        state, report = algorithm.round(state, cohort, context.at(number))
        reports.append(report)
    return algorithm, context, state, reports


def sequential():
    """Return the sequential reference as a local solver."""
    return Sequential(engine().backbone)
