"""The trade-off as a table: for the terminal, and in Markdown and LaTeX for documents."""

import re
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

import polars as pl
import polars.selectors as cs
from rich.table import Table

from fedprofit.analyze.statistics import LEAST_CLIENTS, LEAST_SEEDS
from fedprofit.analyze.tradeoff import label
from fedprofit.core.errors import printable
from fedprofit.evaluate.metric import metric_of

Means = dict[str, Any]  # of a condition by one metric: its names, mean scores and intervals
FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # how a text begins that a spreadsheet computes
COLUMNS = {"local": "local", "global": "global", "unseen": "unseen", "gain": "gain", "forgetting": "forget"}
WRITTEN = {**{name: name for name in COLUMNS}, "worst": "worst tenth"}  # where there is room for more
EXPLANATION = (
    "local: on a client's own test examples; global: on all test clients' pool; unseen: on tasks no client "
    "has. gain and forget: what personalization adds locally and loses globally, against the federated "
    "prompt it started from. best step: of each run, where the clients' own validation loss is least. Means "
    f"over test clients; 95% intervals, where there are {LEAST_SEEDS} seeds and {LEAST_CLIENTS} clients, by "
    "a bootstrap over both."
)
WRITTEN_EXPLANATION = (
    f"{EXPLANATION} worst tenth: the mean of what the tenth of the clients that forget most lose, with the "
    "like interval."
)


def rows_of(conditions: Sequence[Means], metric: str) -> list[Means]:
    """Return the conditions worth a line: every one at its last and at its best step, each once.

    The best-on-validation prompt is left out where it is the last round's.
    """
    rows = [row for row in conditions if row["metric"] == metric]
    last: dict[tuple[Any, ...], int] = {}
    federated = {r["algorithm"]: r["step"] for r in rows if _is(r, "federated", "last")}
    for row in rows:
        key = (row["algorithm"], row["condition"], row["setting"])
        last[key] = max(last.get(key, 0), row["step"] or 0)
    return [
        row
        for row in rows
        if row["step"] in (None, last[row["algorithm"], row["condition"], row["setting"]])
        and not (_is(row, "federated", "best") and row["step"] == federated[row["algorithm"]])
    ]


def _is(row: Means, condition: str, setting: str) -> bool:
    return bool(row["condition"] == condition and row["setting"] == setting)


def cell(value: float | None, metric: str) -> str:
    """Write a number for a table; what is absent or not finite as a dash.

    >>> cell(12.345, "rouge_l"), cell(1.2345, "loss"), cell(None, "loss")
    ('12.3', '1.23', '-')
    """
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.{metric_of(metric).digits}f}"


def ranged(row: Means, key: str, metric: str) -> str:
    """Write a row's number with its 95% interval, if it has one.

    >>> ranged({"gain": 1.25, "gain_low": -0.5, "gain_high": 3.0}, "gain", "loss")
    '1.25 [-0.50, 3.00]'
    """
    return bounded(row[key], row.get(f"{key}_low"), row.get(f"{key}_high"), metric)


def bounded(value: float | None, low: float | None, high: float | None, metric: str) -> str:
    """Write a number with the ends of its interval, if it has one.

    >>> bounded(12.34, 10.0, 14.0, "rouge_l")
    '12.3 [10.0, 14.0]'
    """
    ends = "" if low is None or high is None else f" [{cell(low, metric)}, {cell(high, metric)}]"
    return cell(value, metric) + ends


def terminal_table(conditions: Sequence[Means], metric: str) -> Table:
    """Lay one metric out for a terminal of 80 columns."""
    table = Table(title=metric_of(metric).heading, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", max_width=37)
    for name in COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows_of(conditions, metric):
        group = row["algorithm"] or row["condition"]
        if previous is not None and group != previous and row["algorithm"] != previous:
            table.add_section()
        previous = group
        table.add_row(_name(row), *(cell(row[key], metric) for key in COLUMNS))
    return table


def _name(row: Means) -> str:
    stopped = f" ({row['stopped']} of {row['clients']} stopped: not finite)" if row["stopped"] else ""
    return label(row) + stopped


def markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Lay rows out as a Markdown table with its heading; the last `numbers` columns are set to the right."""
    marks = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
    lines = [
        f"### {in_markdown(title)}",
        "",
        *(f"| {' | '.join(map(in_markdown, row))} |" for row in (columns, *rows)),
    ]
    return "\n".join([*lines[:3], "|" + "|".join(marks) + "|", *lines[3:]])


def in_markdown(text: str) -> str:
    r"""Write a text so that Markdown shows it as it is, on one line: in a heading, a list or a cell.

    >>> print(in_markdown("a|b <i>`c`</i> [d](http://e) tune_1 [0.5, 1.0]"))
    a\|b &lt;i>\`c\`&lt;/i> [d]\(http\://e) tune_1 [0.5, 1.0]
    """
    one_line = re.sub(r"\s*\n\s*", " ", printable(text))
    marked = re.sub(r"[\\`*|#~$]|(?<!\w)_|_(?!\w)|(?<=])[(\[]|:(?=//)|(?<=www)\.", r"\\\g<0>", one_line)
    return re.sub(r"&(?=[\w#]+;)", "&amp;", marked).replace("<", "&lt;")


def in_spreadsheet(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts no spreadsheet takes for formulas: these get an apostrophe before them.

    Numbers, and texts that are numbers, stay as they are. So stand the names of columns.

    >>> in_spreadsheet(pl.DataFrame({"name": ["=1+1", "-1.5", "a=b"], "n": [-1, 0, 1]}))["name"].to_list()
    ["'=1+1", '-1.5', 'a=b']
    """

    def marked(text: pl.Expr) -> pl.Expr:
        formula = text.str.contains(FORMULA) & text.str.strip_chars().cast(pl.Float64, strict=False).is_null()
        return pl.when(formula).then("'" + text).otherwise(text)

    named = table.rename(lambda name: pl.select(marked(pl.lit(name))).item())
    return named.with_columns(marked(cs.string()).name.keep())


def latex(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Lay rows out as a LaTeX table with its caption, for the package booktabs."""
    marks = "l" * (len(columns) - numbers) + "r" * numbers
    lines = [" & ".join(map(in_latex, row)) + r" \\" for row in (columns, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{in_latex(title)}}}",
            rf"\begin{{tabular}}{{{marks}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def in_latex(text: str) -> str:
    r"""Write a text so that LaTeX shows it as it is.

    >>> print(in_latex("tune_1, α=0.5 & 50%"))
    tune\_1, $\alpha$=0.5 \& 50\%
    """
    return "".join(LATEX.get(character, character) for character in printable(text))


LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "α": r"$\alpha$",
}


def written_table(
    conditions: Sequence[Means], metric: str, place: str, write: Callable[..., str] = markdown
) -> str:
    """Lay one metric out at one place on a study's axes ("" for a run), as Markdown or LaTeX."""
    title = ": ".join(filter(None, [place, metric_of(metric).heading]))
    rows = [
        [_name(row), *(ranged(row, key, metric) for key in WRITTEN)] for row in rows_of(conditions, metric)
    ]
    return write(title, ["method", *WRITTEN.values()], rows, numbers=len(WRITTEN))
