"""Fronts of a study, on a made-up table in which they are known."""

import polars as pl
import pytest
from test_claims import plain, table

from fedprofit.study.fronts import fronts


def study(seeds=2):
    """Two rates: after two steps local 25, after four 30; the large rate loses 4 in the end, the small 2."""
    tuned = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=seeds, noise=0)
    base = tuned.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    return pl.concat([tuned, base])


def test_a_front_is_what_nothing_beats():
    found = list(fronts(study(), ["seed", "heterogeneity"], "rouge_l"))
    assert [(one.axes["heterogeneity"], one.algorithm) for one in found] == [
        (level, algorithm) for level in ("task", "iid") for algorithm in ("fedavg-adam", "fedsgd")
    ]
    for one in found:
        # (global, local): (30, 20) at the start, then (29, 25) and (28, 30) at the small rate.
        assert one.settings == 3
        assert one.hypervolume == pytest.approx(18 * 20 + 1 * 15 + 1 * 10)


def test_losses_count_the_other_way_round():
    losses = study().with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    by_score = list(fronts(study(), ["seed", "heterogeneity"], "rouge_l"))
    by_loss = list(fronts(losses, ["seed", "heterogeneity"], "loss"))
    for score, loss in zip(by_score, by_loss, strict=True):
        assert (loss.hypervolume, loss.settings) == (pytest.approx(score.hypervolume), score.settings)
        assert loss.local == pytest.approx(50 - score.local)


def test_the_knee_and_what_the_worst_tenth_forget_there():
    """The small rate keeps 29.8 after two steps: client c0 only 24.8 of it, the five others 30.8."""
    own = pl.when(pl.col("client") == "c0").then(24.8).otherwise(30.8)
    there = (pl.col("rate") == 0.01) & (pl.col("step") == 2) & (pl.col("scope") == "global")
    bent = study().with_columns(value=pl.when(there).then(own).otherwise(pl.col("value")))
    for one in fronts(bent, ["seed", "heterogeneity"], "rouge_l"):
        assert one.knee == f"{one.algorithm}, rate0.01, step 2"
        assert (one.local, one.kept) == pytest.approx((25, 29.8))
        # A tenth of twelve clients is two: c0 of either seed.
        assert one.worst == pytest.approx(30 - 24.8)
