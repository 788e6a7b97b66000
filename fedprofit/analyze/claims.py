"""The paper's claims, read from a study's table: supported, not shown, or contradicted.

Every claim compares trade-off curves *at the same local score*. Personalization moves a prompt along its
steps, from the federated prompt on; local and global scores are means over test clients. Between two such
curves stands the mean difference of their global scores, taken where their local scores are equal, over
all local scores that both reach above their starts. It is positive where the claim says so.

A difference is averaged over the study's pairs of curves (by heterogeneity, algorithm, setting) that reach
such local scores, in the sample and in nearly all resamples, and bootstrapped over the seeds and clients of
these pairs (see `evaluate/statistics.py`); its interval alone decides. How many pairs that were, of how many,
is always said beside it, and how many of them are known at their ends alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import polars as pl

from fedprofit.analyze.curves import Comparison, Curve, World
from fedprofit.analyze.facts import (
    ALGORITHM_CLIENT,
    ALGORITHM_KIND,
    PROXIMAL,
    TUNING_CLIENT,
    TUNING_KIND,
    TUNING_RATE,
)
from fedprofit.analyze.tables import Tables, with_edges

Setting = dict[str, object]  # of `World.settings`
Verdict = Literal["supported", "not shown", "contradicted", "not tested"]

SAYS = {
    "C1": "a small personalization rate with many steps keeps more of the global score than a large rate "
    "with few, at the same local score",
    "C2": "prompts trained by FedAvg with Adam keep more under personalization than those of FedAvg with SGD "
    "and of FedSGD, at the same local score",
    "C3": "with few local updates, an L2 pull to the federated prompt keeps more of the global score, at the "
    "same local score",
    "C4": "with few local updates, interpolating with the federated prompt keeps more of the global score, "
    "at the same local score",
    "C5": "the more heterogeneous the clients, the more is forgotten for the same local gain",
}
NOTHING = "the study has nothing that the claim compares"


@dataclass(frozen=True)
class Finding:
    """A claim's verdict, and the comparisons that it follows from."""

    claim: str
    metric: str
    verdict: Verdict
    reason: str
    comparisons: list[Comparison]


def check_claims(table: pl.DataFrame, axes: Sequence[str], metric: str) -> list[Finding]:
    """Read the verdict on each claim from a study's table, by one metric.

    What is compared is selected by hyperparameters (FACTS), never by names.
    """
    world = World(table, axes, metric)
    return [
        _finding("C1", metric, list(_rates(world)), needs_all=True),
        _finding("C2", metric, list(_algorithms(world)), needs_all=True),
        _finding("C3", metric, list(_proximal_terms(world)), needs_all=False),
        _finding("C4", metric, list(_interpolations(world)), needs_all=True, untested=_without_way(world)),
        _finding("C5", metric, list(_levels(world)), needs_all=True),
    ]


def caveats(tables: Tables) -> list[str]:
    """Say what the verdicts on a study do not show: what is missing, chosen at an edge, or due to chance."""
    said = []
    if tables.done < tables.planned:
        said.append(f"Only {tables.done} of the study's {tables.planned} runs are in its table.")
    if tables.trials is not None:
        chosen = with_edges(tables.trials).filter("chosen").group_by("algorithm", maintain_order=True)
        counts = chosen.agg(pl.col("edge").sum(), pl.len()).filter(pl.col("edge") > 0)
        if len(counts):
            named = ", ".join(f"{name} in {edge} of {runs}" for name, edge, runs in counts.rows())
            said.append(
                f"Chosen at an edge of the values tried, beyond which better ones may lie: {named} runs."
            )
    count = len(SAYS) * len(tables.metrics)
    said.append(f"{count} verdicts, each by 95% intervals of its own: nothing is corrected for their number.")
    return said


def _is_plain(one: Setting) -> bool:
    """Tell whether a setting is fine-tuning without a proximal term."""
    return one[TUNING_KIND] == "finetune" and not one[PROXIMAL]


def _rates(world: World) -> Iterator[Comparison]:
    """The smallest against the largest rate, in every cell, algorithm and client optimizer."""
    groups: dict[tuple[object, ...], list[Setting]] = {}
    for one in world.settings():
        if _is_plain(one) and one[TUNING_RATE] is not None:
            groups.setdefault((one["cell"], one["algorithm"], one["start"], one[TUNING_CLIENT]), []).append(
                one
            )
    pairs, rates = [], set()
    for members in groups.values():
        ordered = sorted(members, key=lambda one: (float(str(one[TUNING_RATE])), -int(str(one["step"]))))
        low, high = ordered[0], ordered[-1]
        if low[TUNING_RATE] != high[TUNING_RATE]:
            rates.add((low[TUNING_RATE], high[TUNING_RATE]))
            pairs.append((world.along_steps(low), world.along_steps(high)))
    if pairs:
        named = "; ".join(f"rate {low:g} against {high:g}" for low, high in sorted(rates))
        yield world.compare(named, pairs)


def _algorithms(world: World) -> Iterator[Comparison]:
    """FedAvg with Adam against FedAvg with SGD and FedSGD, under the same personalization."""
    found = {(one["cell"], one["algorithm"], one["setting"], one["start"]): one for one in world.settings()}
    kinds = {str(one["algorithm"]): (one[ALGORITHM_KIND], one[ALGORITHM_CLIENT]) for one in found.values()}
    adaptives = [name for name, kind in kinds.items() if kind == ("fedavg", "adam")]
    others = [name for name, kind in kinds.items() if kind == ("fedavg", "sgd") or kind[0] == "fedsgd"]
    for adaptive, other in product(adaptives, others):
        pairs = []
        for (cell, algorithm, setting, start), one in found.items():
            against = found.get((cell, other, setting, start))
            if algorithm == adaptive and against is not None:
                pairs.append((world.along_steps(one), world.along_steps(against)))
        if pairs:
            yield world.compare(f"{adaptive} against {other}", pairs)


def _proximal_terms(world: World) -> Iterator[Comparison]:
    """Each proximal weight against none, at the same optimizer, rate, steps, algorithm and cell."""
    keys = ("cell", "algorithm", "start", TUNING_CLIENT, TUNING_RATE, "step")
    plain: dict[tuple[object, ...], list[Setting]] = {}
    for one in world.settings():
        if _is_plain(one):
            plain.setdefault(tuple(one[key] for key in keys), []).append(one)
    weights: dict[float, list[tuple[Curve, Curve]]] = {}
    for one in world.settings():
        against = plain.get(tuple(one[key] for key in keys), [])
        # Of several, it is undetermined which differs in the proximal term only.
        if one[TUNING_KIND] == "finetune" and one[PROXIMAL] and len(against) == 1:
            pair = (world.along_steps(one), world.along_steps(against[0]))
            weights.setdefault(float(str(one[PROXIMAL])), []).append(pair)
    for weight, pairs in sorted(weights.items()):
        yield world.compare(f"pull {weight:g} against none", pairs)


def _interpolations(world: World) -> Iterator[Comparison]:
    """Interpolation from the last step back, against the way along the steps, where that is known.

    Between its ends alone the way would be a straight line, which no prompt was ever on.
    """
    found = [one for one in world.settings() if int(str(one["alpha"])) > 1 and _is_plain(one)]
    every = [(world.along_alpha(one), world.along_steps(one)) for one in found]
    pairs = [(mixed, way) for mixed, way in every if len(way.local) > 2]
    if pairs:
        yield world.compare("interpolation against the steps", pairs, blind=len(every) - len(pairs))


def _without_way(world: World) -> str:
    """Say why interpolation is held against nothing."""
    mixed = any(int(str(one["alpha"])) > 1 and _is_plain(one) for one in world.settings())
    return "interpolation was scored, and no step between start and end" if mixed else NOTHING


def _levels(world: World) -> Iterator[Comparison]:
    """The most heterogeneous level against the least, all else equal, by what is lost for the same gain."""
    keys = ("cell", "algorithm", "setting", "start")
    settings = {tuple(one[key] for key in keys): one for one in world.settings()}
    pairs, titles = [], []
    for high, low, title in world.extremes():
        for (cell, *names), one in settings.items():
            against = settings.get((low, *names))
            if cell == high and against is not None:
                # What the less heterogeneous keep more is what the more heterogeneous lose more.
                calm, rough = world.in_same_seeds(world.along_steps(against), world.along_steps(one))
                pairs.append((calm.from_start(), rough.from_start()))
                titles.append(title)
    if pairs:
        yield world.compare("; ".join(dict.fromkeys(titles)), pairs)


def _finding(
    claim: str, metric: str, comparisons: list[Comparison], needs_all: bool, untested: str = NOTHING
) -> Finding:
    """Decide by the intervals' sides of zero.

    All must agree, or, where each is a way to do what the claim says, one must hold and none speak against:
    then one that cannot be told counts as little as one that is not there.
    """

    def found(verdict: Verdict, reason: str) -> Finding:
        return Finding(claim, metric, verdict, reason, comparisons)

    if not comparisons:
        return found("not tested", untested)
    told = [c.estimate for c in comparisons if np.isfinite(c.estimate.value)]
    if not told:
        return found("not shown", "the curves reach no local score in common above their starts")
    if needs_all and len(told) < len(comparisons):
        return found("not shown", "some curves reach no local score in common above their starts")
    steady = [estimate for estimate in told if not estimate.unsteady]
    told = told if needs_all else steady
    if len(steady) < len(told) or not told:
        return found("not shown", "too many resamples reach no local score in common above their starts")
    if any(estimate.low is None for estimate in told):
        return found("not shown", "too few seeds or clients for an interval")
    signs = [estimate.sign for estimate in told]
    if set(signs) == {1} or (not needs_all and 1 in signs and -1 not in signs):
        return found("supported", "the interval lies above zero")
    if set(signs) == {-1} or (not needs_all and -1 in signs and 1 not in signs):
        return found("contradicted", "the interval lies below zero")
    return found("not shown", "an interval holds zero" if 0 in signs else "the comparisons disagree")
