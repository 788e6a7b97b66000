"""The trade-off from a small results table with means computed by hand."""

import polars as pl
import pytest

from fedprofit.analyze.tradeoff import by_client, label, summarize
from fedprofit.evaluate.results import Condition, Score, to_frame

FEDERATED = Condition("federated", "avg", "last", step=10)
BEST = Condition("federated", "avg", "best", step=5)
PERSONAL = Condition("personalized", "avg", "slow", "last", alpha=1.0, step=12)
FROM_BEST = Condition("personalized", "avg", "slow", "best", alpha=1.0, step=12)
BASE = Condition("base")
LOCAL = Condition("local", setting="local", step=40)


def rows(condition, metric, values, counts=(1, 1, 1), scopes=("local", "global"), notes=()):
    """Return scores of clients a, b, c; `values` has one number per scope and client."""
    return [
        Score(condition, client, scope, metric, value, count, dict(notes).get(client, ""))
        for scope, of_scope in zip(scopes, values, strict=True)
        for client, value, count in zip("abc", of_scope, counts, strict=True)
    ]


SCORES = [
    *rows(BASE, "rouge_l", ([10.0, 20.0, 30.0], [20.0] * 3)),
    *rows(FEDERATED, "rouge_l", ([40.0, 50.0, 60.0], [50.0] * 3)),
    *rows(FEDERATED, "loss", ([2.0, 3.0, 4.0], [2.5] * 3), counts=(10, 10, 20)),
    *rows(BEST, "rouge_l", ([45.0, 45.0, 45.0], [55.0] * 3)),
    *rows(PERSONAL, "rouge_l", ([70.0, 50.0, 45.0], [20.0, 55.0, 40.0])),
    *rows(
        PERSONAL, "loss", ([1.0, 3.5, 3.0], [4.5, 2.0, 3.5]), counts=(10, 10, 20), notes=[("b", "stopped")]
    ),
    *rows(FROM_BEST, "rouge_l", ([65.0, 40.0, 45.0], [25.0, 60.0, 55.0])),
    *rows(LOCAL, "rouge_l", ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])),
    *[Score(PERSONAL, c, "validation", "loss", 99.0, 5) for c in "abc"],
]


def of(frame, condition, metric, *columns):
    keep = pl.col("metric") == metric
    for key, value in vars(condition).items():
        keep &= pl.col(key).is_null() if value is None else pl.col(key) == value
    part = frame.filter(keep)
    return part.select(columns).rows() if len(columns) > 1 else part[columns[0]].to_list()


@pytest.fixture(scope="module")
def clients():
    return by_client(to_frame(0, SCORES))


@pytest.fixture(scope="module")
def means():
    return summarize(to_frame(0, SCORES))


def test_by_client_computes_gain_and_forgetting_of_score(clients):
    assert of(clients, PERSONAL, "rouge_l", "client", "gain", "forgetting") == [
        ("a", 30.0, 30.0),
        ("b", 0.0, -5.0),
        ("c", -15.0, 10.0),
    ]


def test_by_client_negates_differences_of_loss(clients):
    assert of(clients, PERSONAL, "loss", "client", "gain", "forgetting") == [
        ("a", 1.0, 2.0),
        ("b", -0.5, -0.5),
        ("c", 1.0, 1.0),
    ]


def test_by_client_compares_with_the_starting_prompt(clients):
    assert of(clients, FROM_BEST, "rouge_l", "gain") == [20.0, -5.0, 0.0]
    assert of(clients, FROM_BEST, "rouge_l", "forgetting") == [30.0, -5.0, 0.0]


@pytest.mark.parametrize("condition", [BASE, FEDERATED, LOCAL])
def test_by_client_has_no_gain_without_federated_start(clients, condition):
    assert of(clients, condition, "rouge_l", "gain", "forgetting") == [(None, None)] * 3


def test_by_client_keeps_rows_with_null_keys(clients):
    """The base model has no rate, no alpha and no step; its rows must still have their scopes."""
    assert len(clients) == 8 * 3
    assert of(clients, BASE, "rouge_l", "client", "local", "global", "unseen", "local_count") == [
        ("a", 10.0, 20.0, None, 1),
        ("b", 20.0, 20.0, None, 1),
        ("c", 30.0, 20.0, None, 1),
    ]
    assert of(clients, LOCAL, "rouge_l", "local", "global") == [(1.0, 4.0), (2.0, 5.0), (3.0, 6.0)]


def test_summarize_matches_means_by_hand(means):
    assert of(means, PERSONAL, "rouge_l", "local", "global", "gain", "forgetting", "clients", "stopped") == [
        (55.0, pytest.approx(115 / 3), 5.0, pytest.approx(35 / 3), 3, 0)
    ]
    # Loss is weighted by target tokens: (10 x 1 + 10 x 3.5 + 20 x 3) / 40.
    assert of(means, PERSONAL, "loss", "local", "local_weighted", "stopped") == [
        (2.5, pytest.approx(105 / 40), 1)
    ]
    assert of(means, BASE, "rouge_l", "gain", "unseen") == [(None, None)]
    assert len(means) == 8


def many(values, metric, seeds=(0,)):
    return pl.concat(
        to_frame(s, [Score(BASE, f"c{n:02d}", "local", metric, v, 1) for n, v in enumerate(values)])
        for s in seeds
    )


@pytest.mark.parametrize("clients", [1, 9, 10, 11, 25])
def test_summarize_computes_worst_tenth(clients):
    values = [float((7 * n) % clients) for n in range(clients)]  # all different, in mixed order
    worst = -(-clients // 10)
    lowest = sum(range(worst)) / worst
    assert summarize(many(values, "rouge_l"))["local_worst_tenth"].item() == pytest.approx(lowest)
    highest = sum(clients - 1 - n for n in range(worst)) / worst
    assert summarize(many(values, "loss"))["local_worst_tenth"].item() == pytest.approx(highest)


def test_summarize_ranks_nan_loss_worst():
    mean = summarize(many([1.0, float("nan"), *[2.0] * 8], "loss"))["local_worst_tenth"].item()
    assert mean != mean


def test_summarize_pools_seeds_and_pairs_within_them():
    one = to_frame(0, SCORES)
    shifted = to_frame(1, SCORES).with_columns(
        value=pl.when(pl.col("condition") == "federated").then(pl.col("value") + 7).otherwise(pl.col("value"))
    )
    both = pl.concat([one, shifted])
    clients = by_client(both)
    assert of(clients.filter(pl.col("seed") == 1), PERSONAL, "rouge_l", "gain") == [23.0, -7.0, -22.0]
    assert of(clients.filter(pl.col("seed") == 0), PERSONAL, "rouge_l", "gain") == [30.0, 0.0, -15.0]
    means = summarize(both)
    assert of(means, PERSONAL, "rouge_l", "gain", "clients") == [(5.0 - 7 / 2, 6)]


def test_by_client_does_not_depend_on_row_order(clients):
    shuffled = by_client(to_frame(0, SCORES).sample(fraction=1.0, shuffle=True, seed=0))
    keys = ["condition", "setting", "start", "metric", "client"]
    assert shuffled.sort(keys).equals(clients.sort(keys))


def stepwise(seed, checks, texts):
    """Return a client's validation losses by step, and its ROUGE-L at some steps."""
    one = {"algorithm": "avg", "setting": "slow", "start": "last", "alpha": 1.0}
    scores = [Score(FEDERATED, "a", scope, "rouge_l", 30.0, 1) for scope in ("local", "global")]
    for step, loss in checks.items():
        scores.append(Score(Condition("personalized", **one, step=step), "a", "validation", "loss", loss, 1))
    for step, value in texts.items():
        what = Condition("personalized", **one, step=step)
        scores += [Score(what, "a", scope, "rouge_l", value, 1) for scope in ("local", "global")]
    return to_frame(seed, scores)


def test_best_step_has_least_validation_loss_per_run():
    """Text is scored at each run's best step, here 4, 8 and 12, and at the last step."""
    table = pl.concat(
        [
            stepwise(0, {4: 1.0, 8: 2.0, 12: 3.0}, {4: 50.0, 12: 10.0}),
            stepwise(1, {4: 2.0, 8: 1.0, 12: float("nan")}, {8: 60.0, 12: 10.0}),
            stepwise(2, {4: 3.0, 8: 2.0, 12: 1.0}, {12: 10.0}),
        ]
    )
    rows = summarize(table).filter(pl.col("condition") == "personalized", pl.col("step").is_null())
    assert rows.select("local", "gain", "forgetting", "clients").rows() == [(40.0, 10.0, -10.0, 3)]
    assert label(rows.row(0, named=True)) == "avg, slow, best step"
    local_only = {"condition": "local", "step": 12}
    assert [label({**local_only, "alpha": alpha}) for alpha in (1.0, 0.5)] == [
        "local only, step 12",
        "local only, α=0.5, step 12",
    ]


def test_best_step_is_omitted_when_runs_lack_scores():
    """Text is scored at the last step only, which is the best one in some of the runs."""
    table = pl.concat(
        [stepwise(0, {4: 1.0, 12: 2.0}, {12: 10.0}), stepwise(1, {4: 2.0, 12: 1.0}, {12: 10.0})]
    )
    assert summarize(table)["step"].null_count() == 0


def test_best_step_is_omitted_when_always_last():
    table = pl.concat([stepwise(seed, {4: 2.0, 12: 1.0}, {12: 10.0}) for seed in range(2)])
    assert summarize(table)["step"].null_count() == 0
