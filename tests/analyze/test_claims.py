"""Verdicts on made-up tables in which the truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedprofit.analyze.claims import SAYS, caveats, check_claims
from fedprofit.analyze.curves import World
from fedprofit.analyze.facts import FACTS
from fedprofit.analyze.tables import Tables
from fedprofit.evaluate.results import SCHEMA

STEPS = (2, 4)
FINETUNE = {"personalization.kind": "finetune", "personalization.client.kind": "adam"}
KINDS = {
    "fedavg-adam": {**FINETUNE, "algorithm.kind": "fedavg", "algorithm.client.kind": "adam"},
    "fedavg-sgd": {**FINETUNE, "algorithm.kind": "fedavg", "algorithm.client.kind": "sgd"},
    "fedsgd": {**FINETUNE, "algorithm.kind": "fedsgd"},
}


def rows(seed, level, algorithm, setting, client, path, **more):
    """One client's curve: (local, global) at the start and after each step."""
    common = {"algorithm": algorithm, "client": client, "seed": seed, "axis.heterogeneity": level}
    made = []
    for step, (local, kept) in zip((0, *STEPS), path, strict=True):
        condition = {"condition": "federated", "setting": "last", "start": "", "step": 9} if not step else {
            "condition": "personalized", "setting": setting, "start": "last", "step": step,
            "alpha": 1.0, **more,
        }  # fmt: skip
        for scope, value in (("local", local), ("global", kept)):
            made.append({**common, **condition, "scope": scope, "value": value})
    return made


def table(effects, seeds=3, clients=6, noise=0.3):
    """A study in which what is kept at a gain of 10 is known, by level, algorithm and setting."""
    draw, made = np.random.default_rng(0), []
    for (level, algorithm, setting, rate, pull), loss in effects.items():
        for seed in range(seeds):
            for number in range(clients):
                far = loss + draw.normal(0, noise)
                path = [(20, 30), (25, 30 - far / 2), (30, 30 - far)]
                more = {
                    "personalization.client.rate": rate,
                    "personalization.proximal": pull,
                    **KINDS[algorithm],
                }
                made += rows(seed, level, algorithm, setting, f"c{number}", path, **more)
    frame = pl.DataFrame(made, infer_schema_length=None).unique(maintain_order=True)
    every = {**SCHEMA, **dict.fromkeys(FACTS, pl.String)}
    filled = {name: pl.lit(None, kind) for name, kind in every.items() if name not in frame.columns}
    return frame.with_columns(**filled).with_columns(
        metric=pl.lit("rouge_l"), note=pl.lit(""), count=pl.lit(8),
        run=pl.concat_str("axis.heterogeneity", pl.col("seed").cast(pl.String)),
        tv=pl.when(pl.col("axis.heterogeneity") == "task").then(0.8).otherwise(0.1),
    ).select("run", "axis.heterogeneity", "tv", *SCHEMA, *FACTS)  # fmt: skip


def verdicts(frame, metric="rouge_l"):
    return {found.claim: found for found in check_claims(frame, ["seed", "heterogeneity"], metric)}


def plain(loss_of):
    """Lose so much by level, algorithm and rate, without pull."""
    return {
        (level, algorithm, f"rate{rate}", rate, 0.0): loss_of(level, algorithm, rate)
        for level in ("task", "iid")
        for algorithm in ("fedavg-adam", "fedsgd")
        for rate in (0.01, 0.1)
    }


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted"), (0, "not shown")])
def test_rates_algorithms_and_levels_are_told_as_they_are(sign, verdict):
    def lost(level, algorithm, rate):
        return 6 + sign * ((rate > 0.05) + (algorithm != "fedavg-adam") + (level == "task"))

    found = verdicts(table(plain(lost)))
    assert list(found) == list(SAYS)
    for claim in ("C1", "C2", "C5"):
        assert found[claim].verdict == verdict, claim
        (comparison,) = found[claim].comparisons
        # One more is lost at the full gain, and none at the start: half of it between, over the levels.
        assert comparison.estimate.value == pytest.approx(0.55 * sign, abs=0.15)
        assert comparison.estimate.seeds == 3
    assert found["C3"].verdict == found["C4"].verdict == "not tested"


def test_levels_are_compared_with_all_else_equal():
    """More rounds lose more and heterogeneity changes nothing: the claim must not mix them up."""
    frames = [
        table(plain(lambda level, algorithm, rate, lost=lost: lost)).with_columns(
            pl.lit(rounds).alias("axis.rounds"), run=pl.concat_str("run", pl.lit(f" {rounds}"))
        )
        for rounds, lost in (("5", 6), ("10", 9))
    ]
    axes = ["seed", "heterogeneity", "rounds"]
    found = {one.claim: one for one in check_claims(pl.concat(frames), axes, "rouge_l")}["C5"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)
    assert (comparison.what, comparison.pairs) == ("task against iid", 2 * 4), "both numbers of rounds"
    alone = frames[0].filter(pl.col("axis.heterogeneity") == "iid")
    rounds = pl.concat(
        [alone, alone.with_columns(pl.lit("10").alias("axis.rounds"), run=pl.concat_str("run", pl.lit("x")))]
    )
    found = {one.claim: one for one in check_claims(rounds, axes, "rouge_l")}["C5"]
    assert found.verdict == "not tested", "no level differs"


def test_a_client_that_diverged_on_one_curve_counts_on_neither():
    """It keeps far less than the others: counted on one side alone it would decide the claim."""
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    low = frame.with_columns(
        value=pl.col("value") - 12 * ((pl.col("client") == "c0") & (pl.col("scope") == "global"))
    )
    diverged = (pl.col("client") == "c0") & (pl.col("setting") == "rate0.1") & (pl.col("step") == STEPS[-1])
    found = verdicts(low.with_columns(value=pl.when(diverged).then(np.nan).otherwise(pl.col("value"))))["C1"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)


def test_a_pair_that_many_resamples_cannot_compare_is_left_out():
    """At the level task one client alone gains, so that a resample without it reaches nothing in common."""
    frame = table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05) * (6 if level == "task" else -1)))
    tuned = (pl.col("condition") == "personalized") & (pl.col("axis.heterogeneity") == "task")
    flat = tuned & (pl.col("scope") == "local") & ((pl.col("client") != "c0") | (pl.col("seed") != 0))
    frame = frame.with_columns(value=pl.when(flat).then(20.0).otherwise(pl.col("value")))
    found = verdicts(frame)["C1"]
    (comparison,) = found.comparisons
    assert (comparison.told, comparison.unsteady, comparison.pairs) == (2, 2, 4)
    assert found.verdict == "contradicted", "by the level that can be compared"
    assert comparison.estimate.value == pytest.approx(-0.55, abs=0.15)
    assert "2 of 4 pairs of curves (2 more unsteady)" in str(comparison)
    assert comparison.estimate.clients == 18, "those of the other level are not behind it"


def test_levels_are_compared_over_the_seeds_that_both_have():
    """In seed 2, where only one level was run, clients forget far more."""
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    far = (pl.col("seed") == 2) & (pl.col("condition") == "personalized") & (pl.col("scope") == "global")
    frame = frame.with_columns(value=pl.col("value") - 9 * far)
    frame = frame.filter((pl.col("seed") < 2) | (pl.col("axis.heterogeneity") == "task"))
    found = verdicts(frame)["C5"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)
    assert (comparison.estimate.seeds, comparison.estimate.clients) == (2, 24)


@pytest.mark.parametrize(("better", "verdict"), [(3.0, "supported"), (-3.0, "contradicted")])
def test_a_pull_is_compared_with_none_at_the_same_rate(better, verdict):
    effects = plain(lambda level, algorithm, rate: 6.0)
    pulled = {(level, "fedavg-adam", "pull", 0.1, 0.5): 6 - better for level in ("task", "iid")}
    found = verdicts(table(effects | pulled))["C3"]
    assert found.verdict == verdict
    assert "pull 0.5 against none" in found.comparisons[0].what


def test_a_pull_that_cannot_be_told_speaks_neither_for_a_claim_nor_against_it():
    effects = plain(lambda level, algorithm, rate: 6.0)
    for level in ("task", "iid"):
        effects |= {
            (level, "fedavg-adam", name, 0.1, pull): 3.0 for name, pull in (("pull", 0.5), ("far", 9.0))
        }
    frame = table(effects)
    stays = (pl.col("setting") == "far") & (pl.col("scope") == "local")
    for gain in (0.0, 60.0):  # nobody gains, or one client alone, so that most resamples without it do not
        gained = pl.when((pl.col("client") == "c0") & (pl.col("seed") == 0)).then(20 + gain).otherwise(19.0)
        found = verdicts(frame.with_columns(value=pl.when(stays).then(gained).otherwise(pl.col("value"))))[
            "C3"
        ]
        assert [one.what for one in found.comparisons] == ["pull 0.5 against none", "pull 9 against none"]
        untold = found.comparisons[1].estimate
        assert untold.unsteady or np.isnan(untold.value)
        assert found.verdict == "supported"


def test_interpolation_is_compared_with_the_steps():
    frame = table(
        {("task", "fedavg-adam", "few", 0.1, 0.0): 8.0, ("iid", "fedavg-adam", "few", 0.1, 0.0): 8.0}
    )
    last = frame.filter(pl.col("step") == STEPS[-1])
    half = last.with_columns(
        alpha=pl.lit(0.5), value=pl.when(pl.col("scope") == "local").then(25.0).otherwise(29.5)
    )
    found = verdicts(pl.concat([frame, half]))["C4"]
    assert found.verdict == "supported"
    ends = frame.filter(pl.col("step").is_null() | (pl.col("step") != STEPS[0]))
    found = verdicts(pl.concat([ends, half]))["C4"]
    assert found.verdict == "not tested", "the way along the steps is known at its ends alone"
    assert found.reason == "interpolation was scored, and no step between start and end"
    assert verdicts(ends)["C4"].reason == "the study has nothing that the claim compares"


def test_losses_count_the_other_way_round():
    frame = table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    losses = frame.with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    assert verdicts(losses, "loss")["C1"].verdict == "supported"


def test_too_few_seeds_give_no_verdict():
    found = verdicts(table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)), seeds=1))["C1"]
    assert found.verdict == "not shown"
    assert "too few" in found.reason


def test_curves_that_gain_nothing_give_no_verdict():
    frame = table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    flat = frame.with_columns(
        value=pl.when((pl.col("scope") == "local") & (pl.col("condition") == "personalized"))
        .then(10.0)
        .otherwise(pl.col("value"))
    )
    found = verdicts(flat)["C1"]
    assert found.verdict == "not shown"
    assert "no local score in common" in found.reason


def test_a_level_that_gains_nothing_is_not_counted():
    frame = table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    alone = frame.filter(pl.col("axis.heterogeneity") == "task")
    in_vain = frame.with_columns(
        value=pl.when(
            pl.col("axis.heterogeneity") == "iid",
            pl.col("scope") == "local",
            pl.col("condition") == "personalized",
        )
        # Now and then a resample of these clients gains all the same.
        .then(pl.when(pl.col("client") == "c0").then(45.0).otherwise(14.9))
        .otherwise(pl.col("value"))
    )
    (found,), (expected,) = (verdicts(one)["C1"].comparisons for one in (in_vain, alone))
    assert (found.told, found.pairs) == (2, 4), "both algorithms, at one level of two"
    assert found.estimate == expected.estimate
    assert str(found).endswith("18 clients of 3 seeds; 2 of 4 pairs of curves")


def test_levels_whose_heterogeneity_differs_by_seed_alone_are_not_compared():
    """An unfinished study: one level lacks seeds, and the seeds' partitions differ, not the levels'."""
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    alike = frame.with_columns(tv=0.9 - 0.2 * pl.col("seed"))
    missing = alike.filter((pl.col("axis.heterogeneity") == "iid") | (pl.col("seed") == 0))
    assert World(missing, ["seed", "heterogeneity"], "rouge_l").extremes() == []
    assert len(World(frame, ["seed", "heterogeneity"], "rouge_l").extremes()) == 1


def test_claim_on_algorithms_asks_for_kinds_not_names():
    """Named so that a search by names would compare the wrong ones."""
    lost = {"fedavg-adam": 4.0, "fedavg-sgd": 6.0, "fedsgd": 8.0}
    frame = table({("task", name, "tune", 0.01, 0.0): kept for name, kept in lost.items()})
    called = {"fedavg-adam": "mine", "fedavg-sgd": "adam-fedavg", "fedsgd": "fedavg-adam"}
    found = verdicts(frame.with_columns(pl.col("algorithm").replace(called)))["C2"]
    assert [one.what for one in found.comparisons] == ["mine against adam-fedavg", "mine against fedavg-adam"]
    assert found.verdict == "supported"


def test_rates_are_compared_within_one_client_optimizer():
    frame = table(plain(lambda level, algorithm, rate: 6.0))
    large = pl.col("personalization.client.rate") == 0.1
    kinds = pl.when(large).then(pl.lit("sgd")).otherwise("personalization.client.kind")
    mixed = frame.with_columns(kinds.alias("personalization.client.kind"))
    assert verdicts(frame)["C1"].comparisons[0].pairs == 4
    assert verdicts(mixed)["C1"].verdict == "not tested"


def test_claims_leave_out_settings_without_hyperparameters():
    unknown = table(plain(lambda level, algorithm, rate: 6.0)).drop(FACTS)
    found = verdicts(unknown)
    assert [found[claim].verdict for claim in ("C1", "C2", "C3", "C4")] == ["not tested"] * 4


def test_a_pull_is_held_against_the_one_setting_that_is_like_it_without():
    effects = {("task", "fedsgd", name, 0.1, pull): 6.0 for name, pull in (("few", 0.0), ("pulled", 0.1))}
    twice = effects | {("task", "fedsgd", "other-optimizer", 0.1, 0.0): 2.0}
    alone, unclear = (
        next(
            one
            for one in check_claims(table(each), ["seed", "heterogeneity"], "rouge_l")
            if one.claim == "C3"
        )
        for each in (effects, twice)
    )
    assert len(alone.comparisons) == 1
    assert unclear.verdict == "not tested"


def test_what_verdicts_do_not_show_is_said():
    frame = table(plain(lambda level, algorithm, rate: 6.0), seeds=1)
    made = ("run", "algorithm", "trial", "chosen")
    trials = pl.DataFrame(
        [
            (run, name, f"{name}-{n}", n == chosen)
            for run in ("a", "b")
            for name, chosen in (("fedavg", 1), ("fedsgd", 2 if run == "a" else 1))
            for n in range(3)
        ],
        made,
        orient="row",
    )
    whole = {"heterogeneity": ["task", "iid"], "seed": ["0", "1", "2"]}
    tables = Tables(Path("here"), "made", True, ["heterogeneity"], frame, trials=trials, places=whole)
    assert caveats(tables) == [
        "Only 2 of the study's 6 runs are in its table.",
        "Chosen at an edge of the values tried, beyond which better ones may lie: fedsgd in 1 of 2 runs.",
        "5 verdicts, each by 95% intervals of its own: nothing is corrected for their number.",
    ]
    done = replace(tables, trials=trials.filter("chosen"), places={**whole, "seed": ["0"]})
    assert len(caveats(done)) == 1
    moved = replace(done, places={"heterogeneity": ["task", "few"], "seed": ["0"]})
    assert caveats(moved)[0] == "Only 1 of the study's 2 runs are in its table.", "one is not planned now"
