"""Write summary.json: means by condition, the budget of each algorithm, and facts about the data."""

import math
from typing import Any

import polars as pl

from fedprofit.analyze.tradeoff import summarize
from fedprofit.core.reading import read_rows
from fedprofit.core.sealed import write_record
from fedprofit.data.describe import describe
from fedprofit.evaluate.metric import remember
from fedprofit.evaluate.results import write_frame
from fedprofit.evaluate.rules import METRICS
from fedprofit.runs.bench import Bench
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.serving import serving_costs
from fedprofit.runs.trials import baseline_outcomes, outcomes

BUDGET = ("clients", "steps", "tokens", "bytes_down", "bytes_up")


def write_summary(folder: RunFolder, bench: Bench, results: pl.DataFrame) -> None:
    """Write clients.parquet and the summary. The summary is a run's last file and marks it complete."""
    config, facts = bench.config, describe(bench.dataset)
    write_frame(folder.clients, facts.to_frame())
    remember({one.name: one.facts() for one in bench.scoring.metrics})
    rows, trials = summarize(results).to_dicts(), outcomes(folder, config)
    every = [*trials, *baseline_outcomes(folder, config)]
    write_record(
        folder.summary,
        {
            "name": config.name,
            "seed": config.seed,
            "config_hash": config.hash,
            "regime": config.evaluation.regime,
            "model": bench.engine.backbone.name,
            "attention": bench.engine.attention,
            "data": {
                "clients": facts.clients,
                "examples": facts.examples,
                "tasks": facts.tasks,
                "heterogeneity": round(facts.heterogeneity, 6),
                "global_examples": len(bench.sets.shared["global"]),
                "unseen_examples": len(bench.sets.shared["unseen"]),
            },
            METRICS: bench.scoring.to_mapping(),
            "budget": {one.method: _budget(folder, one.trial) for one in trials if one.chosen},
            "trials": [vars(one) for one in every],
            "serving": serving_costs(bench),
            "conditions": [_clean(row) for row in rows],
        },
    )


def _budget(folder: RunFolder, algorithm: str) -> dict[str, Any]:
    """Add up the cost of federated training, so that methods can be compared at equal budget."""
    rounds = read_rows(folder.history(algorithm), folder.remedy())
    total: dict[str, Any] = {key: sum(row[key] for row in rounds) for key in BUDGET}
    stopped = sum(len(row["stopped"]) for row in rounds)
    return {"rounds": len(rounds), **total, "stopped_client_rounds": stopped}


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Round numbers for display; NaN, which JSON lacks, becomes None."""
    return {
        key: (round(value, 4) if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in row.items()
    }
