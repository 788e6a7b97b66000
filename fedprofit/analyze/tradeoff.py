"""From the tidy table to the trade-off: what each condition gains locally and loses globally.

Gain and forgetting compare a personalized prompt with the federated prompt that it started from,
client by client, and are signed so that a positive gain is better and a positive forgetting is worse,
for every metric: for a score, gain = after - before and forgetting = before - after; for a loss the
other way round.
"""

from collections.abc import Sequence

import polars as pl

from fedprofit.evaluate.metric import lower_ones
from fedprofit.evaluate.metrics.loss import LOSS

KEYS = ["algorithm", "condition", "setting", "start", "alpha", "step", "metric"]
SCOPES = ("local", "global", "unseen")


def by_client(results: pl.DataFrame) -> pl.DataFrame:
    """Spread scopes into columns: a row per seed, condition, client and metric.

    Columns `local`, `global`, `unseen`, `local_count`, and `gain` and `forgetting` where there is a
    federated prompt to compare with (null elsewhere).
    """
    keys = ["seed", *KEYS, "client"]
    scores = results.filter(pl.col("scope").is_in(SCOPES))
    # One group-by per scope, since a pivot would drop or disorder keys that are null.
    wide = scores.select(*keys).unique(maintain_order=True)
    for scope in SCOPES:
        one = scores.filter(pl.col("scope") == scope).select(*keys, pl.col("value").alias(scope))
        wide = wide.join(one, on=keys, how="left", nulls_equal=True, maintain_order="left")
    counts = scores.filter(pl.col("scope") == "local").select(*keys, pl.col("count").alias("local_count"))
    notes = scores.group_by(keys, maintain_order=True).agg(pl.col("note").max())
    wide = wide.join(counts, on=keys, how="left", nulls_equal=True, maintain_order="left")
    wide = wide.join(notes, on=keys, how="left", nulls_equal=True, maintain_order="left")
    before = wide.filter(pl.col("condition") == "federated").select(
        "seed",
        "algorithm",
        pl.col("setting").alias("start"),
        "client",
        "metric",
        pl.col("local").alias("local_before"),
        pl.col("global").alias("global_before"),
    )
    pair = ["seed", "algorithm", "start", "client", "metric"]
    wide = wide.join(before, on=pair, how="left", maintain_order="left")
    lower = lower_ones(wide["metric"].unique())
    sign = pl.when(pl.col("metric").is_in(lower)).then(-1.0).otherwise(1.0)
    return wide.with_columns(
        gain=sign * (pl.col("local") - pl.col("local_before")),
        forgetting=sign * (pl.col("global_before") - pl.col("global")),
    ).drop("local_before", "global_before")


def with_best_step(
    clients: pl.DataFrame, results: pl.DataFrame, run: str = "seed", axes: Sequence[str] = ()
) -> pl.DataFrame:
    """Add each setting's best step as a condition: step null, unlike any step of its own.

    Best is, in each run, the step at which the clients' own validation examples have the least mean loss:
    a rule for when to stop that looks at no test example. It is left out where some run of a place on the
    axes was not scored at its best step, as by text.

    Args:
        clients: of `by_client`, by any metric.
        results: the table that they come from, whole.
        run: the column, of both, that tells one run from another.
        axes: the columns of `results` that tell one place from another.

    Returns:
        The rows, and those of the best steps; a column `at` says which step each is.
    """
    setting = ["algorithm", "setting", "start"]
    tuned = (pl.col("condition") == "personalized") & (pl.col("alpha") == 1.0)
    checks = results.filter(tuned, pl.col("scope") == "validation", pl.col("metric") == LOSS.name)
    means = checks.group_by(*axes, run, *setting, "step").agg(pl.col("value").mean())
    # What is no number is sorted behind all numbers.
    ordered = means.sort("value", "step").group_by(*axes, run, *setting)
    best = ordered.agg(pl.col("step").first().alias("best"), pl.col("step").max().alias("last"))
    clients = clients.with_columns(at=pl.col("step"))
    own = clients.filter(tuned).join(best, on=[run, *setting], maintain_order="left")
    is_best, is_last = pl.col("step") == pl.col("best"), pl.col("step") == pl.col("last")
    whole = (is_best.sum() == is_last.sum()).over(*axes, *setting, "metric")
    own = own.filter(is_best, whole).with_columns(step=pl.lit(None, clients["step"].dtype))
    return pl.concat([clients, own.select(clients.columns)])


def without_repeats(clients: pl.DataFrame) -> pl.DataFrame:
    """Leave out a setting's best step where it is the last in all runs: it would say nothing new.

    Args:
        clients: of `with_best_step`, at one place on the axes.
    """
    setting = ["algorithm", "condition", "setting", "start", "metric"]
    is_best = (pl.col("condition") == "personalized") & pl.col("step").is_null()
    marked = clients.with_columns(is_last=pl.col("at") == pl.col("step").max().over(setting))
    idle = pl.col("is_last").all().over(*setting, "step")
    return marked.filter(~(is_best & idle)).drop("is_last")


def units_of(results: pl.DataFrame) -> pl.DataFrame:
    """Return all conditions client by client, the best round and the best step as one condition each."""
    return with_one_best_round(without_repeats(with_best_step(by_client(results), results)))


def summarize(results: pl.DataFrame) -> pl.DataFrame:
    """Average over clients and seeds: a row per condition and metric.

    Means weigh clients equally; `local_weighted` weighs them by test examples (a loss: by target
    tokens); `local_worst_tenth` is the mean over the worst tenth of the clients (at least one);
    `clients` counts what is behind the means and `stopped` those of them that stopped early.
    """
    return averaged(units_of(results))


def averaged(clients: pl.DataFrame) -> pl.DataFrame:
    """Average the rows of `units_of` as `summarize` says."""
    lower = lower_ones(clients["metric"].unique())
    quality = pl.when(pl.col("metric").is_in(lower)).then(-pl.col("local")).otherwise(pl.col("local"))
    # What is no number is the worst there is.
    worst_first = pl.col("local").sort_by(quality.fill_nan(float("-inf")), nulls_last=True)
    tenth = (pl.len() / 10).ceil().cast(pl.Int64)
    return clients.group_by(KEYS, maintain_order=True).agg(
        pl.col("local").mean(),
        pl.col("global").mean(),
        pl.col("unseen").mean(),
        pl.col("gain").mean(),
        pl.col("forgetting").mean(),
        ((pl.col("local") * pl.col("local_count")).sum() / pl.col("local_count").sum()).alias(
            "local_weighted"
        ),
        worst_first.head(tenth).mean().alias("local_worst_tenth"),
        pl.len().alias("clients"),
        (pl.col("note") != "").sum().alias("stopped"),
    )


def with_one_best_round(clients: pl.DataFrame) -> pl.DataFrame:
    """Take the step off the best round's prompts where it is not the same in all seeds: one condition."""
    best = (pl.col("condition") == "federated") & (pl.col("setting") == "best")
    rounds = pl.col("step").n_unique().over("algorithm", "condition", "setting")
    return clients.with_columns(step=pl.when(best & (rounds > 1)).then(None).otherwise(pl.col("step")))


def label(row: dict[str, object]) -> str:
    """Name a condition for people, in a few words.

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
    if condition == "federated":
        round = "" if row["step"] is None else f" {row['step']}"
        which = "" if row["setting"] == "last" else f" (best round{round})"
        return f"{row['algorithm']}, federated{which}"
    step = "best step" if row["step"] is None else f"step {row['step']}"
    return f"{row['algorithm']}, {row['setting']}{alpha}, {step}"
