"""Facts about metrics: what each is called, its unit, which direction is better, how it is rounded.

This table is the only such list. Everything that shows, ranks or compares scores asks it, so that a metric
it does not know is still shown: under its own name, with higher values taken as better.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Metric:
    """What readers and reports need to know of a metric."""

    name: str  # as results have it
    title: str
    unit: str = ""
    scale: str = ""
    lower_is_better: bool = False
    direction: str = ""  # said in headings; by default what `lower_is_better` says
    digits: int = 1  # behind the decimal point
    bounds: tuple[float, float] = (0.0, 100.0)
    counted: str = "examples"  # what a score is a mean over
    stands_in: str = ""  # the metric that takes its place where there is room for few

    @property
    def named(self) -> str:
        """Title and unit.

        >>> metric_of("loss").named
        'Loss in nats per target token'
        """
        return f"{self.title} in {self.unit}" if self.unit else self.title

    @property
    def heading(self) -> str:
        """Title, unit, scale and direction.

        >>> metric_of("rouge_l").heading
        'ROUGE-L, 0 to 100, higher is better'
        """
        direction = self.direction or f"{'lower' if self.lower_is_better else 'higher'} is better"
        return ", ".join(filter(None, (self.named, self.scale, direction)))

    @property
    def sign(self) -> float:
        """Return -1 where lower is better, else 1."""
        return -1.0 if self.lower_is_better else 1.0


# The most informative first: reports begin with it, and `recommend` chooses by it.
METRICS = {
    one.name: one
    for one in (
        Metric("rouge_l", "ROUGE-L", scale="0 to 100"),
        Metric("exact_match", "Exact match", "percent", stands_in="rouge_l"),
        Metric(
            "loss",
            "Loss",
            "nats per target token",
            lower_is_better=True,
            digits=2,
            bounds=(0.0, inf),
            counted="target tokens",
        ),
    )
}
LOWER_IS_BETTER = tuple(one.name for one in METRICS.values() if one.lower_is_better)


def metric_of(name: str) -> Metric:
    """Return what is known of a metric.

    >>> metric_of("bleu").heading
    'bleu, higher is taken to be better'
    """
    unknown = Metric(name, name, direction="higher is taken to be better", digits=2, bounds=(-inf, inf))
    return METRICS.get(name, unknown)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort metrics: the known ones as the table has them, then the others by name.

    >>> in_order(["loss", "chrf", "rouge_l", "bleu"])
    ['rouge_l', 'loss', 'bleu', 'chrf']
    """
    found = set(names)
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())


def main_ones(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split metrics into those to show where there is room for few, and the others, which are to be named.

    >>> main_ones(["loss", "exact_match", "rouge_l"]), main_ones(["loss", "exact_match"])
    ((['rouge_l', 'loss'], ['exact_match']), (['exact_match', 'loss'], []))
    """
    found = in_order(names)
    left_out = [name for name in found if metric_of(name).stands_in in found]
    return [name for name in found if name not in left_out], left_out


def titles(names: Iterable[str]) -> str:
    """Name metrics in a sentence.

    >>> titles(["exact_match", "loss"])
    'Exact match, Loss'
    """
    return ", ".join(metric_of(name).title for name in names)
