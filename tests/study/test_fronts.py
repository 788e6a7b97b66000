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
        assert "rate0.01" in one.knee or "federated" in one.knee
        assert 0 <= one.worst <= 2


def test_losses_count_the_other_way_round():
    losses = study().with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    by_score = list(fronts(study(), ["seed", "heterogeneity"], "rouge_l"))
    by_loss = list(fronts(losses, ["seed", "heterogeneity"], "loss"))
    for score, loss in zip(by_score, by_loss, strict=True):
        assert (loss.hypervolume, loss.settings) == (pytest.approx(score.hypervolume), score.settings)
        assert loss.local == pytest.approx(50 - score.local)


def test_the_worst_tenth_is_of_clients_that_forget_most():
    noisy = table(plain(lambda level, algorithm, rate: 4), seeds=3, noise=1.0)
    base = study(seeds=3).filter(pl.col("condition") == "base")
    for one in fronts(pl.concat([noisy, base]), ["seed", "heterogeneity"], "rouge_l"):
        if "federated" not in one.knee:
            assert one.worst > 30 - one.kept
