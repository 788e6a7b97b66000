"""A small federation for checks: a tiny model, ragged clients, one without data, and a broken one."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from ragged import ragged_work
from tiny import tiny_backbone, tiny_model, tiny_tokenizer

from fedprofit.algorithm.base import Context
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import LocalResult
from fedprofit.local.base import Gradients
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


def work_of(number, broken=()):
    """Return the ragged work of a round; the named clients' first batches have a broken row."""
    found = []
    for work in ragged_work(number):
        if work.client in broken and work.batches:
            first = list(work.batches[0])
            source = np.append(first[0].source, POISON).astype(np.int32)
            first[0] = replace(first[0], source=source)
            work = replace(work, batches=[first, *work.batches[1:]])
        found.append(work)
    return found


def run(settings, solver=None, broken=(), works=None, state=None, clients=None):
    """Run rounds; return the algorithm, its context, the last state and the reports."""
    context = Context(solver or Vectorized(engine(bool(broken))), seed=3, population=20)
    context = replace(context, clients=clients) if clients else context
    algorithm = settings.build(context)
    state, reports = state or algorithm.init(start()), []
    for number in range(state.round + 1, ROUNDS + 1):
        work = works(number) if works else work_of(number, broken)
        state, report = algorithm.round(state, work, context.at(number))
        reports.append(report)
    return algorithm, context, state, reports


class OneByOne:
    """A local solver that trains one client after the other, by plain concatenation and autograd."""

    def __init__(self):
        self.backbone = engine().backbone

    def gradients(self, params, batches):
        """Compute each client's loss and gradient alone."""
        counted = Vectorized(engine()).gradients(params, batches).tokens
        found = [self._one({k: t[place] for k, t in params.items()}, b) for place, b in enumerate(batches)]
        slopes = {key: torch.stack([slope[key] for slope, _ in found]) for key in params}
        return Gradients(slopes, torch.tensor([loss for _, loss in found]), counted)

    def _one(self, params, batch):
        if not batch:
            return {key: torch.zeros_like(tensor) for key, tensor in params.items()}, 0.0
        prompt = params["prompt"].detach().clone().requires_grad_()
        rows = [Row(0, example) for example in batch]
        loss = plain_losses(self.backbone, prompt[None], rows).sum() / sum(len(e.target) for e in batch)
        loss.backward()
        return {"prompt": prompt.grad}, float(loss.detach())

    def solve(self, params, work, optimizer, terms=(), snapshots=()):
        """Train each client alone; see `LocalSolver`."""
        from fedprofit.local.reference import solve_sequentially

        found, losses = solve_sequentially(self.backbone, params, work, optimizer, terms)
        tokens, steps = [0] * len(work), [len(client.batches) for client in work]
        return LocalResult(found, losses, steps, tokens, {}), {}


def sequential():
    """Return the sequential reference as a local solver."""
    from fedprofit.local import reference

    made = getattr(reference, "Sequential", None)
    return made(engine().backbone) if made else OneByOne()
