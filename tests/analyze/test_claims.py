"""Verdicts on synthetic tables in which the truth is known."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedprofit.analyze.claims import SAYS, caveats, check_claims
from fedprofit.analyze.curves import World
from fedprofit.analyze.facts import FACTS
from fedprofit.analyze.tables import Tables
from fedprofit.analyze.verdicts import Finding, corrected
from fedprofit.evaluate.results import SCHEMA

STEPS = (2, 4)
SLOW = 6  # times more steps of the small rate
FINETUNE = {"personalization.kind": "finetune", "personalization.client.kind": "adam"}
KINDS = {
    "fedavg-adam": {**FINETUNE, "algorithm.kind": "fedavg", "algorithm.client.kind": "adam"},
    "fedavg-sgd": {**FINETUNE, "algorithm.kind": "fedavg", "algorithm.client.kind": "sgd"},
    "fedsgd": {**FINETUNE, "algorithm.kind": "fedsgd"},
}


def rows(seed, level, algorithm, setting, client, path, slow, **more):
    """Return one client's curve: (local, global) at the start and after each step."""
    common = {"algorithm": algorithm, "client": client, "seed": seed, "axis.heterogeneity": level}
    made = []
    times = slow if more["personalization.client.rate"] < 0.05 else 1
    for step, (local, kept) in zip((0, *(times * step for step in STEPS)), path, strict=True):
        condition = {"condition": "federated", "setting": "last", "start": "", "step": 9} if not step else {
            "condition": "personalized", "setting": setting, "start": "last", "step": step,
            "alpha": 1.0, **more,
        }  # fmt: skip
        for scope, value in (("local", local), ("global", kept)):
            made.append({**common, **condition, "scope": scope, "value": value})
    return made


def table(effects, seeds=3, clients=6, noise=0.3, slow=1):
    """Return a study in which the loss at a gain of 10 is known, by level, algorithm and setting."""
    draw, made = np.random.default_rng(0), []
    for (level, algorithm, setting, rate, proximal), loss in effects.items():
        for seed in range(seeds):
            for number in range(clients):
                far = loss + draw.normal(0, noise)
                path = [(20, 30), (25, 30 - far / 2), (30, 30 - far)]
                more = {
                    "personalization.client.rate": rate,
                    "personalization.proximal": proximal,
                    **KINDS[algorithm],
                }
                made += rows(seed, level, algorithm, setting, f"c{number}", path, slow, **more)
    frame = pl.DataFrame(made, infer_schema_length=None).unique(maintain_order=True)
    every = {**SCHEMA, **dict.fromkeys(FACTS, pl.String)}
    filled = {name: pl.lit(None, kind) for name, kind in every.items() if name not in frame.columns}
    return frame.with_columns(**filled).with_columns(
        metric=pl.lit("rouge_l"), note=pl.lit(""), count=pl.lit(8),
        run=pl.concat_str("axis.heterogeneity", pl.col("seed").cast(pl.String)),
        tv=pl.when(pl.col("axis.heterogeneity") == "task").then(0.8).otherwise(0.1),
    ).select("run", "axis.heterogeneity", "tv", *SCHEMA, *FACTS)  # fmt: skip


def slow_table(effects, **more):
    """Return a table in which the small rate takes six times more steps."""
    return table(effects, slow=SLOW, **more)


def verdicts(frame, metric="rouge_l", **more):
    return {found.claim: found for found in check_claims(frame, ["seed", "heterogeneity"], metric, **more)}


def plain(loss_of):
    """Return the losses by level, algorithm and rate, without proximal term."""
    return {
        (level, algorithm, f"rate{rate}", rate, 0.0): loss_of(level, algorithm, rate)
        for level in ("task", "iid")
        for algorithm in ("fedavg-adam", "fedsgd")
        for rate in (0.01, 0.1)
    }


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted"), (0, "not shown")])
def test_claims_find_known_effects(sign, verdict):
    def lost(level, algorithm, rate):
        return 6 + sign * ((rate > 0.05) + (algorithm != "fedavg-adam") + (level == "task"))

    found = verdicts(slow_table(plain(lost)))
    assert list(found) == list(SAYS)
    for claim in ("C1", "C2a", "C2b", "C5"):
        assert found[claim].verdict == verdict, claim
        (comparison,) = found[claim].comparisons
        # One more is lost at the full gain, and none at the start: half of it between, over the levels.
        assert comparison.estimate.value == pytest.approx(0.55 * sign, abs=0.15)
        assert comparison.estimate.seeds == 3
    assert found["C3"].verdict == found["C4"].verdict == "not tested"
    assert found["C1"].comparisons[0].steps == pytest.approx(SLOW)
    assert found["C6"].verdict == "not shown", "the effect of the rate is equal for both algorithms"


def test_levels_are_compared_within_equal_axes():
    """More rounds lose more, and heterogeneity changes nothing."""
    frames = [
        slow_table(plain(lambda level, algorithm, rate, lost=lost: lost)).with_columns(
            pl.lit(rounds).alias("axis.rounds"), run=pl.concat_str("run", pl.lit(f" {rounds}"))
        )
        for rounds, lost in (("5", 6), ("10", 9))
    ]
    axes = ["seed", "heterogeneity", "rounds"]
    found = {one.claim: one for one in check_claims(pl.concat(frames), axes, "rouge_l")}["C5"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)
    assert (comparison.what, comparison.pairs) == ("task against iid (global)", 2 * 4), (
        "both numbers of rounds"
    )
    alone = frames[0].filter(pl.col("axis.heterogeneity") == "iid")
    rounds = pl.concat(
        [alone, alone.with_columns(pl.lit("10").alias("axis.rounds"), run=pl.concat_str("run", pl.lit("x")))]
    )
    found = {one.claim: one for one in check_claims(rounds, axes, "rouge_l")}["C5"]
    assert found.verdict == "not tested", "no level differs"


def test_diverged_client_counts_on_neither_curve():
    """It retains far less than the others: on one side only, it would decide the claim."""
    frame = slow_table(plain(lambda level, algorithm, rate: 6.0))
    low = frame.with_columns(
        value=pl.col("value") - 12 * ((pl.col("client") == "c0") & (pl.col("scope") == "global"))
    )
    diverged = (pl.col("client") == "c0") & (pl.col("setting") == "rate0.1") & (pl.col("step") == STEPS[-1])
    found = verdicts(low.with_columns(value=pl.when(diverged).then(np.nan).otherwise(pl.col("value"))))["C1"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)


def test_pair_undefined_in_many_resamples_is_left_out():
    """At the level task only one client gains: a resample without it reaches no score in common."""
    frame = slow_table(
        plain(lambda level, algorithm, rate: 6 + (rate > 0.05) * (6 if level == "task" else -1))
    )
    tuned = (pl.col("condition") == "personalized") & (pl.col("axis.heterogeneity") == "task")
    flat = tuned & (pl.col("scope") == "local") & ((pl.col("client") != "c0") | (pl.col("seed") != 0))
    frame = frame.with_columns(value=pl.when(flat).then(20.0).otherwise(pl.col("value")))
    found = verdicts(frame)["C1"]
    (comparison,) = found.comparisons
    assert (comparison.compared, comparison.unstable, comparison.pairs) == (2, 2, 4)
    assert found.verdict == "contradicted", "by the level that can be compared"
    assert comparison.estimate.value == pytest.approx(-0.55, abs=0.15)
    assert "2 of 4 pairs of curves (2 more undefined in too many resamples)" in str(comparison)
    assert comparison.estimate.clients == 18, "those of the other level do not count"


def test_levels_are_compared_over_common_seeds():
    """In seed 2, which only one level has, clients forget far more."""
    frame = slow_table(plain(lambda level, algorithm, rate: 6.0))
    far = (pl.col("seed") == 2) & (pl.col("condition") == "personalized") & (pl.col("scope") == "global")
    frame = frame.with_columns(value=pl.col("value") - 9 * far)
    frame = frame.filter((pl.col("seed") < 2) | (pl.col("axis.heterogeneity") == "task"))
    found = verdicts(frame)["C5"]
    (comparison,) = found.comparisons
    assert found.verdict == "not shown"
    assert comparison.estimate.value == pytest.approx(0, abs=0.15)
    assert (comparison.estimate.seeds, comparison.estimate.clients) == (2, 24)


def few_steps(better=3.0, rates=(0.03, 0.1)):
    """Return losses of few steps, at two rates, without and with a proximal term."""
    effects = {}
    for level, rate in product(("task", "iid"), rates):
        effects[level, "fedavg-adam", f"few{rate}", rate, 0.0] = 6.0
        effects[level, "fedavg-adam", f"near{rate}", rate, 0.5] = 6.0 - better
    return effects


def validation_of(frame, best):
    """Return the validation clients' losses, with one setting the best."""
    value = pl.when(pl.col("setting") == best).then(1.0).otherwise(2.0)
    return frame.with_columns(metric=pl.lit("loss"), value=value)


@pytest.mark.parametrize(("better", "verdict"), [(3.0, "supported"), (-3.0, "contradicted")])
def test_proximal_term_is_compared_at_the_selected_rate(better, verdict):
    frame = table(few_steps(better))
    wrong = pl.col("setting").str.ends_with("0.1") & (pl.col("scope") == "global")
    frame = frame.with_columns(value=pl.when(wrong).then(99.0).otherwise(pl.col("value")))
    found = verdicts(frame, validation=validation_of(frame, "few0.03"))["C3"]
    assert found.verdict == verdict
    (comparison,) = found.comparisons
    assert (comparison.what, comparison.pairs) == ("proximal weight 0.5 against none", 2)


def test_few_steps_need_validation_to_select_rate():
    found = verdicts(table(few_steps()))
    assert found["C3"].verdict == "not tested"
    assert "no validation clients" in found["C3"].reason
    one_rate = verdicts(slow_table(few_steps(rates=(0.1,))))
    assert one_rate["C3"].verdict == "supported", "there is nothing to select"


def test_undefined_proximal_weight_decides_nothing():
    effects = few_steps(rates=(0.1,))
    effects |= {(level, "fedavg-adam", "far", 0.1, 9.0): 3.0 for level in ("task", "iid")}
    frame = slow_table(effects)
    stays = (pl.col("setting") == "far") & (pl.col("scope") == "local")
    for gain in (0.0, 60.0):  # nobody gains, or only one client, so that most resamples without it do not
        gained = pl.when((pl.col("client") == "c0") & (pl.col("seed") == 0)).then(20 + gain).otherwise(19.0)
        found = verdicts(frame.with_columns(value=pl.when(stays).then(gained).otherwise(pl.col("value"))))
        named = [one.what for one in found["C3"].comparisons]
        assert named == ["proximal weight 0.5 against none", "proximal weight 9 against none"]
        undefined = found["C3"].comparisons[1].estimate
        assert undefined.unsteady or np.isnan(undefined.value)
        assert found["C3"].verdict == "supported"


def test_interpolation_is_compared_with_steps_and_smaller_rates():
    effects = {(level, "fedavg-adam", "few", 0.1, 0.0): 8.0 for level in ("task", "iid")}
    frame = slow_table(effects)
    last = frame.filter(pl.col("step") == STEPS[-1])
    half = last.with_columns(
        alpha=pl.lit(0.5), value=pl.when(pl.col("scope") == "local").then(25.0).otherwise(29.5)
    )
    found = verdicts(pl.concat([frame, half]))["C4"]
    assert found.verdict == "supported"
    assert [one.what for one in found.comparisons] == ["interpolation against fewer steps"]
    ends = frame.filter(pl.col("step").is_null() | (pl.col("step") != STEPS[0]))
    assert verdicts(pl.concat([ends, half]))["C4"].verdict == "not tested", "no step between the ends"
    smaller = table(effects | {(level, "fedavg-adam", "less", 0.03, 0.0): 2.0 for level in ("task", "iid")})
    found = verdicts(pl.concat([smaller, half]), validation=validation_of(smaller, "few"))["C4"]
    assert [one.what for one in found.comparisons][1] == "interpolation against smaller rates"
    assert found.verdict == "not shown", "better than the steps, worse than the smaller rate"
    assert found.reason == "the comparisons disagree"


def test_algorithms_are_compared_at_rates_that_both_have():
    """Only FedAvg with Adam has the largest rate; the rate's effect is 2 larger with Adam at 0.1."""
    effects = plain(
        lambda level, algorithm, rate: 6 + (rate > 0.05) * (3 if algorithm == "fedavg-adam" else 1)
    )
    effects |= {(level, "fedavg-adam", "rate0.3", 0.3, 0.0): 9.0 for level in ("task", "iid")}
    found = verdicts(slow_table(effects))
    assert found["C1"].comparisons[0].what == "rate 0.01 against 0.3"
    (comparison,) = found["C6"].comparisons
    assert (comparison.what, comparison.pairs) == ("fedavg-adam minus fedsgd", 2)
    assert comparison.estimate.value == pytest.approx(0.55 * 2, abs=0.2)
    assert found["C6"].verdict == "supported"


def test_losses_are_better_if_lower():
    frame = slow_table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    losses = frame.with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
    assert verdicts(losses, "loss")["C1"].verdict == "supported"


def test_too_few_seeds_give_no_verdict():
    found = verdicts(slow_table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)), seeds=1))["C1"]
    assert found.verdict == "not shown"
    assert "too few" in found.reason


def test_curves_that_gain_nothing_give_no_verdict():
    frame = slow_table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    flat = frame.with_columns(
        value=pl.when((pl.col("scope") == "local") & (pl.col("condition") == "personalized"))
        .then(10.0)
        .otherwise(pl.col("value"))
    )
    found = verdicts(flat)["C1"]
    assert found.verdict == "not tested", "no larger rate gains locally"


def test_level_without_gain_is_not_counted():
    frame = slow_table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    alone = frame.filter(pl.col("axis.heterogeneity") == "task")
    in_vain = frame.with_columns(
        value=pl.when(
            pl.col("axis.heterogeneity") == "iid",
            pl.col("scope") == "local",
            pl.col("condition") == "personalized",
        )
        # Some resamples of these clients gain.
        .then(pl.when(pl.col("client") == "c0").then(45.0).otherwise(14.9))
        .otherwise(pl.col("value"))
    )
    (found,), (expected,) = (verdicts(one)["C1"].comparisons for one in (in_vain, alone))
    assert (found.compared, found.pairs) == (2, 2), "both algorithms, at one level of two"
    assert found.estimate == expected.estimate
    assert str(found).endswith("18 clients of 3 seeds; 2 of 2 pairs of curves")


def test_levels_differing_only_by_seed_are_not_compared():
    """In an unfinished study a level lacks seeds; only the seeds' partitions differ."""
    frame = slow_table(plain(lambda level, algorithm, rate: 6.0))
    alike = frame.with_columns(tv=0.9 - 0.2 * pl.col("seed"))
    missing = alike.filter((pl.col("axis.heterogeneity") == "iid") | (pl.col("seed") == 0))
    assert list(World(missing, ["seed", "heterogeneity"], "rouge_l").extremes()) == []
    assert len(list(World(frame, ["seed", "heterogeneity"], "rouge_l").extremes())) == 1


def test_claim_on_algorithms_asks_for_kinds_not_names():
    """Named so that a search by names would compare the wrong ones."""
    lost = {"fedavg-adam": 4.0, "fedavg-sgd": 6.0, "fedsgd": 8.0}
    frame = slow_table({("task", name, "tune", 0.01, 0.0): kept for name, kept in lost.items()})
    called = {"fedavg-adam": "mine", "fedavg-sgd": "adam-fedavg", "fedsgd": "fedavg-adam"}
    found = verdicts(frame.with_columns(pl.col("algorithm").replace(called)))["C2a"]
    assert [one.what for one in found.comparisons] == ["mine against adam-fedavg", "mine against fedavg-adam"]
    assert found.verdict == "supported"


def test_rates_are_compared_within_one_client_optimizer():
    frame = slow_table(plain(lambda level, algorithm, rate: 6.0))
    large = pl.col("personalization.client.rate") == 0.1
    kinds = pl.when(large).then(pl.lit("sgd")).otherwise("personalization.client.kind")
    mixed = frame.with_columns(kinds.alias("personalization.client.kind"))
    assert verdicts(frame)["C1"].comparisons[0].pairs == 4
    assert verdicts(mixed)["C1"].verdict == "not tested"


def test_claims_leave_out_settings_without_hyperparameters():
    unknown = slow_table(plain(lambda level, algorithm, rate: 6.0)).drop(FACTS)
    found = verdicts(unknown)
    assert [found[claim].verdict for claim in ("C1", "C2a", "C3", "C4", "C6")] == ["not tested"] * 5


def test_verdicts_are_corrected_for_their_number():
    """One weak effect: its own interval is above zero, and the corrected verdict is not."""
    found = [
        Finding(str(n), "loss", verdict, "why", [], [], probability, probability, verdict)
        for n, (verdict, probability) in enumerate(
            [("supported", 0.03), ("not shown", 0.3), ("not tested", 1.0), ("contradicted", 0.001)]
        )
    ]
    first, second, third, last = corrected(found)
    assert (first.verdict, first.uncorrected, first.corrected) == ("not shown", "supported", 0.06)
    assert (second.verdict, third.corrected) == ("not shown", 1.0)
    assert (last.verdict, last.corrected) == ("contradicted", pytest.approx(0.003))


def others_of(frame, tasks=6):
    """Return a table with the scope others, and single tasks, on which client n trains on task n."""
    kept = frame.filter(pl.col("scope") == "global")
    own = frame.filter(pl.col("scope") == "local").with_columns(
        scope=pl.lit("local_task"), task="t" + pl.col("client").str.slice(1)
    )
    parts = [
        kept.with_columns(scope=pl.lit("others_task"), task=pl.lit(f"t{n}")).filter(
            pl.col("client") != f"c{n}"
        )
        for n in range(tasks)
    ]
    return pl.concat([frame, kept.with_columns(scope=pl.lit("others")), own, *parts], how="diagonal_relaxed")


def test_retained_score_is_others_when_all_have_it():
    frame = slow_table(plain(lambda level, algorithm, rate: 6 + (rate > 0.05)))
    spoiled = frame.with_columns(
        value=pl.when(pl.col("scope") == "global").then(0.0).otherwise(pl.col("value"))
    )
    both = pl.concat([others_of(frame).filter(pl.col("scope") != "global"), spoiled.filter(scope="global")])
    found = verdicts(both)
    (comparison,) = found["C1"].comparisons
    assert found["C1"].verdict == "supported"
    assert comparison.estimate.value == pytest.approx(0.55, abs=0.15)
    assert {name for name, _ in comparison.estimate.errors} == {"clients", "tasks", "seeds"}
    assert found["C5"].comparisons[0].what == "task against iid"
    assert found["C5"].beside[0].what == "task against iid (global)"


def test_caveats_name_missing_runs_and_edges():
    frame = slow_table(plain(lambda level, algorithm, rate: 6.0), seeds=1)
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
        "Selected at an edge of the candidates; better ones may be beyond: fedsgd in 1 of 2 runs.",
    ]
    done = replace(tables, trials=trials.filter("chosen"), places={**whole, "seed": ["0"]})
    assert caveats(done) == []
    moved = replace(done, places={"heterogeneity": ["task", "few"], "seed": ["0"]})
    assert caveats(moved)[0] == "Only 1 of the study's 2 runs are in its table.", "one is not planned now"
