"""What a federated data set looks like: counts, each client's task mix, and one number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from fedprofit.data.federated import FederatedDataset
from fedprofit.data.partition import heterogeneity
from fedprofit.data.pool import SPLITS
from fedprofit.errors import UserError


@dataclass(frozen=True)
class Description:
    """The facts of a data set that readers of a result want to know."""

    clients: dict[str, int]  # by group
    examples: dict[str, int]  # by split, over all clients
    tasks: list[str]  # tasks that some client trains on
    counts: NDArray[np.int64]  # [clients, tasks], train examples
    names: list[str]  # of the clients
    groups: list[str]  # and their groups
    heterogeneity: float  # mean total-variation distance between a client's task mix and the pool's
    unseen_examples: int

    @property
    def titles(self) -> list[str]:
        """Each client's name and group."""
        return [f"{name} ({group})" for name, group in zip(self.names, self.groups, strict=True)]

    def to_frame(self) -> pl.DataFrame:
        """Return the task mixes as a tidy table: a row per client and task that it trains on."""
        client, task = np.nonzero(self.counts)
        return pl.DataFrame(
            {
                "client": [self.names[c] for c in client],
                "group": [self.groups[c] for c in client],
                "task": [self.tasks[t] for t in task],
                "examples": self.counts[client, task],
            }
        )


def describe(dataset: FederatedDataset) -> Description:
    """Collect the facts. Reads every client once, so it is not for a million of them."""
    groups = {group: dataset.clients(group) for group in SPLITS}
    counts = dataset.task_counts()
    used = np.flatnonzero(counts.sum(0))
    group_of = {name: group for group, names in groups.items() for name in names}
    ordered = sorted(group_of)
    order = sorted(range(len(ordered)), key=lambda c: (SPLITS.index(group_of[ordered[c]]), c))
    return Description(
        clients={group: len(names) for group, names in groups.items()},
        examples={split: sum(len(dataset.pooled(group, split)) for group in SPLITS) for split in SPLITS},
        tasks=[dataset.tasks[task] for task in used],
        counts=counts[order][:, used],
        names=[ordered[c] for c in order],
        groups=[group_of[ordered[c]] for c in order],
        heterogeneity=heterogeneity(counts),
        unseen_examples=len(dataset.unseen),
    )


def summary_table(facts: Description) -> Table:
    """Lay the counts out for the terminal."""
    table = Table(title="Federated data set", title_justify="left", show_header=False)
    table.add_row("clients", ", ".join(f"{count} {group}" for group, count in facts.clients.items()))
    table.add_row("examples", ", ".join(f"{count} {split}" for split, count in facts.examples.items()))
    table.add_row("tasks", str(len(facts.tasks)))
    table.add_row("unseen-task examples", str(facts.unseen_examples))
    meaning = "0: all clients alike; mean total variation"
    if len(facts.tasks) == 1:
        meaning = "all rows are one task: name a column of tasks to tell clients apart"
    table.add_row("heterogeneity", f"{facts.heterogeneity:.3f}  ({meaning})")
    return table


def client_table(facts: Description, most: int = 20) -> Table:
    """List each client's largest tasks; `most` clients at the most."""
    table = Table(title="Task mix by client (train examples)", title_justify="left")
    table.add_column("client")
    table.add_column("examples", justify="right")
    table.add_column("tasks, largest first", overflow="fold")
    for name, row in list(zip(facts.titles, facts.counts, strict=True))[:most]:
        largest = [f"{facts.tasks[t]} {row[t]}" for t in np.argsort(-row, kind="stable")[:4] if row[t]]
        more = int((row > 0).sum()) - len(largest)
        table.add_row(name, str(row.sum()), ", ".join(largest) + (f", {more} more" if more > 0 else ""))
    if len(facts.names) > most:
        table.add_row(f"… {len(facts.names) - most} more clients", "", "")
    return table


def save_picture(facts: Description, path: Path) -> None:
    """Draw the clients' task mixes as a heat map; the ending of `path` chooses PNG, SVG or PDF.

    Raises UserError for another ending.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: a picture's name ends in .png, .svg or .pdf. Choose one of them.")
    from matplotlib.figure import Figure

    from fedprofit.files import write_figure

    share = facts.counts / np.maximum(facts.counts.sum(1, keepdims=True), 1)
    size = (min(16, 4 + 0.32 * share.shape[1]), min(14, 2.2 + 0.24 * share.shape[0]))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(facts.tasks) <= 40:
        axes.set_xticks(range(len(facts.tasks)), facts.tasks, rotation=60, ha="right", fontsize=7)
    if len(facts.names) <= 50:
        axes.set_yticks(range(len(facts.names)), facts.titles, fontsize=7)
    axes.set_xlabel("task")
    axes.set_title(
        f"Each client's task mix; heterogeneity {facts.heterogeneity:.2f}", loc="left", fontsize=10
    )
    figure.colorbar(image, label="share of the client's train examples")
    write_figure(path, figure, dpi=150)
