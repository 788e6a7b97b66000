"""Describe a federated data set: counts, each client's task mix, and its heterogeneity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from fedprofit.core.errors import UserError
from fedprofit.data.federated import FederatedDataset
from fedprofit.data.partition import heterogeneity
from fedprofit.data.pool import SPLITS
from fedprofit.data.tables.reading import Remark

MOST_DRAWN = 2000  # maximum clients in a picture; it has limited lines of pixels


@dataclass(frozen=True)
class Description:
    """Facts of a data set for reports."""

    clients: dict[str, int]  # by group
    examples: dict[str, int]  # by split, over all clients
    tasks: list[str]  # tasks that some client trains on
    counts: Any  # [clients, tasks], train examples; sparse (scipy)
    names: list[str]  # of the clients
    groups: list[str]  # and their groups
    heterogeneity: float  # mean total-variation distance between a client's task mix and the pool's
    unseen_examples: int
    known_examples: int  # test examples whose task and input some client also trains on
    remarks: tuple[Remark, ...] = ()  # see `FederatedDataset.remarks`

    @property
    def titles(self) -> list[str]:
        """Each client's name and group."""
        return [f"{name} ({group})" for name, group in zip(self.names, self.groups, strict=True)]

    def to_frame(self) -> pl.DataFrame:
        """Return the task mixes as a tidy table: a row per client and trained task."""
        entries = self.counts.tocoo()
        names = {"client": self.names, "group": self.groups}
        columns = {name: pl.Series(values, dtype=pl.String)[entries.row] for name, values in names.items()}
        tasks = pl.Series(self.tasks, dtype=pl.String)[entries.col]
        return pl.DataFrame({**columns, "task": tasks, "examples": entries.data})


def describe(dataset: FederatedDataset) -> Description:
    """Collect the facts, with clients sorted by group, then by name."""
    members = [dataset.members(group) for group in SPLITS]
    counts = dataset.task_counts()[np.concatenate(members)]
    used = np.flatnonzero(counts.sum(axis=0))
    counts = counts[:, used]
    counts.sort_indices()
    return Description(
        clients={group: len(numbers) for group, numbers in zip(SPLITS, members, strict=True)},
        examples={split: sum(len(dataset.pooled(group, split)) for group in SPLITS) for split in SPLITS},
        tasks=[dataset.tasks[task] for task in used],
        counts=counts,
        names=[name for group in SPLITS for name in dataset.clients(group)],
        groups=[group for group in SPLITS for _ in dataset.members(group)],
        heterogeneity=heterogeneity(counts),
        unseen_examples=len(dataset.unseen),
        known_examples=_known(dataset),
        remarks=tuple(dataset.remarks()),
    )


def _known(dataset: FederatedDataset) -> int:
    """Count test inputs that also occur in some client's training data."""
    question_of = dataset.store.question_of
    trained, tested = (
        question_of[np.concatenate([dataset.pooled(group, split).rows for group in SPLITS])]
        for split in ("train", "test")
    )
    return int(np.isin(tested, trained).sum())


def summary_table(facts: Description) -> Table:
    """Return the counts as a table for the terminal."""
    table = Table(title="Federated data set", title_justify="left", show_header=False)
    table.add_row("clients", ", ".join(f"{count} {group}" for group, count in facts.clients.items()))
    table.add_row("examples", ", ".join(f"{count} {split}" for split, count in facts.examples.items()))
    if facts.known_examples:
        known = f"{facts.known_examples} of {facts.examples['test']}"
        table.add_row("tests trained on", f"{known}  (their inputs, by some client)")
    table.add_row("tasks", str(len(facts.tasks)))
    table.add_row("unseen-task examples", str(facts.unseen_examples))
    meaning = "0: all clients alike; mean total variation"
    if len(facts.tasks) == 1:
        meaning = "all rows are one task: name a column of tasks to compare clients"
    table.add_row("heterogeneity", f"{facts.heterogeneity:.3f}  ({meaning})")
    for what, text in facts.remarks:
        table.add_row(what, text)
    return table


def client_table(facts: Description, most: int = 20) -> Table:
    """List the largest tasks of at most `most` clients."""
    table = Table(title="Task mix by client (train examples)", title_justify="left")
    table.add_column("client")
    table.add_column("examples", justify="right")
    table.add_column("tasks, largest first", overflow="fold")
    for name, row in zip(facts.titles[:most], facts.counts[:most].toarray(), strict=True):
        largest = [f"{facts.tasks[t]} {row[t]}" for t in np.argsort(-row, kind="stable")[:4] if row[t]]
        more = int((row > 0).sum()) - len(largest)
        table.add_row(name, str(row.sum()), ", ".join(largest) + (f", {more} more" if more > 0 else ""))
    if len(facts.names) > most:
        table.add_row(f"… {len(facts.names) - most} more clients", "", "")
    return table


def save_picture(facts: Description, path: Path) -> None:
    """Draw the clients' task mixes as a heat map; the suffix of `path` selects PNG, SVG or PDF.

    Raises UserError for another suffix.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: a picture's name ends in .png, .svg or .pdf. Choose one of them.")
    from matplotlib.figure import Figure

    from fedprofit.core.files import write_figure

    drawn = np.unique(np.linspace(0, len(facts.names) - 1, MOST_DRAWN).astype(int))
    counts = facts.counts[drawn].toarray()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = (min(16, 4 + 0.32 * share.shape[1]), min(14, 2.2 + 0.24 * share.shape[0]))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(facts.tasks) <= 40:
        axes.set_xticks(range(len(facts.tasks)), facts.tasks, rotation=60, ha="right", fontsize=7)
    if len(facts.names) <= 50:
        axes.set_yticks(range(len(facts.names)), facts.titles, fontsize=7)
    if len(drawn) < len(facts.names):
        axes.set_ylabel(f"{len(drawn)} of {len(facts.names)} clients, evenly spaced")
    axes.set_xlabel("task")
    axes.set_title(
        f"Each client's task mix; heterogeneity {facts.heterogeneity:.2f}", loc="left", fontsize=10
    )
    figure.colorbar(image, label="share of the client's train examples")
    write_figure(path, figure, dpi=150)
