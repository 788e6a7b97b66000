"""The examples with the worst scores, with the answer of each method: terminal, Markdown and page."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.analyze.tables import Tables, place_of
from fedprofit.analyze.tradeoff import label
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.table import format_score, markdown_table
from fedprofit.studies.ledger import RUN

MOST_SHOWN = 8  # examples on the page and in worst.md
MOST_PRINTED = 2  # examples on the terminal
LONGEST_TEXT = 240  # characters
EXPLANATION = (
    "The test clients' own examples with the worst mean score over the personalized methods. Answers are "
    "from each method's last step."
)


@dataclass(frozen=True)
class Answer:
    """The answer of one method to an example."""

    method: str
    value: str  # formatted score
    text: str  # "" if nothing was generated


@dataclass(frozen=True)
class WorstExample:
    """An example with the answers of all methods."""

    place: str  # grid cell; "" for a run
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
        """The example's grid cell, client, task and row."""
        row = f"row {self.row}" if self.row >= 0 else "row unknown"
        return ", ".join(filter(None, [self.place, f"client {self.client}", f"task {self.task}", row]))


def worst_examples(tables: Tables, most: int = MOST_SHOWN) -> list[WorstExample]:
    """Return the worst examples of a run, or of all runs of a study, in order from the worst."""
    if tables.worst is None or tables.worst.is_empty():
        return []
    key = [RUN, "client", "example"]
    sign = metric_of(tables.worst["metric"][0]).sign
    means = tables.worst.select(*key, "mean", "rank").unique(maintain_order=True)
    worst_first = sign * pl.col("mean").fill_nan(-sign * float("inf"))
    ranked = means.sort(worst_first, "rank", maintain_order=True).head(most).select(key)
    answers = ranked.join(tables.worst, on=key, how="left", maintain_order="left_right")
    return [_example(tables, rows) for _, rows in answers.group_by(key, maintain_order=True)]


def _example(tables: Tables, rows: pl.DataFrame) -> WorstExample:
    first = rows.row(0, named=True)
    answers = [
        Answer(label(row), format_score(row["value"], row["metric"]), _truncate(row["answer"]))
        for row in rows.iter_rows(named=True)
    ]
    place = place_of(first, tables.axes)
    texts = (_truncate(first["input"]), _truncate(first["reference"]))
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


def _truncate(text: str | None) -> str:
    """Truncate a long text and append the number of omitted characters.

    >>> _truncate("x" * 250)[-27:]
    'xx ... (10 more characters)'
    """
    text = text or ""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} ... ({len(text) - LONGEST_TEXT} more characters)"


def print_worst(console: Console, found: Sequence[WorstExample]) -> None:
    """Print the worst of the examples."""
    for one in found[:MOST_PRINTED]:
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


def worst_markdown(found: Sequence[WorstExample]) -> str:
    """Return the worst examples as Markdown."""
    pages = [f"# Worst examples\n\n{EXPLANATION}"]
    for one in found:
        rows = [("input", "", one.input), ("reference", "", one.reference)]
        rows += [(answer.method, answer.value, answer.text) for answer in one.answers]
        pages.append(markdown_table(one.title, ("method", metric_of(one.metric).title, "answer"), rows))
    return "\n\n".join(pages) + "\n"
