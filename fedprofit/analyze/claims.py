"""The paper's claims, read from a study's tables: supported, contradicted, not shown, or not tested.

Every claim compares trade-off curves *at the same local score*. Personalization moves a prompt along its
steps, from the federated prompt. Local and retained scores are means over test clients. The effect of two
curves is the mean difference of their retained scores at equal local scores, over all local scores that both
reach above their starts. It is positive where the claim holds.

An effect is averaged over the study's pairs of curves (by grid cell, algorithm and setting). Its interval is
over seeds, clients and tasks (`intervals.py`). What is compared is selected by hyperparameters, never by
names.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import polars as pl

from fedprofit.analyze.comparison import Comparison, Contrast, Pair, compare_effects
from fedprofit.analyze.curves import Setting, World
from fedprofit.analyze.draws import UnitWeights
from fedprofit.analyze.facts import (
    ALGORITHM_CLIENT,
    ALGORITHM_KIND,
    PROXIMAL,
    TUNING_CLIENT,
    TUNING_KIND,
    TUNING_RATE,
)
from fedprofit.analyze.tables import Tables, with_edges
from fedprofit.analyze.verdicts import NOTHING, Finding, corrected, decide
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.results import GLOBAL, LOCAL

SAYS = {
    "C1": "a small personalization rate with many steps retains more than a large rate with few, at the same "
    "local score",
    "C2a": "prompts trained by FedAvg with Adam retain more under personalization than those of FedAvg with "
    "SGD and of FedSGD, at the same local score",
    "C2b": "prompts trained by FedAvg with Adam forget less for the same local gain, each from its own "
    "start, than those of FedAvg with SGD and of FedSGD",
    "C3": "with few local updates, an L2 penalty on the distance to the federated prompt retains more, at "
    "the same local score",
    "C4": "with few local updates, interpolation with the federated prompt retains more than fewer steps or "
    "smaller rates, at the same local score",
    "C5": "the more heterogeneous the clients, the more is forgotten for the same local gain",
    "C6": "C1 holds more strongly for prompts that were trained with an adaptive client optimizer",
}
FEWER = 6  # times fewer steps that a large rate takes, for C1
ADAPTIVE = ("fedavg", "adam")


def check_claims(
    table: pl.DataFrame, axes: Sequence[str], metric: str, validation: pl.DataFrame | None = None
) -> list[Finding]:
    """Decide each claim by one metric, corrected for the number of claims.

    Args:
        table: the study's results.
        axes: its axes.
        metric: one of those in the table.
        validation: the validation clients' results, by which rates are selected.
    """
    world = World(table, axes, metric)
    rates = _Rates(world)
    few = _FewSteps(world, validation, axes)
    return corrected(
        [
            rates.finding(metric),
            decide("C2a", metric, list(_algorithms(world, from_start=False))),
            decide("C2b", metric, list(_algorithms(world, from_start=True))),
            decide("C3", metric, list(few.proximal_terms()), needs_all=False, untested=few.untested),
            decide("C4", metric, list(few.interpolations()), untested=few.untested),
            decide("C5", metric, list(_levels(world)), beside=_levels_by_global(table, axes, metric)),
            decide("C6", metric, list(rates.by_algorithm())),
        ]
    )


def caveats(tables: Tables) -> list[str]:
    """Say what limits the verdicts on a study: missing runs, and values selected at the edge of a grid."""
    found = []
    if tables.done < tables.planned:
        found.append(f"Only {tables.done} of the study's {tables.planned} runs are in its table.")
    if tables.trials is not None:
        chosen = with_edges(tables.trials).filter("chosen").group_by("algorithm", maintain_order=True)
        counts = chosen.agg(pl.col("edge").sum(), pl.len()).filter(pl.col("edge") > 0)
        if len(counts):
            named = ", ".join(f"{name} in {edge} of {runs}" for name, edge, runs in counts.rows())
            found.append(f"Selected at an edge of the candidates; better ones may be beyond: {named} runs.")
    return found


def _is_plain(one: Setting) -> bool:
    """Return whether a setting is fine-tuning without a proximal term."""
    return one[TUNING_KIND] == "finetune" and not one[PROXIMAL] and one[TUNING_RATE] is not None


def _rate(one: Setting) -> float:
    return float(str(one[TUNING_RATE]))


def _step(one: Setting) -> int:
    return int(str(one["step"]))


def _compare(world: World, what: str, pairs: Sequence[Pair], left_out: int = 0) -> Comparison:
    contrasts: list[Contrast] = [(pair, None) for pair in pairs]
    return compare_effects(what, contrasts, world.seeds, len(world.tasks), left_out)


class _Rates:
    """C1 and C6: the smallest rate against each larger one, in every cell, algorithm and client optimizer."""

    def __init__(self, world: World) -> None:
        self.world = world
        groups: dict[tuple[object, ...], list[Setting]] = {}
        key: tuple[object, ...]
        for one in world.settings():
            if _is_plain(one):
                key = (one["cell"], one["algorithm"], one["start"], one[TUNING_CLIENT])
                groups.setdefault(key, []).append(one)
        everyone = UnitWeights(np.ones((1, len(world.seeds))))
        # Pairs of curves by (smallest, larger) rate, and by what else is the same in both.
        self.pairs: dict[tuple[float, float], dict[tuple[object, ...], Pair]] = {}
        self.adaptive: dict[object, bool] = {}
        for key, members in groups.items():
            ordered = sorted(members, key=lambda one: (_rate(one), -_step(one)))
            smallest = world.along_steps(ordered[0])
            for one in {_rate(one): one for one in ordered[1:] if _rate(one) > _rate(ordered[0])}.values():
                larger = world.along_steps(one)
                local = larger.mean(everyone)[0][0]
                if local.max() > local[0]:
                    rates = (_rate(ordered[0]), _rate(one))
                    self.pairs.setdefault(rates, {})[key] = (smallest, larger)
            self.adaptive[key[1]] = (ordered[0][ALGORITHM_KIND], ordered[0][ALGORITHM_CLIENT]) == ADAPTIVE
        self.compared = {rates: self._compare(rates) for rates in sorted(self.pairs)}

    def _compare(self, rates: tuple[float, float]) -> Comparison:
        what = f"rate {rates[0]:g} against {rates[1]:g}"
        return _compare(self.world, what, list(self.pairs[rates].values()))

    @property
    def eligible(self) -> list[tuple[float, float]]:
        """The pairs of rates of which the larger needs at least six times fewer steps, the largest first."""
        enough = [rates for rates, one in self.compared.items() if (one.steps or 0.0) >= FEWER]
        return sorted(enough, key=lambda rates: rates[1], reverse=True)

    def finding(self, metric: str) -> Finding:
        """Decide C1 by the largest eligible rate; other rates are shown but do not decide."""
        rates = self.eligible[:1]
        others = [one for other, one in self.compared.items() if other not in rates]
        untested = f"no larger rate reaches the same gain in {FEWER} times fewer steps" if others else NOTHING
        return decide("C1", metric, [self.compared[one] for one in rates], beside=others, untested=untested)

    def by_algorithm(self) -> Iterator[Comparison]:
        """Yield, for C6, C1's effect for adaptive client optimizers minus that for another algorithm.

        The rates are the largest eligible ones that both algorithms have.
        """
        adaptives = [name for name, is_adaptive in self.adaptive.items() if is_adaptive]
        others = [name for name, is_adaptive in self.adaptive.items() if not is_adaptive]
        for adaptive, other in product(adaptives, others):
            by_rates = (self._contrasts(rates, adaptive, other) for rates in self.eligible)
            contrasts = next(filter(None, by_rates), None)
            if contrasts:
                what = f"{adaptive} minus {other}"
                yield compare_effects(what, contrasts, self.world.seeds, len(self.world.tasks))

    def _contrasts(self, rates: tuple[float, float], adaptive: object, other: object) -> list[Contrast]:
        """Return the pairs of curves of two algorithms with the same rates, in the same cell and setting."""
        pairs = self.pairs[rates]
        return [
            (pair, pairs[cell, other, *rest])
            for (cell, algorithm, *rest), pair in pairs.items()
            if algorithm == adaptive and (cell, other, *rest) in pairs
        ]


def _algorithms(world: World, from_start: bool) -> Iterator[Comparison]:
    """Yield FedAvg with Adam against FedAvg with SGD and FedSGD, under the same personalization.

    With `from_start`, curves are compared as gains and losses from their own starts.
    """
    found = {(one["cell"], one["algorithm"], one["setting"], one["start"]): one for one in world.settings()}
    kinds = {one["algorithm"]: (one[ALGORITHM_KIND], one[ALGORITHM_CLIENT]) for one in found.values()}
    adaptives = [name for name, kind in kinds.items() if kind == ADAPTIVE]
    others = [name for name, kind in kinds.items() if kind == ("fedavg", "sgd") or kind[0] == "fedsgd"]
    for adaptive, other in product(adaptives, others):
        pairs = []
        for (cell, algorithm, setting, start), one in found.items():
            against = found.get((cell, other, setting, start))
            if algorithm == adaptive and against is not None and _is_plain(one):
                pair = (world.along_steps(one), world.along_steps(against))
                pairs.append((pair[0].from_start(), pair[1].from_start()) if from_start else pair)
        if pairs:
            yield _compare(world, f"{adaptive} against {other}", pairs)


class _FewSteps:
    """C3 and C4: settings with few steps, at the rate that the validation clients select."""

    def __init__(self, world: World, validation: pl.DataFrame | None, axes: Sequence[str]) -> None:
        self.world = world
        self.untested = NOTHING
        losses = {} if validation is None else _validation_losses(validation, axes)
        groups: dict[tuple[object, ...], list[Setting]] = {}
        for one in world.settings():
            if _is_plain(one):
                groups.setdefault(self._key(one), []).append(one)
        few = {self._key(one) for one in world.settings() if one[PROXIMAL]}
        few |= {self._key(one) for one in world.settings() if int(str(one["alpha"])) > 1 and _is_plain(one)}
        self.plain = {key: members for key, members in groups.items() if key in few}
        self.selected: dict[tuple[object, ...], Setting] = {}
        for key, members in self.plain.items():
            if len(members) == 1:
                self.selected[key] = members[0]
                continue
            names = {(one["cell"], one["algorithm"], one["setting"], one["start"]): one for one in members}
            known = {name: losses[name] for name in names if name in losses}
            if known:
                self.selected[key] = names[min(known, key=lambda name: known[name])]
            else:
                self.untested = "no validation clients were personalized, so that no rate is selected"

    @staticmethod
    def _key(one: Setting) -> tuple[object, ...]:
        return tuple(one[name] for name in ("cell", "algorithm", "start", TUNING_CLIENT, "step"))

    def proximal_terms(self) -> Iterator[Comparison]:
        """Yield each proximal weight against none, at the selected rate."""
        weights: dict[float, list[Pair]] = {}
        for one in self.world.settings():
            plain = self.selected.get(self._key(one))
            if plain and one[TUNING_KIND] == "finetune" and one[PROXIMAL] and _rate(one) == _rate(plain):
                pair = (self.world.along_steps(one), self.world.along_steps(plain))
                weights.setdefault(float(str(one[PROXIMAL])), []).append(pair)
        for weight, pairs in sorted(weights.items()):
            yield _compare(self.world, f"proximal weight {weight:g} against none", pairs)

    def interpolations(self) -> Iterator[Comparison]:
        """Yield interpolation at the selected rate against its own steps, and against all smaller rates.

        Curves without a point between their ends are left out: no prompt is known to be on the straight line.
        """
        along, smaller, left_out = [], [], 0
        for key, one in self.selected.items():
            if int(str(one["alpha"])) < 2:
                continue
            mixed, steps = self.world.along_alpha(one), self.world.along_steps(one)
            if len(steps.local) > 2:
                along.append((mixed, steps))
            else:
                left_out += 1
            smaller += [
                (mixed, self.world.along_steps(other))
                for other in self.plain[key]
                if _rate(other) < _rate(one)
            ]
        if along:
            yield _compare(self.world, "interpolation against fewer steps", along, left_out)
        if smaller:
            yield _compare(self.world, "interpolation against smaller rates", smaller)


def _validation_losses(validation: pl.DataFrame, axes: Sequence[str]) -> dict[tuple[object, ...], float]:
    """Return the validation clients' mean local loss at the end of each setting, by cell and names."""
    world = World(validation, axes, LOSS.name)
    ends = world.wide.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0)
    keys = ["cell", "algorithm", "setting", "start"]
    ends = ends.filter(pl.col("step") == pl.col("step").max().over(keys))
    return {tuple(names): loss for *names, loss in ends.group_by(keys).agg(pl.col(LOCAL).mean()).rows()}


def _levels_by_global(table: pl.DataFrame, axes: Sequence[str], metric: str) -> list[Comparison]:
    """Compare levels by the global score, including those where others is undefined."""
    world = World(table, axes, metric)
    if set(world.robustness.values()) == {GLOBAL}:
        return []
    return list(_levels(World(table, axes, metric, dict.fromkeys(world.robustness, GLOBAL))))


def _levels(world: World) -> Iterator[Comparison]:
    """Yield the most against the least heterogeneous level, by the loss at the same gain."""
    keys = ("cell", "algorithm", "setting", "start")
    settings = {tuple(one[key] for key in keys): one for one in world.settings() if _is_plain(one)}
    titled: dict[str, list[Pair]] = {}
    for high, low, title in world.extremes():
        for (cell, *names), one in settings.items():
            against = settings.get((low, *names))
            if cell == high and against is not None:
                # Positive where the more heterogeneous clients lose more.
                less, more = world.in_same_seeds(world.along_steps(against), world.along_steps(one))
                titled.setdefault(title, []).append((less.from_start(), more.from_start()))
    for title, pairs in titled.items():
        yield _compare(world, title, pairs)
