"""The trade-off as a table: for the terminal, and in Markdown for documents."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from fedprofit.evaluate.tradeoff import METRICS, label

COLUMNS = {"local": "local", "global": "global", "unseen": "unseen", "gain": "gain", "forgetting": "forget"}
EXPLANATION = (
    "local: on a client's own test examples; global: on all test clients' pool; unseen: on tasks no client "
    "has. gain and forget: what personalization adds locally and loses globally, against the federated "
    "prompt it started from. Means over test clients."
)


def rows_of(summary: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """Return the conditions worth a line: every one at its last step, and what is equal only once.

    The best-on-validation prompt is left out where it is the last round's.
    """
    rows = [row for row in summary["conditions"] if row["metric"] == metric]
    last: dict[tuple[Any, ...], int] = {}
    federated = {r["algorithm"]: r["step"] for r in rows if _is(r, "federated", "last")}
    for row in rows:
        key = (row["algorithm"], row["condition"], row["setting"])
        last[key] = max(last.get(key, 0), row["step"] or 0)
    return [
        row
        for row in rows
        if (row["step"] or 0) == last[row["algorithm"], row["condition"], row["setting"]]
        and not (_is(row, "federated", "best") and row["step"] == federated[row["algorithm"]])
    ]


def _is(row: dict[str, Any], condition: str, setting: str) -> bool:
    return bool(row["condition"] == condition and row["setting"] == setting)


def cell(value: float | None, metric: str) -> str:
    """Write a number for a table; an absent one as a dash.

    >>> cell(12.345, "rouge_l"), cell(1.2345, "loss"), cell(None, "loss")
    ('12.3', '1.23', '-')
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if metric == "loss" else f"{value:.1f}"


def terminal_table(summary: dict[str, Any], metric: str) -> Table:
    """Lay one metric out for a terminal of 80 columns."""
    table = Table(title=METRICS[metric], title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", max_width=37)
    for name in COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows_of(summary, metric):
        group = row["algorithm"] or row["condition"]
        if previous is not None and group != previous and row["algorithm"] != previous:
            table.add_section()
        previous = group
        table.add_row(_name(row), *[cell(row[key], metric) for key in COLUMNS])
    return table


def markdown_table(summary: dict[str, Any], metric: str) -> str:
    """Lay one metric out as a Markdown table with its heading."""
    rows = [[_name(row), *(cell(row[key], metric) for key in COLUMNS)] for row in rows_of(summary, metric)]
    return markdown(METRICS[metric], ["method", *COLUMNS], rows, numbers=len(COLUMNS))


def markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Lay rows out as a Markdown table with its heading; the last `numbers` columns are set to the right."""
    marks = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + "|".join(marks) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def metrics_of(summary: dict[str, Any]) -> list[str]:
    """Return the metrics that a run has, in the order of `METRICS`."""
    present = {row["metric"] for row in summary["conditions"]}
    return [metric for metric in METRICS if metric in present]


def _name(row: dict[str, Any]) -> str:
    stopped = f" ({row['stopped']} of {row['clients']} stopped: not finite)" if row["stopped"] else ""
    return label(row) + stopped
