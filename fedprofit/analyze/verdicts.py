"""Verdicts on claims: from the intervals of comparisons, corrected for the number of verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedprofit.analyze.comparison import Comparison
from fedprofit.analyze.intervals import LEVEL, holm

Verdict = Literal["supported", "not shown", "contradicted", "not tested"]
NOTHING = "the study has nothing that the claim compares"
NO_OVERLAP = "the curves reach no local score in common above their starts"


@dataclass(frozen=True)
class Finding:
    """A claim's verdict, and the comparisons that it follows from.

    Attributes:
        claim: its id.
        metric: the metric.
        verdict: corrected for the number of verdicts by this metric.
        reason: the reason in words.
        comparisons: comparisons that decide.
        beside: comparisons that are shown but do not decide.
        probability: the p-value of the verdict; 1 where there is no interval.
        corrected: the p-value after Holm's correction.
        uncorrected: the verdict without the correction.
        needs_all: whether all comparisons must agree; else one is enough if none contradicts.
    """

    claim: str
    metric: str
    verdict: Verdict
    reason: str
    comparisons: list[Comparison]
    beside: list[Comparison]
    probability: float = 1.0
    corrected: float = 1.0
    uncorrected: Verdict = "not tested"
    needs_all: bool = True


def decide(
    claim: str,
    metric: str,
    comparisons: Sequence[Comparison],
    needs_all: bool = True,
    beside: Sequence[Comparison] = (),
    untested: str = NOTHING,
) -> Finding:
    """Decide a claim by the signs of its intervals, before any correction.

    Args:
        claim: its id.
        metric: the metric.
        comparisons: comparisons that decide.
        needs_all: all must agree. Otherwise one must hold and none contradict; undefined ones are left out.
        beside: comparisons to show only.
        untested: the reason if there is no comparison.
    """
    shown = list(comparisons)

    def found(verdict: Verdict, reason: str, probability: float = 1.0) -> Finding:
        return Finding(
            claim, metric, verdict, reason, shown, list(beside), probability, probability, verdict, needs_all
        )

    if not shown:
        return found("not tested", untested)
    estimates = [one.estimate for one in shown if np.isfinite(one.estimate.value)]
    if not estimates:
        return found("not shown", NO_OVERLAP)
    if needs_all and len(estimates) < len(shown):
        return found("not shown", f"some: {NO_OVERLAP}")
    stable = [one for one in estimates if not one.unsteady]
    used = estimates if needs_all else stable
    if len(stable) < len(used) or not used:
        return found("not shown", "the effect is undefined in too many resamples")
    if any(one.low is None for one in used):
        return found("not shown", "too few seeds or clients for an interval")
    probabilities = [one.probability for one in used]
    # If all must hold, the largest p-value decides; if one is enough, correct for their number.
    probability = max(probabilities) if needs_all else min(1.0, len(used) * min(probabilities))
    signs = {one.sign for one in used}
    if signs == {1} or (not needs_all and 1 in signs and -1 not in signs):
        return found("supported", "the interval is above zero", probability)
    if signs == {-1} or (not needs_all and -1 in signs and 1 not in signs):
        return found("contradicted", "the interval is below zero", probability)
    return found(
        "not shown", "an interval contains zero" if 0 in signs else "the comparisons disagree", probability
    )


def corrected(findings: Sequence[Finding]) -> list[Finding]:
    """Correct the verdicts by one metric for their number (Holm); untested claims do not count."""
    tested = [number for number, one in enumerate(findings) if one.verdict != "not tested"]
    values = holm([findings[number].probability for number in tested])
    result = list(findings)
    for number, value in zip(tested, values, strict=True):
        one = findings[number]
        keeps = one.verdict == "not shown" or value < 1 - LEVEL
        reason = (
            one.reason if keeps else f"{one.reason}, but not after the correction for {len(tested)} verdicts"
        )
        verdict: Verdict = one.verdict if keeps else "not shown"
        result[number] = replace(one, corrected=value, verdict=verdict, reason=reason)
    return result
