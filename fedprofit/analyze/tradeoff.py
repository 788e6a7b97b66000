"""From the tidy table to the trade-off: what each condition gains locally and loses elsewhere.

Gain and forgetting compare personalized parameters with the federated ones that they started from, client by
client. A positive gain is better and a positive forgetting is worse, for every metric: for a score, gain =
after - before and forgetting = before - after; for a loss the other way round.

What is retained elsewhere is the score on the rows that are foreign to the client (scope "others"). Where
that is undefined, since each client holds all tasks, it is the score on the global set.
"""

from collections.abc import Sequence

import polars as pl

from fedprofit.evaluate.metric import lower_ones
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.results import GLOBAL, LOCAL, OTHERS, TASK, UNSEEN, VALIDATION

KEYS = ["algorithm", "condition", "setting", "start", "alpha", "step", "metric"]
SCOPES = (LOCAL, GLOBAL, OTHERS, UNSEEN)
UNTRAINED = {"majority": "majority label", "copy_input": "input copied", "in_context": "examples in context"}
KEPT = "kept"  # the column of the retained score


def protocol_of(results: pl.DataFrame) -> int:
    """Return the version of the protocol: 2 has scores by task in every scope."""
    return 2 if results["scope"].str.ends_with(TASK).any() else 1


def robustness_of(results: pl.DataFrame) -> str:
    """Return the scope of the retained score: "others" where all clients have such rows, else "global"."""
    counts = results.group_by("scope").agg(pl.struct("seed", "client").n_unique().alias("clients"))
    clients = dict(counts.rows())
    return OTHERS if clients.get(OTHERS, 0) == clients.get(GLOBAL, 0) > 0 else GLOBAL


def by_client(results: pl.DataFrame, robustness: str | None = None) -> pl.DataFrame:
    """Spread scopes into columns: a row per seed, condition, client and metric.

    Args:
        results: of one grid cell.
        robustness: the scope of the retained score; by default that of `robustness_of`.

    Returns:
        Columns `local`, `global`, `others`, `unseen`, `kept` (the retained score), `local_count`, and `gain`
        and `forgetting` where there are federated parameters to compare with (null elsewhere).
    """
    keys = ["seed", *KEYS, "client"]
    scores = results.filter(pl.col("scope").is_in(SCOPES))
    # One group-by per scope, since a pivot would drop or disorder keys that are null.
    wide = scores.select(*keys).unique(maintain_order=True)
    for scope in SCOPES:
        one = scores.filter(pl.col("scope") == scope).select(*keys, pl.col("value").alias(scope))
        wide = wide.join(one, on=keys, how="left", nulls_equal=True, maintain_order="left")
    counts = scores.filter(pl.col("scope") == LOCAL).select(*keys, pl.col("count").alias("local_count"))
    notes = scores.group_by(keys, maintain_order=True).agg(pl.col("note").max())
    wide = wide.join(counts, on=keys, how="left", nulls_equal=True, maintain_order="left")
    wide = wide.join(notes, on=keys, how="left", nulls_equal=True, maintain_order="left")
    wide = wide.with_columns(pl.col(robustness or robustness_of(results)).alias(KEPT))
    before = wide.filter(pl.col("condition") == "federated").select(
        "seed",
        "algorithm",
        pl.col("setting").alias("start"),
        "client",
        "metric",
        pl.col(LOCAL).alias("local_before"),
        pl.col(KEPT).alias("kept_before"),
    )
    pair = ["seed", "algorithm", "start", "client", "metric"]
    wide = wide.join(before, on=pair, how="left", maintain_order="left")
    lower = lower_ones(wide["metric"].unique())
    sign = pl.when(pl.col("metric").is_in(lower)).then(-1.0).otherwise(1.0)
    return wide.with_columns(
        gain=sign * (pl.col(LOCAL) - pl.col("local_before")),
        forgetting=sign * (pl.col("kept_before") - pl.col(KEPT)),
    ).drop("local_before", "kept_before")


def with_best_step(
    clients: pl.DataFrame, results: pl.DataFrame, run: str = "seed", axes: Sequence[str] = ()
) -> pl.DataFrame:
    """Add each setting's best step as a condition, whose step is null.

    The best step of a run has the least mean loss on the clients' own validation examples. It is a stopping
    rule that uses no test example. It is left out where a run of the grid cell was not scored at its best
    step, as by text.

    Args:
        clients: of `by_client`, by any metric.
        results: the complete table that they come from.
        run: the column of both that identifies a run.
        axes: the columns of `results` that identify a grid cell.

    Returns:
        The rows, and those of the best steps; a column `at` contains each row's own step.
    """
    setting = ["algorithm", "setting", "start"]
    tuned = (pl.col("condition") == "personalized") & (pl.col("alpha") == 1.0)
    checks = results.filter(tuned, pl.col("scope") == VALIDATION, pl.col("metric") == LOSS.name)
    means = checks.group_by(*axes, run, *setting, "step").agg(pl.col("value").mean())
    # NaN is sorted after all numbers.
    ordered = means.sort("value", "step").group_by(*axes, run, *setting)
    best = ordered.agg(pl.col("step").first().alias("best"), pl.col("step").max().alias("last"))
    clients = clients.with_columns(at=pl.col("step"))
    own = clients.filter(tuned).join(best, on=[run, *setting], maintain_order="left")
    is_best, is_last = pl.col("step") == pl.col("best"), pl.col("step") == pl.col("last")
    is_scored = (is_best.sum() == is_last.sum()).over(*axes, *setting, "metric")
    own = own.filter(is_best, is_scored).with_columns(step=pl.lit(None, clients["step"].dtype))
    return pl.concat([clients, own.select(clients.columns)])


def without_repeats(clients: pl.DataFrame) -> pl.DataFrame:
    """Leave out a setting's best step where it is the last in all runs.

    Args:
        clients: of `with_best_step`, of one grid cell.
    """
    setting = ["algorithm", "condition", "setting", "start", "metric"]
    is_best = (pl.col("condition") == "personalized") & pl.col("step").is_null()
    marked = clients.with_columns(is_last=pl.col("at") == pl.col("step").max().over(setting))
    repeats_last = pl.col("is_last").all().over(*setting, "step")
    return marked.filter(~(is_best & repeats_last)).drop("is_last")


def units_of(results: pl.DataFrame) -> pl.DataFrame:
    """Return all conditions client by client, the best round and the best step as one condition each."""
    return with_one_best_round(without_repeats(with_best_step(by_client(results), results)))


def summarize(results: pl.DataFrame) -> pl.DataFrame:
    """Average over clients and seeds: a row per condition and metric.

    Means have equal client weights; `local_weighted` weighs clients by test examples; `local_worst_tenth` is
    the mean over the worst tenth of the clients (at least one); `hurt` is the share of clients whose local
    score is worse than before. `clients` counts the clients and `stopped` those of them that stopped early.
    """
    return averaged(units_of(results))


def averaged(clients: pl.DataFrame) -> pl.DataFrame:
    """Average the rows of `units_of`; see `summarize`."""
    lower = lower_ones(clients["metric"].unique())
    quality = pl.when(pl.col("metric").is_in(lower)).then(-pl.col("local")).otherwise(pl.col("local"))
    # NaN is worst.
    worst_first = pl.col("local").sort_by(quality.fill_nan(float("-inf")), nulls_last=True)
    tenth = (pl.len() / 10).ceil().cast(pl.Int64)
    return clients.group_by(KEYS, maintain_order=True).agg(
        pl.col("local").mean(),
        pl.col("global").mean(),
        pl.col("others").mean(),
        pl.col("unseen").mean(),
        pl.col("kept").mean(),
        pl.col("gain").mean(),
        pl.col("forgetting").mean(),
        (pl.col("gain") < 0).mean().alias("hurt"),
        ((pl.col("local") * pl.col("local_count")).sum() / pl.col("local_count").sum()).alias(
            "local_weighted"
        ),
        worst_first.head(tenth).mean().alias("local_worst_tenth"),
        pl.len().alias("clients"),
        (pl.col("note") != "").sum().alias("stopped"),
    )


def with_one_best_round(clients: pl.DataFrame) -> pl.DataFrame:
    """Set the step of best-round prompts to null where seeds differ, so that they are one condition."""
    best = (pl.col("condition") == "federated") & (pl.col("setting") == "best")
    rounds = pl.col("step").n_unique().over("algorithm", "condition", "setting")
    return clients.with_columns(step=pl.when(best & (rounds > 1)).then(None).otherwise(pl.col("step")))


def label(row: dict[str, object]) -> str:
    """Return a short readable name of a condition.

    >>> slow = {"condition": "personalized", "algorithm": "fedavg", "setting": "slow"}
    >>> label({**slow, "alpha": 0.5, "step": 12})
    'fedavg, slow, α=0.5, step 12'
    """
    condition = str(row["condition"])
    if condition == "base":
        return "base model, no prompt"
    alpha = f", α={row['alpha']:g}" if row.get("alpha") not in (None, 1.0) else ""
    if condition == "local":
        return f"local only{alpha}, step {row['step']}"
    if condition == "central":
        return f"central, step {row['step']}"
    if condition in UNTRAINED:
        return UNTRAINED[condition]
    if condition == "federated":
        round = "" if row["step"] is None else f" {row['step']}"
        which = "" if row["setting"] == "last" else f" (best round{round})"
        return f"{row['algorithm']}, federated{which}"
    step = "best step" if row["step"] is None else f"step {row['step']}"
    return f"{row['algorithm']}, {row['setting']}{alpha}, {step}"
