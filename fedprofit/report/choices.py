"""Output of `fedprofit recommend` and `fedprofit compare`, on the terminal and in files."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.analyze.compare import (
    SHOWN,
    Difference,
    ScoringMismatch,
    changed_origin,
    changed_settings,
    compare,
)
from fedprofit.analyze.intervals import Estimate, counted
from fedprofit.analyze.recommend import SCORES, Limit, NoneWithin, Recommendation, recommend
from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.analyze.tradeoff import KEPT
from fedprofit.core.errors import UserError
from fedprofit.core.files import write_json, write_text
from fedprofit.evaluate.metric import in_order, metric_of
from fedprofit.report.notes import omitted_metrics, print_notes, scoring_notes
from fedprofit.report.table import escape_markdown, format_interval, format_score, markdown_table
from fedprofit.runs.environment import in_words


def write_recommendation(path: Path, metric: str | None, limit: Limit, console: Console) -> None:
    """Recommend settings to ship; print them and write recommendation.json next to the results."""
    tables = open_tables(path)
    criterion = tables.metric(metric)
    found = list(recommend(tables, criterion, limit))
    recommended = [one for one in found if isinstance(one, Recommendation)]
    without = [one for one in found if isinstance(one, NoneWithin)]
    for one in recommended:
        console.print(_recommendation_table(one, criterion, limit))
        values = ", ".join(f"{name} {value:g}" for name, value in one.values.items())
        usage = f"personalize with {values}" if values else "without personalization"
        note = f"{usage}; gain and forgetting relative to {one.against}"
        console.print(note, style="dim", highlight=False)
    for each in without:
        console.print(each.reason, style="yellow", highlight=False)
    console.print(
        "Selected on the validation clients only, so their scores are slightly optimistic; the test clients "
        "only verify. Means with 95% intervals over seeds and clients. A limit is met or missed on average "
        "if the interval contains it, or if there is no interval.",
        style="dim",
        highlight=False,
    )
    others = [name for name in tables.metrics if name != criterion]
    print_notes(console, *scoring_notes(tables), *omitted_metrics(others, f"--metric {' or '.join(others)}"))
    file = path / "recommendation.json"
    write_json(
        file,
        {
            "metric": criterion,
            **vars(limit),
            "recommendations": [_to_json(one) for one in recommended],
            "none_within": [vars(each) for each in without],
        },
    )
    console.print(f"choice   {file}", soft_wrap=True, highlight=False)


def _recommendation_table(one: Recommendation, metric: str, limit: Limit) -> Table:
    cell = "".join(f"{axis} {value}: " for axis, value in one.axes.items())
    table = Table(title=f"{cell}ship {one.name}", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(metric_of(metric).named)
    table.add_column(f"expected: {sample_size(one.expected['local'], 'validation client')}")
    table.add_column(f"found: {sample_size(one.tested['local'], 'test client')}")
    for score in SCORES:
        estimates = (one.expected[score], one.tested[score])
        title = one.robustness if score == KEPT else score
        table.add_row(title, *(format_estimate(estimate, metric) for estimate in estimates))
    bound = "most" if metric_of(metric).lower_is_better else "least"
    constraint = (
        f"forgetting at most {limit.most_forgotten:g}"
        if limit.least_local is None
        else f"local score at {bound} {limit.least_local:g}"
    )
    verdict = ("met" if one.holds else "missed") + " on average" * (not one.certain)
    color = "yellow" if not one.certain else "green" if one.holds else "red"
    table.add_row(constraint, f"{one.within} of {one.options} options", Text(verdict, color))
    return table


def sample_size(estimate: Estimate, what: str) -> str:
    """Return the number of clients and seeds of an estimate, and whether they are too few for an interval.

    >>> sample_size(Estimate(12.34, None, None, 1, 4), "test client")
    '4 test clients of 1 seed, too few for an interval'
    """
    few = estimate.low is None and not estimate.unsteady and isfinite(estimate.value)
    return counted(estimate, what) + ", too few for an interval" * few


def format_estimate(estimate: Estimate, metric: str) -> str:
    """Format an estimate with its interval, to the digits of the metric.

    >>> format_estimate(Estimate(12.34, 10.0, 14.0, 3, 36), "rouge_l")
    '12.3 [10.0, 14.0]'
    >>> format_estimate(Estimate(12.34, None, None, 1, 4), "rouge_l")
    '12.3'
    """
    return format_interval(estimate.value, estimate.low, estimate.high, metric)


def _to_json(one: Recommendation) -> dict[str, object]:
    scores = {
        side: {score: estimate.plain() for score, estimate in found.items()}
        for side, found in (("expected", one.expected), ("tested", one.tested))
    }
    return {**vars(one), **scores, "name": one.name, "values": one.values}


def write_comparison(paths: Sequence[Path], metric: str | None, out: Path | None, console: Console) -> None:
    """Compare runs or studies with the first one; print the result, and write it as Markdown to `out`."""
    runs = [open_tables(path) for path in paths]
    shown = shared_metrics(runs, metric)
    unshared = [] if metric else _unshared_metrics(runs, shown)
    names = []
    for number, (path, tables) in enumerate(zip(paths, runs, strict=True)):
        made = in_words(tables.environments.values())
        changes = ", ".join([*changed_settings(paths[0], path), *changed_origin(runs[0], tables)])
        name = f"{chr(ord('A') + number)}: {path}{f' ({made})' if made else ''}"
        names.append(f"{name}{': ' if changes else ''}{changes}")
    found, refused = _compare_by_metric(runs, shown)
    console.print("\n".join(names), highlight=False)
    missing = [*refused, *unshared]
    for reason in missing:
        console.print(reason, style="yellow", highlight=False)
    for one, differences in found.items():
        console.print(_comparison_table([each for each in differences if each.is_last], one))
        smallest = min((each.better["local"] for each in differences), key=lambda each: each.clients)
        console.print(sample_size(smallest, "client"), style="dim", highlight=False)
    console.print(
        "better: improvement over A for the same clients, positive is better, with the 95% interval of a "
        "paired bootstrap. With a single seed, the interval covers other clients but not repeated training. "
        "Conditions are shown at their last step; --out writes all steps.",
        style="dim",
        highlight=False,
    )
    print_notes(console, *scoring_notes(runs[0]))
    if out is not None:
        pages = [_comparison_markdown(differences, one) for one, differences in found.items()]
        listed = "\n".join(f"- {escape_markdown(name)}" for name in names)
        notes = map(escape_markdown, [*missing, " ".join(scoring_notes(runs[0]))])
        parts = [listed, *pages, *notes]
        write_text(out, "\n\n".join(filter(None, parts)) + "\n")
        console.print(f"table    {out}", soft_wrap=True, highlight=False)


def _compare_by_metric(
    runs: Sequence[Tables], metrics: Sequence[str]
) -> tuple[dict[str, list[Difference]], list[str]]:
    """Compare by each metric; return the differences and the reasons for metrics that are not comparable.

    Raises UserError if no metric is comparable.
    """
    found: dict[str, list[Difference]] = {}
    refused: list[str] = []
    for metric in metrics:
        try:
            found[metric] = compare(runs, metric)
        except ScoringMismatch as error:
            refused.append(f"not compared by {metric}: {error}")
    if not found:
        raise UserError("\n".join(refused))
    return found, refused


def shared_metrics(runs: Sequence[Tables], requested: str | None) -> list[str]:
    """Return the metrics that all runs have, or only the requested one."""
    if requested is not None:
        for tables in runs:
            tables.metric(requested)
        return [requested]
    shared = [metric for metric in runs[0].metrics if all(metric in tables.metrics for tables in runs)]
    if not shared:
        scored = "; ".join(f"{tables.path}: {', '.join(tables.metrics)}" for tables in runs)
        raise UserError(f"compare: no metric was scored in all runs ({scored}). Compare runs that share one.")
    return shared


def _unshared_metrics(runs: Sequence[Tables], shown: Sequence[str]) -> list[str]:
    """Return notes on the metrics that only some runs have."""
    others = in_order({name for tables in runs for name in tables.metrics} - {*shown})
    having = {name: [str(tables.path) for tables in runs if name in tables.metrics] for name in others}
    return [f"not compared by {name}: only scored in {', '.join(paths)}" for name, paths in having.items()]


COLUMNS = ("", "condition", "local", "better", "others", "better")


def _table_row(one: Difference, metric: str) -> list[str]:
    row = [chr(ord("A") + one.run), ", ".join([*one.axes.values(), one.condition])]
    for scope in SHOWN:
        row.append(f"{format_score(one.first[scope], metric)} → {format_score(one.other[scope], metric)}")
        row.append(_signed(one.better[scope], metric))
    return row


def _signed(estimate: Estimate, metric: str) -> str:
    digits = metric_of(metric).digits
    if not isfinite(estimate.value):
        return "-"
    text = f"{estimate.value:+.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def _comparison_table(differences: Sequence[Difference], metric: str) -> Table:
    table = Table(title=metric_of(metric).heading, title_justify="left", title_style="bold", pad_edge=False)
    for number, title in enumerate(COLUMNS):
        table.add_column(title, overflow="fold", justify="left" if number < 2 else "right")
    for one in differences:
        table.add_row(*_table_row(one, metric))
    return table


def _comparison_markdown(differences: Sequence[Difference], metric: str) -> str:
    return markdown_table(
        metric_of(metric).heading, COLUMNS, [_table_row(one, metric) for one in differences], numbers=4
    )
