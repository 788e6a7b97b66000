"""Select a study's tasks: those on which a trained prompt beats the trivial answers by a margin.

A task that a model cannot learn, or that one label or a copy of the input solves, shows nothing about a
method. One prompt is trained for each task on the task's pooled train rows, all at once, and scored on its
validation rows, which no study scores. A task enters a study if its ROUGE-L exceeds that of the most frequent
label, and that of the copied input, by the margin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import polars as pl

from fedprofit.baseline.copy_input import CopyInput
from fedprofit.baseline.local import Central
from fedprofit.baseline.majority import most_frequent
from fedprofit.config.file import from_mapping
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.types import Example
from fedprofit.data.partitions.levels import Task
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.metrics.rouge_l import RougeL
from fedprofit.evaluate.score import Job, judge, score
from fedprofit.personalization.finetune import FineTune
from fedprofit.runs.baselines import context_of
from fedprofit.runs.bench import Bench, prepare
from fedprofit.runs.progress import Quiet

SCHEMA: dict[str, type[pl.DataType]] = {
    "task": pl.String,
    "rows": pl.Int64,  # validation rows that are scored
    "majority": pl.Float64,  # ROUGE-L, as the following ones
    "copy_input": pl.Float64,
    "base": pl.Float64,  # the base model without a prompt
    "trained": pl.Float64,  # the task's prompt
    "skill": pl.Float64,  # trained minus the larger of majority and copy_input
    "loss": pl.Float64,  # of the task's prompt, nats per target token
    "enters": pl.Boolean,
}


@dataclass(frozen=True)
class Selection:
    """The table of tasks, best first, and how the prompts were trained."""

    table: pl.DataFrame  # SCHEMA
    trained: Central
    margin: float  # points of ROUGE-L

    @property
    def tasks(self) -> list[str]:
        """The tasks that enter a study."""
        return list(self.table.filter("enters")["task"])


def select_tasks(config: Config, margin: float = 10.0, report: Quiet | None = None) -> Selection:
    """Train and score one prompt per task of a configuration's source.

    Args:
        config: of a run. Its source, template, backbone, tuner and central baseline are used; the partition
            and the numbers of clients and examples are not.
        margin: points of ROUGE-L by which a trained prompt must exceed the trivial answers.
        report: progress reporter; silent by default.

    Raises:
        UserError: the configuration has no central baseline, or a task has too few rows to be scored.
    """
    report = report or Quiet()
    entries = config.baseline_trials.get("central", ())
    central = [entry for entry in entries if isinstance(entry, Central)]
    if not central:
        raise UserError(f"{config.name}: tasks: the prompts are trained as baselines.central is. Set it.")
    bench = prepare(_one_client_per_task(config))
    clients = list(bench.dataset.clients("train"))
    owners = {next(iter(bench.dataset.trained_tasks(client))): client for client in clients}
    rows = {task: bench.dataset.examples(client, "validation") for task, client in owners.items()}
    if empty := [task for task, examples in rows.items() if not examples]:
        raise UserError(f"{config.name}: tasks: the task {empty[0]!r} has no validation rows. Leave it out.")
    metrics = [LOSS, next((one for one in bench.scoring.metrics if isinstance(one, RougeL)), RougeL())]
    report.plan(None, len(central) + 1)
    report.begin("base model")
    base = _scored(bench, rows, metrics, None)
    best: tuple[float, Central, dict[str, dict[str, float]]] | None = None
    for entry in central:
        report.begin(f"{len(rows)} prompts, {entry.name}")
        found = _scored(bench, rows, metrics, _trained(bench, entry, owners))
        loss = sum(one[LOSS.name] for one in found.values()) / len(found)
        if best is None or loss < best[0]:
            best = (loss, entry, found)
        report.advance(1.0)
    assert best is not None
    table = [_row(bench, task, owners[task], rows[task], base, best[2], metrics[1]) for task in rows]
    frame = pl.DataFrame(table, schema={name: SCHEMA[name] for name in SCHEMA if name != "enters"})
    frame = frame.with_columns(enters=pl.col("skill") >= margin)
    return Selection(frame.sort("skill", descending=True, maintain_order=True), best[1], margin)


def _one_client_per_task(config: Config) -> Config:
    """Return the configuration with one train client for each task, which has all of the task's rows."""
    from fedprofit.data.sources import read_source

    tasks = read_source(config.data.source, config.seed)["task"].unique()
    mapping: dict[str, Any] = config.to_mapping()
    mapping["data"] |= {
        "partition": Task(hold_out="all").model_dump(mode="json"),
        "clients": {"train": len(tasks), "validation": 0, "test": 0},
        "examples": None,
        "unseen_tasks": 0,
    }
    mapping["evaluation"] |= {"regime": "participating", "validation": False}
    mapping["training"]["algorithms"] = [{"kind": "fedavg", "name": "none", "steps": 1}]
    mapping["baselines"] = dict.fromkeys(mapping["baselines"])
    mapping["personalization"] = []
    return from_mapping(mapping, config.name)


def _trained(bench: Bench, entry: Central, owners: dict[str, str]) -> Any:
    """Return the tasks' prompts `[tasks, length, width]`, trained by the central baseline's settings."""
    tuning = FineTune(
        steps=entry.steps, epochs=entry.epochs, batch_size=entry.batch_size, client=entry.client
    )
    seed = bench.config.seed
    tuned = tuning.build(bench.solver)(bench.start, list(owners.values()), bench.train_examples, seed)
    return bench.tuner.apply(tuned.points[max(tuned.points)])


def _scored(
    bench: Bench, rows: Mapping[str, Sequence[Example]], metrics: Sequence[Metric], prompts: Any
) -> dict[str, dict[str, float]]:
    """Score each task's prompt, or the base model, on the task's rows: values by task and metric."""
    if prompts is None:
        prompts = bench.tuner.apply_one(bench.tuner.empty(bench.engine.backbone)).unsqueeze(0)
    jobs = [Job(number if len(prompts) > 1 else 0, rows[task]) for number, task in enumerate(rows)]
    found = score(bench.engine, prompts, jobs, metrics, bench.config.evaluation.max_new_tokens)
    return {
        task: {name: value.value for name, value in one.values.items()}
        for task, one in zip(rows, found, strict=True)
    }


def _row(
    bench: Bench,
    task: str,
    client: str,
    rows: Sequence[Example],
    base: dict[str, dict[str, float]],
    trained: dict[str, dict[str, float]],
    rouge: Metric,
) -> dict[str, Any]:
    copy_of = CopyInput().answer(context_of(bench), [client])
    label = most_frequent(bench.train_examples(client))

    def rated(text: Callable[[Example], str | None]) -> float:
        return judge([Answer(row, nan, text(row)) for row in rows], [rouge]).values[rouge.name].value

    majority, copied = rated(lambda row: label), rated(lambda row: copy_of(client, True, row))
    own = trained[task]
    return {
        "task": task,
        "rows": len(rows),
        "majority": majority,
        "copy_input": copied,
        "base": base[task][rouge.name],
        "trained": own[rouge.name],
        "skill": own[rouge.name] - max(majority, copied),
        "loss": own[LOSS.name],
    }
