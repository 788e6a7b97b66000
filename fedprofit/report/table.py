"""The trade-off as a table for the terminal, and in Markdown and LaTeX."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import polars as pl
import polars.selectors as cs
from rich.table import Table

from fedprofit.analyze.intervals import LEAST_CLIENTS, LEAST_SEEDS
from fedprofit.analyze.tradeoff import label
from fedprofit.core.errors import printable
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import GLOBAL, OTHERS

Means = dict[str, Any]  # a condition by one metric: its names, mean scores and intervals
FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # start of a text that spreadsheets evaluate
KEPT_TITLES = {OTHERS: "others", GLOBAL: "global"}  # of the retained score, by its scope
COLUMNS = {
    "local": "local",
    "kept": "others",
    "unseen": "unseen",
    "gain": "gain",
    "forgetting": "forget",
    "skill": "skill",
}
# Files have no width limit.
FILE_COLUMNS = {
    "local": "local",
    "kept": "others",
    "global": "global",
    "unseen": "unseen",
    "gain": "gain",
    "forgetting": "forgetting",
    "worst": "worst tenth",
    "hurt": "share hurt",
    "skill": "local skill",
    "kept_skill": "others skill",
}
EXPLANATION = (
    "local: on a client's own test examples; others: on other clients' test examples of tasks that the "
    "client does not train on; global: on those of all test clients, shown instead where each client has all "
    "tasks; unseen: on tasks that no client has. gain: local improvement by personalization; forget: decline "
    "of others (or global); both relative to the federated prompt that it started from. skill: local score "
    "minus that of the majority label. best step: each run's step with the lowest loss on the clients' own "
    "validation examples. Scores are means over examples, then tasks, then test clients."
)
FILE_EXPLANATION = (
    f"{EXPLANATION} worst tenth: mean forgetting of the tenth of the clients that forget most. share hurt: "
    "clients whose local score personalization worsened. Intervals are 95%, over seeds and clients; they "
    f"need at least {LEAST_SEEDS} seeds and {LEAST_CLIENTS} clients."
)


def column_titles(columns: dict[str, str], conditions: Sequence[Means]) -> dict[str, str]:
    """Return the titles of the columns that have a score, with the scope of the retained score.

    >>> row = {"robustness": "global", "local": 1.0, "kept": 2.0, "global": 2.0, "gain": None}
    >>> column_titles({"local": "local", "kept": "others", "global": "global", "gain": "gain"}, [row])
    {'local': 'local', 'kept': 'global'}
    """
    scope = next((row["robustness"] for row in conditions), OTHERS)
    titles = {}
    for name, title in columns.items():
        has_scores = any(row.get(name) is not None for row in conditions)
        if has_scores and not (name == GLOBAL and scope == GLOBAL):
            titles[name] = title.replace("others", KEPT_TITLES[scope])
    return titles


def table_rows(conditions: Sequence[Means], metric: str) -> list[Means]:
    """Return each condition at its last step and at its best step.

    The federated prompt of the best round is omitted if that is the last round.
    """
    rows = [row for row in conditions if row["metric"] == metric]
    last: dict[tuple[Any, ...], int] = {}
    federated = {r["algorithm"]: r["step"] for r in rows if _has_setting(r, "federated", "last")}
    for row in rows:
        key = (row["algorithm"], row["condition"], row["setting"])
        last[key] = max(last.get(key, 0), row["step"] or 0)
    return [
        row
        for row in rows
        if row["step"] in (None, last[row["algorithm"], row["condition"], row["setting"]])
        and not (_has_setting(row, "federated", "best") and row["step"] == federated[row["algorithm"]])
    ]


def _has_setting(row: Means, condition: str, setting: str) -> bool:
    return bool(row["condition"] == condition and row["setting"] == setting)


def format_score(value: float | None, metric: str) -> str:
    """Format a score for a table; None, NaN and infinity as a dash.

    >>> format_score(12.345, "rouge_l"), format_score(1.2345, "loss"), format_score(None, "loss")
    ('12.3', '1.23', '-')
    """
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.{metric_of(metric).digits}f}"


def format_row_score(row: Means, key: str, metric: str) -> str:
    """Format a row's score with its 95% interval, if it has one.

    >>> format_row_score({"gain": 1.25, "gain_low": -0.5, "gain_high": 3.0}, "gain", "loss")
    '1.25 [-0.50, 3.00]'
    """
    return format_interval(row[key], row.get(f"{key}_low"), row.get(f"{key}_high"), metric)


def format_interval(value: float | None, low: float | None, high: float | None, metric: str) -> str:
    """Format a score with its interval, if both ends are known.

    >>> format_interval(12.34, 10.0, 14.0, "rouge_l")
    '12.3 [10.0, 14.0]'
    """
    if low is None or high is None:
        return format_score(value, metric)
    return f"{format_score(value, metric)} [{format_score(low, metric)}, {format_score(high, metric)}]"


def terminal_table(conditions: Sequence[Means], metric: str) -> Table:
    """Return the table of one metric for a terminal of 80 columns."""
    table = Table(title=metric_of(metric).heading, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", max_width=33)
    titles = column_titles(COLUMNS, [row for row in conditions if row["metric"] == metric])
    for title in titles.values():
        table.add_column(title, justify="right", no_wrap=True)
    previous = None
    for row in table_rows(conditions, metric):
        group = row["algorithm"] or row["condition"]
        if previous is not None and group != previous and row["algorithm"] != previous:
            table.add_section()
        previous = group
        table.add_row(_method_name(row), *(format_score(row[key], metric) for key in titles))
    return table


def _method_name(row: Means) -> str:
    stopped = f" ({row['stopped']} of {row['clients']} stopped: not finite)" if row["stopped"] else ""
    return label(row) + stopped


SERVING_COLUMNS = ("setting", "predictor", "passes", "prompt tokens", "bytes a client")


def serving_rows(serving: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of the cost of serving: what one answer reads, and what a client stores."""
    return [
        [one["setting"], one["predictor"], f"{one['passes']:g}", f"{one['tokens']:g}", f"{one['bytes']:,.0f}"]
        for one in serving
    ]


def serving_table(serving: Sequence[Mapping[str, Any]]) -> Table:
    """Return the cost of serving for a terminal."""
    table = Table(title="Cost of serving", title_justify="left", title_style="bold", pad_edge=False)
    for number, title in enumerate(SERVING_COLUMNS):
        table.add_column(title, overflow="fold", justify="left" if number < 2 else "right")
    for cells in serving_rows(serving):
        table.add_row(*cells)
    return table


def markdown_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0
) -> str:
    """Return a Markdown table with a heading. The last `numbers` columns are aligned right."""
    marks = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
    lines = [
        f"### {escape_markdown(title)}",
        "",
        *(f"| {' | '.join(map(escape_markdown, row))} |" for row in (columns, *rows)),
    ]
    return "\n".join([*lines[:3], "|" + "|".join(marks) + "|", *lines[3:]])


def escape_markdown(text: str) -> str:
    r"""Escape a text for a heading, list or table cell in Markdown. Line breaks become spaces.

    >>> print(escape_markdown("a|b <i>`c`</i> [d](http://e) tune_1 [0.5, 1.0]"))
    a\|b &lt;i>\`c\`&lt;/i> [d]\(http\://e) tune_1 [0.5, 1.0]
    """
    one_line = re.sub(r"\s*\n\s*", " ", printable(text))
    marked = re.sub(r"[\\`*|#~$]|(?<!\w)_|_(?!\w)|(?<=])[(\[]|:(?=//)|(?<=www)\.", r"\\\g<0>", one_line)
    return re.sub(r"&(?=[\w#]+;)", "&amp;", marked).replace("<", "&lt;")


def escape_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """Prefix texts and column names that spreadsheets evaluate as formulas with an apostrophe.

    Numbers, and texts that are numbers, are unchanged.

    >>> escape_formulas(pl.DataFrame({"name": ["=1+1", "-1.5", "a=b"], "n": [-1, 0, 1]}))["name"].to_list()
    ["'=1+1", '-1.5', 'a=b']
    """

    def escaped(text: pl.Expr) -> pl.Expr:
        formula = text.str.contains(FORMULA) & text.str.strip_chars().cast(pl.Float64, strict=False).is_null()
        return pl.when(formula).then("'" + text).otherwise(text)

    renamed = table.rename(lambda name: pl.select(escaped(pl.lit(name))).item())
    return renamed.with_columns(escaped(cs.string()).name.keep())


def latex_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a LaTeX table with a caption, for the package booktabs."""
    marks = "l" * (len(columns) - numbers) + "r" * numbers
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in (columns, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(title)}}}",
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


def escape_latex(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> print(escape_latex("tune_1, α=0.5 & 50%"))
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


def file_table(
    conditions: Sequence[Means], metric: str, cell: str, write: Callable[..., str] = markdown_table
) -> str:
    """Return the table of one metric in one grid cell of a study ("" for a run), in Markdown or LaTeX."""
    title = ": ".join(filter(None, [cell, metric_of(metric).heading]))
    titles = column_titles(FILE_COLUMNS, [row for row in conditions if row["metric"] == metric])
    rows = [
        [_method_name(row), *(_file_score(row, key, metric) for key in titles)]
        for row in table_rows(conditions, metric)
    ]
    return write(title, ["method", *titles.values()], rows, numbers=len(titles))


def _file_score(row: Means, key: str, metric: str) -> str:
    if key == "hurt":
        return "-" if row[key] is None else f"{row[key]:.0%}"
    return format_row_score(row, key, metric)
