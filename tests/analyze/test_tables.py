"""Tables of a study with aligned final steps, on synthetic data with known results."""

from pathlib import Path

import polars as pl
import pytest
from test_claims import STEPS, plain, table, verdicts
from test_recommend import PLACE, tables

from fedprofit.analyze.compare import compare
from fedprofit.analyze.fronts import fronts
from fedprofit.analyze.recommend import Limit, recommend
from fedprofit.analyze.tables import Tables, with_one_end, with_one_last_step


def ending_at(frame, step):
    """Set the number of the last step, for example by seed, as with epochs over unequal data."""
    last = (pl.col("step") == STEPS[-1]) & (pl.col("condition") == "personalized")
    return frame.with_columns(step=pl.when(last).then(step).otherwise(pl.col("step")))


def test_with_one_last_step_aligns_unequal_epochs():
    frame = table(plain(lambda level, algorithm, rate: 6 + 2 * (rate > 0.05)))
    ragged = ending_at(frame, 7 + 3 * pl.col("seed"))
    (one,) = with_one_last_step(PLACE, ragged)
    assert one.columns == frame.columns
    assert sorted(one.filter(pl.col("condition") == "personalized")["step"].unique()) == [2, 13]
    assert one.filter(pl.col("condition") == "federated").equals(
        frame.filter(pl.col("condition") == "federated")
    )
    assert verdicts(one)["C2a"].comparisons[0].estimate == verdicts(frame)["C2a"].comparisons[0].estimate


def test_last_steps_are_aligned_within_grid_cells():
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    by_level = ending_at(frame, pl.when(pl.col("axis.heterogeneity") == "task").then(4).otherwise(9))
    (one,) = with_one_last_step(PLACE, by_level)
    assert one.equals(by_level), "an axis may be the number of steps itself"


def test_fronts_contain_last_step_of_unequal_epochs():
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=2, noise=0)
    base = frame.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    complete = pl.concat([frame, base])
    (one,) = with_one_last_step(PLACE, ending_at(complete, 7 + pl.col("seed")))
    found, expected = (list(fronts(each, ["seed", *PLACE], "rouge_l")) for each in (one, complete))
    assert [each.hypervolume for each in found] == [each.hypervolume for each in expected]


def test_recommend_ignores_epochs_of_validation_clients():
    complete = tables()
    results, validation = with_one_last_step(
        PLACE,
        ending_at(complete.results, 7 + pl.col("seed")),
        ending_at(complete.validation, 11 - pl.col("seed")),
    )
    ragged = Tables(complete.path, "made", True, PLACE, results, validation, None)
    for one, expected in zip(
        recommend(ragged, "rouge_l", Limit(least_local=28)),
        recommend(complete, "rouge_l", Limit(least_local=28)),
        strict=True,
    ):
        assert (one.options, one.within) == (expected.options, expected.within)
        assert one.setting["setting"] == expected.setting["setting"]
        assert one.tested["kept"].value == pytest.approx(expected.tested["kept"].value)


def test_compare_pairs_last_steps_across_different_seeds():
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=3)
    ragged = ending_at(frame, 7 + pl.col("seed"))
    few, more = (
        with_one_end(Tables(Path(name), name, True, PLACE, ragged.filter(pl.col("seed") < seeds)))
        for name, seeds in (("few", 2), ("more", 3))
    )
    found = compare([few, more], "rouge_l")
    ends = [one for one in found if one.is_last and ", rate" in one.condition]
    assert len(ends) == 8, "two cells, two algorithms, two rates"
    assert {one.better["kept"].value for one in ends} == {0.0}, "the same runs"
    assert {one.better["kept"].seeds for one in ends} == {2}
    longer = with_one_end(Tables(Path("long"), "long", True, PLACE, ending_at(frame, pl.lit(9))))
    apart = compare([with_one_end(Tables(Path("short"), "short", True, PLACE, frame)), longer], "rouge_l")
    assert not [one for one in apart if "step 4" in one.condition or "step 9" in one.condition]
