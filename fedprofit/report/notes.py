"""Notes below every table: how text was scored, and which metrics are not shown."""

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
    """Print notes as one paragraph. Without notes, print nothing."""
    if notes:
        console.print(" ".join(notes), style="dim", highlight=False)


def scoring_notes(tables: Tables) -> list[str]:
    """Return notes on the metric variants that the runs used, and on metrics without local scores.

    If the runs of a study used several variants, each is listed with its grid cells.
    """
    return [*_variants(tables), *_without_local(tables)]


def _variants(tables: Tables) -> Iterable[str]:
    cells = {
        str(row[RUN]): place_of(row, tables.axes)
        for row in tables.results.select(RUN, *map(axis_column, tables.axes))
        .unique(maintain_order=True)
        .to_dicts()
    }
    known = {run: recorded_facts(tables.environments[run]) for run in cells if run in tables.environments}
    for metric in tables.metrics:
        variants = {run: facts[metric].variant for run, facts in known.items() if metric in facts}
        found: dict[str, list[str]] = {}  # runs by variant
        for run, variant in variants.items():
            found.setdefault(variant.name, []).append(run)
        found.pop("", None)
        texts = [_describe([variants[run] for run in runs]) for runs in found.values()]
        if len(found) > 1:
            used_at = [" and at ".join(dict.fromkeys(cells[run] for run in runs)) for runs in found.values()]
            texts = [f"{text} at {names}" for text, names in zip(texts, used_at, strict=True)]
            yield f"{'; '.join(texts)}: these scores are not comparable."
        elif found:
            yield f"{texts[0]}."


def _describe(variants: Sequence[Variant]) -> str:
    """Describe runs of one variant by the run with the largest share of affected targets."""
    worst = max(variants, key=lambda variant: variant.affected / max(1, variant.targets))
    return worst.describe(at_most=len({variant.affected for variant in variants}) > 1)


def _without_local(tables: Tables) -> Iterable[str]:
    frames = [frame for frame in (tables.results, tables.validation) if frame is not None]
    # Losses of scope validation only select the best step; reports do not show them.
    scored = [frame.filter(pl.col("scope") != "validation")["metric"].unique() for frame in frames]
    hidden = in_order({name for names in scored for name in names} - {*tables.metrics})
    if hidden:
        yield f"Not shown, no local scores: {titles(hidden)} (results.parquet)."


def omitted_metrics(names: Iterable[str], location: str) -> list[str]:
    """Return a note that names omitted metrics and where to find them; no note without omitted metrics.

    >>> omitted_metrics(["exact_match"], "table.md")
    ['Not shown here: Exact match (table.md).']
    """
    omitted = titles(names)
    return [f"Not shown here: {omitted} ({location})."] if omitted else []
