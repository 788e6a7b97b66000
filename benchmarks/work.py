"""The training task that all methods share: batches, model, initial prompt and client optimizer."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import Backbone, load_backbone
from fedprofit.core.errors import UserError
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientBatches, Example
from fedprofit.data.settings import TemplateConfig
from fedprofit.data.sources import read_source
from fedprofit.data.sources.lexicon import LexiconSource
from fedprofit.data.sources.sni import SniSource
from fedprofit.data.template import Instance, Template
from fedprofit.local.optimizer import Adam
from fedprofit.tuner.prompt import KEY, initial_prompt

ADAM = Adam(rate=0.03)
# Relative tolerances of losses: means over eight clients, and single clients. In bfloat16, rounding changes
# the loss of a batch with few target tokens by a twentieth.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
CLIENT_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-1}
MOST_WORDS = 150  # of a definition and of an input; a few in SNI are ten times longer than the rest

Losses = Sequence[Sequence[float]]  # by client and step; for complete runs one list, by round
Method = Callable[[], Losses]


@dataclass(frozen=True)
class Settings:
    """Settings of one measurement: plain values that can be sent to other processes."""

    model: str
    dtype: str
    data: str
    definitions: bool
    clients: int
    rows: int
    steps: int
    length: int
    threads: int
    seed: int
    token_budget: int = Engine.token_budget

    @property
    def tolerance(self) -> float:
        """Relative tolerance of means over the clients; larger for fewer than eight clients."""
        few = math.sqrt(max(1, 8 / self.clients))
        return min(TOLERANCE[self.dtype] * few, CLIENT_TOLERANCE[self.dtype])

    @property
    def examples(self) -> int:
        """Number of examples of all clients in one round."""
        return self.clients * self.rows * self.steps


@dataclass(frozen=True, eq=False)
class Work:
    """The model, and lazily the batches, the engine and the initial prompt."""

    settings: Settings
    backbone: Backbone

    @cached_property
    def clients(self) -> list[ClientBatches]:
        """The batches of each client."""
        return make_clients(self.settings, self.backbone)

    @cached_property
    def engine(self) -> Engine:
        """This package's engine with these settings."""
        return make_engine(self.backbone, token_budget=self.settings.token_budget)

    @cached_property
    def start(self) -> torch.Tensor:
        """The initial prompt of all clients, `[length, width]`."""
        return initial_prompt(self.backbone, self.settings.length, self.settings.seed)[KEY]


@lru_cache(maxsize=1)
def prepare(settings: Settings) -> Work:
    """Load the model, once per process."""
    return Work(settings, load_backbone(settings.model, settings.dtype))


def in_float32(work: Work) -> Work:
    """Return the same task in float32, the dtype that users of a library get by default."""
    return Work(replace(work.settings, dtype="float32"), _in_float32(work.settings.model))


@lru_cache(maxsize=1)
def _in_float32(model: str) -> Backbone:
    return load_backbone(model, "float32")


def sni_table() -> Path:
    """Return the path of the shared table of Super-NaturalInstructions."""
    root = Path(__file__).resolve().parent.parent
    return root / os.environ.get("FEDPROFIT_DATA", "../shared/data") / "sni" / "sni_english.parquet"


def make_clients(settings: Settings, backbone: Backbone) -> list[ClientBatches]:
    """Make the batches of each client: one task per client, drawn by seed from tasks with enough rows."""
    count = settings.rows * settings.steps
    by_task = read_tasks(settings.data, count, settings.seed)
    tasks = sorted(task for task, instances in by_task.items() if len(instances) >= count)
    if len(tasks) < settings.clients:
        raise UserError(
            f"--clients {settings.clients}: only {len(tasks)} tasks of {settings.data} have the {count} "
            f"examples of --rows {settings.rows} times --steps {settings.steps}. Lower one of the three."
        )
    chosen = numpy_generator(settings.seed, "benchmark").permutation(tasks)[: settings.clients].tolist()
    template = Template(
        backbone.tokenizer, TemplateConfig(definition=settings.definitions), backbone.eos_token_ids[0]
    )
    clients = []
    for task in chosen:
        examples = [Example(*parts, task, ()) for parts in template.encode(by_task[task][:count])]
        batches = [examples[at : at + settings.rows] for at in range(0, count, settings.rows)]
        clients.append(ClientBatches(task, batches, count))
    return clients


def read_tasks(data: str, count: int, seed: int) -> dict[str, list[Instance]]:
    """Read at least `count` instances of each task that has as many."""
    if data == "lexicon":
        pool = read_source(LexiconSource(kind="lexicon", instances=max(count, 3)), seed)
    else:
        path = str(sni_table()) if data == "sni" else data
        most = {"instances": count, "max_words": MOST_WORDS}
        pool = read_source(SniSource(kind="sni", path=path, min_instances=count, **most), seed)
    by_task: dict[str, list[Instance]] = {}
    for row in pool.to_pylist():
        instance = Instance(row["definition"], [], row["input"], row["targets"][0])
        by_task.setdefault(row["task"], []).append(instance)
    return by_task


def padded(device: torch.device, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Return the inputs of a language model, `[rows, longest]`, padded on the right."""
    texts, labels = [], []
    for example in batch:
        context = [*example.prefix.tolist(), *example.source.tolist()]
        texts.append(torch.tensor(context + example.target.tolist()))
        labels.append(torch.tensor([-100] * len(context) + example.target.tolist()))
    pad = torch.nn.utils.rnn.pad_sequence
    made = {
        "input_ids": pad(texts, batch_first=True),
        "attention_mask": pad([torch.ones_like(text) for text in texts], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


def count_tokens(work: Work) -> int:
    """Count the tokens of a round in plain concatenation, without padding."""
    rows = [example for client in work.clients for batch in client.batches for example in batch]
    return sum(len(work.start) + len(e.prefix) + len(e.source) + len(e.target) - 1 for e in rows)


def check_losses(found: Mapping[str, Losses], reference: str, tolerance: float, label: str) -> None:
    """Compare the losses of all methods with those of `reference`; raise SystemExit if any differ."""
    for name, losses in found.items():
        for k, (ours, expected) in enumerate(zip(losses, found[reference], strict=True)):
            for step, (one, other) in enumerate(zip(ours, expected, strict=True), 1):
                if not abs(one - other) <= tolerance * abs(other):  # so that NaN fails too
                    raise SystemExit(
                        f"{name}: the loss of {label.format(k, step)} is {one:.6f}, that of {reference} "
                        f"{other:.6f}. The relative tolerance is {tolerance:g}. The times are not comparable."
                    )


def mean_by_step(losses: Losses) -> Losses:
    """Return the mean over the clients at each step; all clients have the same number of steps."""
    return [[sum(step) / len(step) for step in zip(*losses, strict=True)]]
