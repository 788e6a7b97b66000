"""What stands under every table: how text was scored, and which metrics are not shown."""

from collections.abc import Iterable, Sequence

import polars as pl
from rich.console import Console

from fedprofit.analyze.tables import Tables, place_of
from fedprofit.evaluate.facts import Variant
from fedprofit.evaluate.metric import in_order, titles
from fedprofit.evaluate.results import axis_column
from fedprofit.evaluate.rules import recorded_facts
from fedprofit.studies.ledger import RUN


def print_notes(console: Console, *notes: str) -> None:
    """Print notes as one paragraph; nothing without any."""
    if notes:
        console.print(" ".join(notes), style="dim", highlight=False)


def scoring_notes(tables: Tables) -> list[str]:
    """Say which variants of the metrics the runs used, and which metrics have no local scores to show.

    Where runs of a study differ in a variant, each is named with the places that have it.
    """
    return [*_variants(tables), *_without_local(tables)]


def _variants(tables: Tables) -> Iterable[str]:
    places = {
        str(row[RUN]): place_of(row, tables.axes)
        for row in tables.results.select(RUN, *map(axis_column, tables.axes))
        .unique(maintain_order=True)
        .to_dicts()
    }
    known = {run: recorded_facts(tables.environments[run]) for run in places if run in tables.environments}
    for metric in tables.metrics:
        variants = {run: facts[metric].variant for run, facts in known.items() if metric in facts}
        found: dict[str, list[str]] = {}  # runs by variant
        for run, variant in variants.items():
            found.setdefault(variant.name, []).append(run)
        found.pop("", None)
        said = [_described([variants[run] for run in runs]) for runs in found.values()]
        if len(found) > 1:
            at = [" and at ".join(dict.fromkeys(places[run] for run in runs)) for runs in found.values()]
            said = [f"{what} at {where}" for what, where in zip(said, at, strict=True)]
            yield f"{'; '.join(said)}: these scores do not compare."
        elif found:
            yield f"{said[0]}."


def _described(variants: Sequence[Variant]) -> str:
    """Describe runs of one variant by the run with the largest share of affected targets."""
    worst = max(variants, key=lambda its: its.affected / max(1, its.targets))
    return worst.describe(at_most=len({its.affected for its in variants}) > 1)


def _without_local(tables: Tables) -> Iterable[str]:
    frames = [frame for frame in (tables.results, tables.validation) if frame is not None]
    # Losses of scope validation choose the best step; they are no scores to show.
    scored = [frame.filter(pl.col("scope") != "validation")["metric"].unique() for frame in frames]
    hidden = in_order({name for names in scored for name in names} - {*tables.metrics})
    if hidden:
        yield f"Not shown, for want of local scores: {titles(hidden)} (results.parquet)."


def left_out(names: Iterable[str], where: str) -> list[str]:
    """Name the metrics that a picture or table leaves out, and where they stand; nothing if there are none.

    >>> left_out(["exact_match"], "table.md")
    ['Not shown here: Exact match (table.md).']
    """
    named = titles(names)
    return [f"Not shown here: {named} ({where})."] if named else []
