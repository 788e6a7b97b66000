"""Facts about metrics and data sets: what reports show of a metric, and what a metric may choose by.

The facts of a run's metrics are stored with its results, so that reports need no plug-in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from typing import Any


@dataclass(frozen=True)
class DataFacts:
    """What a metric may know of a data set when it decides a setting `auto`.

    All references of all rows count, also of rows that no client has. So neither the partition nor the seed
    of the clients matters.
    """

    source: str = ""  # kind of the data source
    targets: int = 0  # references
    unread_targets: int = 0  # those that `rouge-score`'s tokenizer cannot read, or only in part
    is_users_own: bool = True  # not of a benchmark with a scoring of its own
    unread_share: float = 0.0  # of the targets that `rouge-score`'s tokenizer may fail to read


@dataclass(frozen=True)
class Variant:
    """How a metric was computed, where there are several ways.

    >>> Variant("a", "BLEU: tokenizer a", "which cannot read {count}", 2, 9).describe()
    'BLEU: tokenizer a, which cannot read 2 of the 9 targets'
    """

    name: str = ""  # scores of different variants do not compare; "" where there is only one
    text: str = ""  # one sentence without period
    limit: str = ""  # continues the text where targets are affected; {count} stands for how many
    affected: int = 0
    targets: int = 0

    def describe(self, at_most: bool = False) -> str:
        """Return the sentence; `at_most` means that fewer targets are affected in other data sets."""
        if not self.affected:
            return self.text
        count = f"{'up to ' * at_most}{self.affected} of the {self.targets} targets"
        return f"{self.text}, {self.limit.format(count=count)}"


@dataclass(frozen=True)
class MetricFacts:
    """What readers and reports need to know of a metric."""

    name: str  # as results have it
    title: str
    unit: str = ""
    scale: str = ""
    lower_is_better: bool = False
    direction: str = ""  # in headings; by default from `lower_is_better`
    digits: int = 1  # after the decimal point
    bounds: tuple[float, float] = (-inf, inf)
    counted: str = "examples"  # what a score is a mean over
    stands_in: str = ""  # the metric that is shown instead where there is space for few
    rank: int = 100  # reports begin with the lowest; then by name
    variant: Variant = Variant()

    @property
    def named(self) -> str:
        """Title and unit.

        >>> MetricFacts("loss", "Loss", "nats per target token").named
        'Loss in nats per target token'
        """
        return f"{self.title} in {self.unit}" if self.unit else self.title

    @property
    def heading(self) -> str:
        """Title, unit, scale and direction.

        >>> MetricFacts("rouge_l", "ROUGE-L", scale="0 to 100").heading
        'ROUGE-L, 0 to 100, higher is better'
        """
        direction = self.direction or f"{'lower' if self.lower_is_better else 'higher'} is better"
        return ", ".join(filter(None, (self.named, self.scale, direction)))

    @property
    def sign(self) -> float:
        """Return -1 where lower is better, else 1."""
        return -1.0 if self.lower_is_better else 1.0

    def to_mapping(self) -> dict[str, Any]:
        """Return the facts as plain JSON-like values; an infinite bound is null."""
        bounds = [bound if isfinite(bound) else None for bound in self.bounds]
        return {**asdict(self), "bounds": bounds, "variant": asdict(self.variant)}

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> "MetricFacts":
        """Read recorded facts; unknown keys are of a later version, and ignored.

        >>> facts = MetricFacts("loss", "Loss", bounds=(0.0, inf))
        >>> MetricFacts.from_mapping({**facts.to_mapping(), "later": 1}) == facts
        True
        """
        known = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        low, high = known.pop("bounds", (None, None))
        said = known.pop("variant", {})
        variant = Variant(**{one.name: said[one.name] for one in fields(Variant) if one.name in said})
        bounds = (-inf if low is None else low, inf if high is None else high)
        return cls(**known, bounds=bounds, variant=variant)
