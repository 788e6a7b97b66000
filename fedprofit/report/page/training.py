"""Page data on federated training: losses by round, all trials, and cost."""

from typing import Any

import polars as pl

from fedprofit.analyze.tables import Tables, with_edges
from fedprofit.report.overview import GridCell, json_value
from fedprofit.runs.folder import TRAIN


def rounds(tables: Tables, cells: list[GridCell]) -> list[dict[str, Any]]:
    """Return the loss by round of the selected trials, averaged over seeds."""
    if tables.rounds is None:
        return []
    lines = []
    for number, cell in enumerate(cells):
        selected = cell.select(tables.rounds).filter(pl.col("chosen"))
        for (algorithm,), rows in selected.group_by("algorithm", maintain_order=True):
            means = rows.group_by("round", maintain_order=True).agg(
                pl.col("loss").mean(), pl.col("validation_loss").mean()
            )
            lines.append(
                {
                    "place": number,
                    "algorithm": algorithm,
                    "round": means["round"].to_list(),
                    "loss": [json_value(value) for value in means["loss"]],
                    "validation": [json_value(value) for value in means["validation_loss"]],
                }
            )
    return lines


def trials(tables: Tables, cells: list[GridCell]) -> list[dict[str, Any]]:
    """Return the validation losses of each trial by run; empty if each algorithm had only one trial."""
    if tables.trials is None or tables.trials["trial"].n_unique() == tables.trials["algorithm"].n_unique():
        return []
    columns = ["seed", "trial", "chosen", "edge", "validation_loss", "best_loss"]
    return [
        {"place": cell.title or "this run", **{key: json_value(value) for key, value in row.items()}}
        for cell in cells
        for row in cell.select(with_edges(tables.trials))
        .sort("seed", maintain_order=True)
        .select(columns)
        .to_dicts()
    ]


def budget(tables: Tables, cells: list[GridCell]) -> list[dict[str, Any]]:
    """Return the mean cost per run of federated training with the selected trial, and of personalization."""
    if tables.rounds is None:
        return []
    rows = []
    for cell in cells:
        selected = cell.select(tables.rounds).filter(pl.col("chosen"))
        for (algorithm,), part in selected.group_by("algorithm", maintain_order=True):
            runs = part["run"].n_unique()
            sums = {
                key: round(part[key].sum() / runs) for key in ("steps", "tokens", "bytes_down", "bytes_up")
            }
            trained = part.select("run", stage=pl.lit(TRAIN) + pl.col("trial")).unique()
            settings = {row["setting"] for row in cell.rows if row["algorithm"] == algorithm}
            stages = [f"personalized-{algorithm}-{setting}" for setting in settings]
            personalized = trained.select("run").unique().join(pl.DataFrame({"stage": stages}), how="cross")
            rows.append(
                {
                    "place": cell.title or "this run",
                    "algorithm": algorithm,
                    "rounds": len(part) // runs,
                    **sums,
                    "seconds": _seconds(tables, trained, runs),
                    "personalizing": _seconds(tables, personalized, runs),
                }
            )
    return rows


def _seconds(tables: Tables, stages: pl.DataFrame, runs: int) -> float | None:
    """Return the mean seconds per run of some stages of some runs."""
    if tables.times is None:
        return None
    times = tables.times.join(stages, on=["run", "stage"], how="semi")
    return round(float(times["seconds"].sum()) / runs, 1) if len(times) else None
