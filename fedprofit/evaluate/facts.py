"""Facts of metrics, for reports, and of data sets, for the resolution of metrics.

The facts of a run's metrics are stored with its results, so that reports need no plug-in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from typing import Any


@dataclass(frozen=True)
class DataFacts:
    """Facts of a data set by which a metric resolves its `auto` settings.

    They count all references of all rows, including rows that no client has. They do not depend on the
    partition or the clients' seed.
    """

    source: str = ""  # kind of the data source
    targets: int = 0  # references
    unread_targets: int = 0  # references that `rouge-score`'s tokenizer cannot fully read
    is_users_own: bool = True  # false for a benchmark that defines its own scoring
    unread_share: float = 0.0  # tolerated share of targets that `rouge-score`'s tokenizer cannot read


@dataclass(frozen=True)
class Variant:
    """The variant by which a metric was computed.

    >>> Variant("a", "BLEU: tokenizer a", "which cannot read {count}", 2, 9).describe()
    'BLEU: tokenizer a, which cannot read 2 of the 9 targets'
    """

    name: str = ""  # scores of different variants are not comparable; "" if there is only one
    text: str = ""  # one sentence without period
    limit: str = ""  # appended to the text if targets are affected; {count} is replaced by their number
    affected: int = 0
    targets: int = 0

    def describe(self, at_most: bool = False) -> str:
        """Return the sentence; with `at_most`, fewer targets may be affected in other data sets."""
        if not self.affected:
            return self.text
        count = f"{'up to ' * at_most}{self.affected} of the {self.targets} targets"
        return f"{self.text}, {self.limit.format(count=count)}"


@dataclass(frozen=True)
class MetricFacts:
    """Facts of a metric for readers and reports."""

    name: str  # name in results
    title: str
    unit: str = ""
    scale: str = ""
    lower_is_better: bool = False
    direction: str = ""  # in headings; by default from `lower_is_better`
    digits: int = 1  # after the decimal point
    bounds: tuple[float, float] = (-inf, inf)
    counted: str = "examples"  # what a score averages over
    stands_in: str = ""  # metric that is shown instead if space is limited
    rank: int = 100  # reports show the lowest first; then by name
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
        """Return -1 if lower is better, else 1."""
        return -1.0 if self.lower_is_better else 1.0

    def to_mapping(self) -> dict[str, Any]:
        """Return the facts as plain JSON-like values; an infinite bound is null."""
        bounds = [bound if isfinite(bound) else None for bound in self.bounds]
        return {**asdict(self), "bounds": bounds, "variant": asdict(self.variant)}

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> "MetricFacts":
        """Read recorded facts; unknown keys, from later versions, are ignored.

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
