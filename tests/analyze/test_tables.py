"""What is read of a study before anything is compared, on made-up tables in which the truth is known."""

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
    """Let the last step have a number that depends on the seed, as with epochs over unequal data."""
    last = (pl.col("step") == STEPS[-1]) & (pl.col("condition") == "personalized")
    return frame.with_columns(step=pl.when(last).then(step).otherwise(pl.col("step")))


def test_epochs_over_unequal_data_end_at_one_point():
    frame = table(plain(lambda level, algorithm, rate: 6 + 2 * (rate > 0.05)))
    ragged = ending_at(frame, 7 + 3 * pl.col("seed"))
    (one,) = with_one_last_step(PLACE, ragged)
    assert one.columns == frame.columns
    assert sorted(one.filter(pl.col("condition") == "personalized")["step"].unique()) == [2, 13]
    assert one.filter(pl.col("condition") == "federated").equals(
        frame.filter(pl.col("condition") == "federated")
    )
    assert verdicts(one)["C1"].comparisons[0].estimate == verdicts(frame)["C1"].comparisons[0].estimate


def test_ends_are_one_for_each_place_on_the_axes():
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    by_level = ending_at(frame, pl.when(pl.col("axis.heterogeneity") == "task").then(4).otherwise(9))
    (one,) = with_one_last_step(PLACE, by_level)
    assert one.equals(by_level), "an axis may be the number of steps itself"


def test_fronts_hold_the_end_of_epochs():
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=2, noise=0)
    base = frame.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    whole = pl.concat([frame, base])
    (one,) = with_one_last_step(PLACE, ending_at(whole, 7 + pl.col("seed")))
    found, expected = (list(fronts(each, ["seed", *PLACE], "rouge_l")) for each in (one, whole))
    assert [each.hypervolume for each in found] == [each.hypervolume for each in expected]


def test_validation_clients_with_other_epochs_choose_all_the_same():
    whole = tables()
    results, validation = with_one_last_step(
        PLACE, ending_at(whole.results, 7 + pl.col("seed")), ending_at(whole.validation, 11 - pl.col("seed"))
    )
    ragged = Tables(whole.path, "made", True, PLACE, results, validation, None)
    for one, expected in zip(
        recommend(ragged, "rouge_l", Limit(least_local=28)),
        recommend(whole, "rouge_l", Limit(least_local=28)),
        strict=True,
    ):
        assert (one.options, one.within) == (expected.options, expected.within)
        assert one.setting["setting"] == expected.setting["setting"]
        assert one.tested["global"].value == pytest.approx(expected.tested["global"].value)


def test_ends_of_epochs_pair_with_those_of_a_study_over_other_seeds():
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=3)
    ragged = ending_at(frame, 7 + pl.col("seed"))
    few, more = (
        with_one_end(Tables(Path(name), name, True, PLACE, ragged.filter(pl.col("seed") < seeds)))
        for name, seeds in (("few", 2), ("more", 3))
    )
    found = compare([few, more], "rouge_l")
    ends = [one for one in found if one.is_last and ", rate" in one.condition]
    assert len(ends) == 8, "two places, two algorithms, two rates"
    assert {one.better["global"].value for one in ends} == {0.0}, "the same runs"
    assert {one.better["global"].seeds for one in ends} == {2}
    longer = with_one_end(Tables(Path("long"), "long", True, PLACE, ending_at(frame, pl.lit(9))))
    apart = compare([with_one_end(Tables(Path("short"), "short", True, PLACE, frame)), longer], "rouge_l")
    assert not [one for one in apart if "step 4" in one.condition or "step 9" in one.condition]
