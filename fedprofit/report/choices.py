"""What `fedprofit recommend` and `fedprofit compare` say on the terminal, and the files that say the same."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.analyze.compare import (
    Difference,
    ScoredOtherwise,
    changed_settings,
    compare,
    made_otherwise,
)
from fedprofit.analyze.recommend import SCORES, Limit, NoneWithin, Recommendation, recommend
from fedprofit.analyze.statistics import Estimate, counted
from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.core.errors import UserError
from fedprofit.core.files import write_json, write_text
from fedprofit.evaluate.metric import in_order, metric_of
from fedprofit.report.notes import left_out, print_notes, scoring_notes
from fedprofit.report.table import bounded, cell, in_markdown, markdown
from fedprofit.runs.environment import in_words


def write_recommendation(path: Path, metric: str | None, limit: Limit, console: Console) -> None:
    """Recommend what to ship; print it and write recommendation.json beside the results."""
    tables = open_tables(path)
    chosen_by = tables.metric(metric)
    found = list(recommend(tables, chosen_by, limit))
    chosen = [one for one in found if isinstance(one, Recommendation)]
    without = [one for one in found if isinstance(one, NoneWithin)]
    for one in chosen:
        console.print(_recommended(one, chosen_by, limit))
        values = ", ".join(f"{name} {value:g}" for name, value in one.values.items())
        said = f"personalize with {values}; " if values else "as it is, not personalized; "
        console.print(f"{said}gain and forgetting against {one.against}", style="dim", highlight=False)
    for each in without:
        console.print(each.reason, style="yellow", highlight=False)
    console.print(
        "Chosen on the validation clients alone, so that their scores are a winner's and a little too good; "
        "the test clients only check. Means with 95% intervals over seeds and clients; a limit is kept or "
        "missed on average where the interval, if there is one, lies on both sides of it.",
        style="dim",
        highlight=False,
    )
    others = [name for name in tables.metrics if name != chosen_by]
    print_notes(console, *scoring_notes(tables), *left_out(others, f"--metric {' or '.join(others)}"))
    file = path / "recommendation.json"
    write_json(
        file,
        {
            "metric": chosen_by,
            **vars(limit),
            "recommendations": [_plain(one) for one in chosen],
            "none_within": [vars(each) for each in without],
        },
    )
    console.print(f"choice   {file}", soft_wrap=True, highlight=False)


def _recommended(one: Recommendation, metric: str, limit: Limit) -> Table:
    place = "".join(f"{axis} {value}: " for axis, value in one.axes.items())
    table = Table(title=f"{place}ship {one.name}", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(metric_of(metric).named)
    table.add_column(f"expected: {behind(one.expected['local'], 'validation client')}")
    table.add_column(f"found: {behind(one.tested['local'], 'test client')}")
    for score in SCORES:
        table.add_row(score, interval(one.expected[score], metric), interval(one.tested[score], metric))
    bound = "most" if metric_of(metric).lower_is_better else "least"
    wanted = (
        f"forgetting at most {limit.most_forgotten:g}"
        if limit.least_local is None
        else f"local score at {bound} {limit.least_local:g}"
    )
    verdict = ("kept" if one.holds else "missed") + " on average" * (not one.certain)
    color = "yellow" if not one.certain else "green" if one.holds else "red"
    table.add_row(wanted, f"{one.within} of {one.options} options", Text(verdict, color))
    return table


def behind(estimate: Estimate, what: str) -> str:
    """Say how many seeds and clients are behind an estimate, and whether they are too few for an interval.

    >>> behind(Estimate(12.34, None, None, 1, 4), "test client")
    '4 test clients of 1 seed, too few for an interval'
    """
    few = estimate.low is None and not estimate.unsteady and isfinite(estimate.value)
    return counted(estimate, what) + ", too few for an interval" * few


def interval(estimate: Estimate, metric: str) -> str:
    """Write an estimate with its interval, in the metric's own digits.

    >>> interval(Estimate(12.34, 10.0, 14.0, 3, 36), "rouge_l")
    '12.3 [10.0, 14.0]'
    >>> interval(Estimate(12.34, None, None, 1, 4), "rouge_l")
    '12.3'
    """
    return bounded(estimate.value, estimate.low, estimate.high, metric)


def _plain(one: Recommendation) -> dict[str, object]:
    scores = {
        side: {score: estimate.plain() for score, estimate in found.items()}
        for side, found in (("expected", one.expected), ("tested", one.tested))
    }
    return {**vars(one), **scores, "name": one.name, "values": one.values}


def write_comparison(paths: Sequence[Path], metric: str | None, out: Path | None, console: Console) -> None:
    """Compare runs or studies with the first of them; print it, and write it as Markdown where asked for."""
    runs = [open_tables(path) for path in paths]
    shown = metrics_of_all(runs, metric)
    unshared = [] if metric else _not_of_all(runs, shown)
    names = []
    for number, (path, tables) in enumerate(zip(paths, runs, strict=True)):
        made = in_words(tables.environments.values())
        changes = ", ".join([*changed_settings(paths[0], path), *made_otherwise(runs[0], tables)])
        name = f"{chr(ord('A') + number)}: {path}{f' ({made})' if made else ''}"
        names.append(f"{name}{': ' if changes else ''}{changes}")
    found, refused = _by_metric(runs, shown)
    console.print("\n".join(names), highlight=False)
    missing = [*refused, *unshared]
    for reason in missing:
        console.print(reason, style="yellow", highlight=False)
    for one, differences in found.items():
        console.print(_compared([each for each in differences if each.is_last], one))
        fewest = min((each.better["local"] for each in differences), key=lambda each: each.clients)
        console.print(behind(fewest, "client"), style="dim", highlight=False)
    console.print(
        "better: how much better the other is than A for the same clients, positive is better, with the 95% "
        "interval of the paired bootstrap. Over a single seed it speaks of other clients, not of another "
        "training. Conditions at their last step; --out writes all.",
        style="dim",
        highlight=False,
    )
    print_notes(console, *scoring_notes(runs[0]))
    if out is not None:
        pages = [_compared_markdown(differences, one) for one, differences in found.items()]
        listed = "\n".join(f"- {in_markdown(name)}" for name in names)
        parts = [listed, *pages, *map(in_markdown, missing), in_markdown(" ".join(scoring_notes(runs[0])))]
        write_text(out, "\n\n".join(filter(None, parts)) + "\n")
        console.print(f"table    {out}", soft_wrap=True, highlight=False)


def _by_metric(
    runs: Sequence[Tables], metrics: Sequence[str]
) -> tuple[dict[str, list[Difference]], list[str]]:
    """Compare by each metric; say why where one does not compare, unless none does."""
    found: dict[str, list[Difference]] = {}
    refused: list[str] = []
    for metric in metrics:
        try:
            found[metric] = compare(runs, metric)
        except ScoredOtherwise as error:
            refused.append(f"not by {metric}: {error}")
    if not found:
        raise UserError("\n".join(refused))
    return found, refused


def metrics_of_all(runs: Sequence[Tables], asked: str | None) -> list[str]:
    """Return the metrics that all runs have, or the one asked for."""
    if asked is not None:
        for tables in runs:
            tables.metric(asked)
        return [asked]
    shared = [metric for metric in runs[0].metrics if all(metric in tables.metrics for tables in runs)]
    if not shared:
        scored = "; ".join(f"{tables.path}: {', '.join(tables.metrics)}" for tables in runs)
        raise UserError(f"compare: no metric was scored in all ({scored}). Compare runs that share one.")
    return shared


def _not_of_all(runs: Sequence[Tables], shown: Sequence[str]) -> list[str]:
    """Name the metrics that only some runs have."""
    others = in_order({name for tables in runs for name in tables.metrics} - {*shown})
    having = {name: [str(tables.path) for tables in runs if name in tables.metrics] for name in others}
    return [f"not by {name}: only scored in {', '.join(paths)}" for name, paths in having.items()]


TITLES = ("", "condition", "local", "better", "global", "better")


def _cells(one: Difference, metric: str) -> list[str]:
    found = [chr(ord("A") + one.run), ", ".join([*one.axes.values(), one.condition])]
    for scope in ("local", "global"):
        found.append(f"{cell(one.first[scope], metric)} → {cell(one.other[scope], metric)}")
        found.append(_signed(one.better[scope], metric))
    return found


def _signed(estimate: Estimate, metric: str) -> str:
    digits = metric_of(metric).digits
    if not isfinite(estimate.value):
        return "-"
    text = f"{estimate.value:+.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def _compared(differences: Sequence[Difference], metric: str) -> Table:
    table = Table(title=metric_of(metric).heading, title_justify="left", title_style="bold", pad_edge=False)
    for number, title in enumerate(TITLES):
        table.add_column(title, overflow="fold", justify="left" if number < 2 else "right")
    for one in differences:
        table.add_row(*_cells(one, metric))
    return table


def _compared_markdown(differences: Sequence[Difference], metric: str) -> str:
    return markdown(
        metric_of(metric).heading, TITLES, [_cells(one, metric) for one in differences], numbers=4
    )
