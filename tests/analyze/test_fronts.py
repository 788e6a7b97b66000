"""Fronts of a study, on a synthetic table with known fronts."""

import numpy as np
import polars as pl
import pytest
from test_claims import plain, table

from fedprofit.analyze.fronts import areas, fronts
from fedprofit.analyze.geometry import area_under, kept_at


def study(seeds=2):
    """Return a study of two rates: local 25 at step 2, 30 at step 4; the large rate loses 4, the small 2."""
    tuned = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=seeds, noise=0)
    base = tuned.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    return pl.concat([tuned, base])


def test_fronts_contain_undominated_settings():
    found = list(fronts(study(), ["seed", "heterogeneity"], "rouge_l"))
    assert [(one.axes["heterogeneity"], one.algorithm) for one in found] == [
        (level, algorithm) for level in ("task", "iid") for algorithm in ("fedavg-adam", "fedsgd")
    ]
    for one in found:
        # (global, local): (30, 20) at the start, then (29, 25) and (28, 30) at the small rate.
        assert one.settings == 3
        assert one.hypervolume.value == pytest.approx(18 * 20 + 1 * 15 + 1 * 10)


def test_fronts_estimate_volumes_and_paired_differences():
    """Clients differ much but equally under both algorithms; one algorithm gains about 1 more at the end."""
    draw = np.random.default_rng(5)
    complete = study(seeds=3)
    who = complete.select("seed", "client").unique(maintain_order=True)
    who = who.with_columns(
        shift=pl.Series(draw.normal(0, 3, len(who))), own=pl.Series(draw.uniform(0.5, 1.5, len(who)))
    )
    ahead = (pl.col("algorithm") == "fedsgd") & (pl.col("step") == 4) & (pl.col("scope") == "local")
    value = pl.col("value") + pl.col("shift") + pl.when(ahead).then(pl.col("own")).otherwise(0)
    shifted = complete.join(who, on=["seed", "client"], maintain_order="left")
    shifted = shifted.with_columns(
        value=pl.when(pl.col("algorithm") != "").then(value).otherwise(pl.col("value"))
    )
    found = list(fronts(shifted.drop("shift", "own"), ["seed", "heterogeneity"], "rouge_l"))
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.more is None
        assert second.more.value == pytest.approx(second.hypervolume.value - first.hypervolume.value)
        assert (first.hypervolume.seeds, first.hypervolume.clients) == (3, 18)
        widths = [one.high - one.low for one in (first.hypervolume, second.hypervolume, second.more)]
        assert widths[2] < 0.2 * min(widths[:2]), "pairing cancels common variance"
        assert second.more.sign == 1
    # Settings of only the first algorithm add to its volume, but to no comparison.
    extra = shifted.filter(pl.col("algorithm") == "fedavg-adam", pl.col("step") == 4).with_columns(
        setting="longer-" + pl.col("setting"), value=pl.col("value") + 20
    )
    more = pl.concat([shifted, extra]).drop("shift", "own")
    wider = list(fronts(more, ["seed", "heterogeneity"], "rouge_l"))
    assert [one.more for one in wider] == [one.more for one in found]
    assert wider[0].hypervolume.value > found[0].hypervolume.value + 100


def test_fronts_count_best_round_once_across_seeds():
    complete = study()
    best = complete.filter(pl.col("condition") == "federated").with_columns(
        setting=pl.lit("best"),
        value=pl.when(pl.col("scope") == "global").then(pl.lit(35.0)).otherwise(pl.col("value")),
    )
    axes = ["seed", "heterogeneity"]
    one_round = list(fronts(pl.concat([complete, best]), axes, "rouge_l"))
    assert {one.settings for one in one_round} == {3}, "it beats the last round's"
    by_seed = best.with_columns(step=4 + pl.col("seed"))
    several = list(fronts(pl.concat([complete, by_seed]), axes, "rouge_l"))
    assert [one.hypervolume for one in several] == [one.hypervolume for one in one_round]


def test_fronts_treat_loss_as_lower_is_better():
    losses = study().with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    by_score = list(fronts(study(), ["seed", "heterogeneity"], "rouge_l"))
    by_loss = list(fronts(losses, ["seed", "heterogeneity"], "loss"))
    for score, loss in zip(by_score, by_loss, strict=True):
        assert loss.hypervolume.value == pytest.approx(score.hypervolume.value)
        assert loss.settings == score.settings
        assert loss.knee is score.knee is None, "the front is a straight line"


def test_fronts_report_knee_and_its_worst_tenth():
    """The small rate keeps 29.8 after two steps: client c0 only 24.8 of it, the five others 30.8."""
    own = pl.when(pl.col("client") == "c0").then(24.8).otherwise(30.8)
    there = (
        (pl.col("personalization.client.rate") == 0.01)
        & (pl.col("step") == 2)
        & (pl.col("scope") == "global")
    )
    bent = study().with_columns(value=pl.when(there).then(own).otherwise(pl.col("value")))
    for one in fronts(bent, ["seed", "heterogeneity"], "rouge_l"):
        assert one.knee.setting == f"{one.algorithm}, rate0.01, step 2"
        assert (one.knee.local, one.knee.kept) == pytest.approx((25, 29.8))
        # A tenth of twelve clients is two: c0 of either seed.
        assert one.knee.worst.value == pytest.approx(30 - 24.8)
    turned = bent.with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    for one in fronts(turned, ["seed", "heterogeneity"], "loss"):
        assert (one.knee.local, one.knee.kept) == pytest.approx((25, 20.2))


def test_knee_needs_a_point_beyond_both_ends():
    ends = study().filter(pl.col("step").is_null() | (pl.col("step") != 2))
    for one in fronts(ends, ["seed", "heterogeneity"], "rouge_l"):
        assert (one.settings, one.knee) == (2, None)
    far = (pl.col("step") == 4) & (pl.col("personalization.client.rate") == 0.01)
    more = ends.with_columns(value=pl.when(far).then(90.0).otherwise(pl.col("value")))
    for one in fronts(more, ["seed", "heterogeneity"], "rouge_l"):
        assert (one.settings, one.knee.local) == (1, 90.0)
    # The last round is also the best one: the same point adds neither a setting nor a knee.
    best = ends.filter(pl.col("condition") == "federated").with_columns(setting=pl.lit("best"))
    for one in fronts(pl.concat([ends, best]), ["seed", "heterogeneity"], "rouge_l"):
        assert (one.settings, one.knee) == (2, None)
    dented = study().with_columns(
        value=pl.when((pl.col("step") == 2) & (pl.col("scope") == "global"))
        .then(28.2)
        .otherwise(pl.col("value"))
    )
    for one in fronts(dented, ["seed", "heterogeneity"], "rouge_l"):
        assert (one.settings, one.knee) == (3, None)


def test_areas_estimate_each_curve():
    found = list(areas(study(), ["seed", "heterogeneity"], "rouge_l"))
    assert [(one.axes["heterogeneity"], one.algorithm, one.setting) for one in found] == [
        (level, algorithm, f"rate{rate}")
        for level in ("task", "iid")
        for algorithm in ("fedavg-adam", "fedsgd")
        for rate in (0.01, 0.1)
    ]
    for one in found:
        # Above the base model (10, 10): height 20 up to local 10, then two falling segments of width 5.
        lost = 4 if one.setting == "rate0.1" else 2
        area = 20 * 10 + 5 * (20 + 20 - lost / 2) / 2 + 5 * (20 - lost / 2 + 20 - lost) / 2
        assert one.area.value == pytest.approx(area)
        assert one.area.low == pytest.approx(area), "no noise, no width"
        assert (one.steps, one.area.seeds, one.area.clients) == (4, 2, 12)


def test_area_under_handles_non_monotonic_curve():
    # Local 1, 3, 2, 5: the last segment counts from local 3, where the retained score is 1.
    local, kept = np.array([1.0, 3.0, 2.0, 5.0]), np.array([6.0, 3.0, 1.5, 0.0])
    assert area_under(local, kept, [0, 0]) == pytest.approx(6 + 2 * 4.5 + 2 * (1.0 + 0) / 2)
    levels = np.linspace(0, 5, 500_001)
    assert area_under(local, kept, [0, 0]) == pytest.approx(
        np.mean(kept_at(local, kept, levels)) * 5, rel=1e-4
    )
    assert area_under(local, kept, [0, 2]) < area_under(local, kept, [0, 0])
    assert area_under(local, kept, [9, 0]) == 0
    # Only the part above the reference counts: from 4 to -4 over width 2, a triangle of width 1.
    assert area_under(np.array([0.0, 2.0]), np.array([4.0, -4.0]), [0, 0]) == pytest.approx(2)
    assert area_under(np.array([0.0, 2.0]), np.array([-4.0, 4.0]), [0, 0]) == pytest.approx(2)
    assert area_under(np.array([0.0, 2.0]), np.array([-4.0, -1.0]), [0, 0]) == 0


def test_fronts_leave_out_diverged_settings():
    gone = (
        (pl.col("personalization.client.rate") == 0.01) & (pl.col("step") == 4) & (pl.col("client") == "c0")
    )
    broken = study().with_columns(value=pl.when(gone).then(float("nan")).otherwise(pl.col("value")))
    for one in fronts(broken, ["seed", "heterogeneity"], "rouge_l"):
        # The front has the start, the small rate's first point and one point of the large rate.
        assert one.settings == 3
        assert one.hypervolume.clients == 12, "other settings keep all clients"
        assert np.isfinite(one.hypervolume.low)
    # If it diverged for one algorithm, it counts only for the other, and in no comparison.
    one_sided = pl.when(gone & (pl.col("algorithm") == "fedavg-adam")).then(float("nan"))
    of_one = study().with_columns(value=one_sided.otherwise(pl.col("value")))
    first, second = list(fronts(of_one, ["seed", "heterogeneity"], "rouge_l"))[:2]
    assert second.hypervolume.value > first.hypervolume.value
    assert second.more.value == 0
