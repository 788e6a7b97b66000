"""The examples on which the methods do worst, with each answer: on the terminal, in Markdown, on the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.analyze.tables import Tables, place_of
from fedprofit.analyze.tradeoff import label
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.table import cell, markdown
from fedprofit.studies.ledger import RUN

SHOWN = 8  # on the page and in worst.md
PRINTED = 2  # on the terminal
LONGEST = 240  # characters of a text
EXPLANATION = (
    "The test clients' own examples with the worst mean over the personalized methods. Each method answers "
    "at its last step."
)


@dataclass(frozen=True)
class Answer:
    """What one method makes of an example."""

    method: str
    value: str  # by the metric, as tables write it
    text: str  # "" where nothing was generated


@dataclass(frozen=True)
class WorstExample:
    """An example, and what every method makes of it."""

    place: str  # on the axes, "" for a run
    client: str
    seed: int
    task: str
    row: int  # of the data set; -1 if unknown
    input: str
    reference: str
    metric: str
    answers: list[Answer]

    @property
    def title(self) -> str:
        """Name the example."""
        row = f"row {self.row}" if self.row >= 0 else "row unknown"
        return ", ".join(filter(None, [self.place, f"client {self.client}", f"task {self.task}", row]))


def worst_of(tables: Tables, most: int = SHOWN) -> list[WorstExample]:
    """Return the worst examples of a run, or of all runs of a study, the worst first."""
    if tables.worst is None or tables.worst.is_empty():
        return []
    key = [RUN, "client", "example"]
    sign = metric_of(tables.worst["metric"][0]).sign
    means = tables.worst.select(*key, "mean", "rank").unique(maintain_order=True)
    worst_first = sign * pl.col("mean").fill_nan(-sign * float("inf"))
    ranked = means.sort(worst_first, "rank", maintain_order=True).head(most).select(key)
    own = ranked.join(tables.worst, on=key, how="left", maintain_order="left_right")
    return [_example(tables, rows) for _, rows in own.group_by(key, maintain_order=True)]


def _example(tables: Tables, rows: pl.DataFrame) -> WorstExample:
    first = rows.row(0, named=True)
    answers = [
        Answer(label(row), cell(row["value"], row["metric"]), _short(row["answer"]))
        for row in rows.iter_rows(named=True)
    ]
    place = place_of(first, tables.axes)
    texts = (_short(first["input"]), _short(first["reference"]))
    return WorstExample(
        place,
        first["client"],
        first["seed"],
        first["task"],
        first["example"],
        *texts,
        first["metric"],
        answers,
    )


def _short(text: str | None) -> str:
    """Cut a long text; its end says how many characters are left out.

    >>> _short("x" * 250)[-24:]
    'xx ... (10 more letters)'
    """
    text = text or ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more letters)"


def print_worst(console: Console, found: Sequence[WorstExample]) -> None:
    """Print the very worst examples."""
    for one in found[:PRINTED]:
        table = Table(
            title=Text(f"Worst examples: {one.title}"),
            title_justify="left",
            title_style="bold",
            pad_edge=False,
        )
        table.add_column("method", overflow="fold", max_width=30)
        table.add_column(Text(metric_of(one.metric).title), justify="right", no_wrap=True)
        table.add_column("answer", overflow="fold")
        table.add_row("input", "", one.input)
        table.add_row("reference", "", one.reference, end_section=True)
        for answer in one.answers:
            table.add_row(answer.method, answer.value, answer.text)
        console.print(table)


def written_worst(found: Sequence[WorstExample]) -> str:
    """Write worst examples as Markdown."""
    pages = [f"# Worst examples\n\n{EXPLANATION}"]
    for one in found:
        rows = [("input", "", one.input), ("reference", "", one.reference)]
        rows += [(answer.method, answer.value, answer.text) for answer in one.answers]
        pages.append(markdown(one.title, ("method", metric_of(one.metric).title, "answer"), rows))
    return "\n\n".join(pages) + "\n"
