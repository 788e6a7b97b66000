"""What the page shows of federated training: losses by round, all trials, and what it cost."""

from typing import Any

import polars as pl

from fedprofit.analyze.tables import Tables, with_edges
from fedprofit.report.overview import Place, plain
from fedprofit.runs.folder import TRAIN


def rounds(tables: Tables, found: list[Place]) -> list[dict[str, Any]]:
    """Loss by round, averaged over seeds, of the trials that were chosen."""
    if tables.rounds is None:
        return []
    lines = []
    for number, place in enumerate(found):
        own = place.within(tables.rounds).filter(pl.col("chosen"))
        for (algorithm,), rows in own.group_by("algorithm", maintain_order=True):
            means = rows.group_by("round", maintain_order=True).agg(
                pl.col("loss").mean(), pl.col("validation_loss").mean()
            )
            lines.append(
                {
                    "place": number,
                    "algorithm": algorithm,
                    "round": means["round"].to_list(),
                    "loss": [plain(value) for value in means["loss"]],
                    "validation": [plain(value) for value in means["validation_loss"]],
                }
            )
    return lines


def trials(tables: Tables, found: list[Place]) -> list[dict[str, Any]]:
    """What each trial came to on the validation clients, run by run; nothing where there was no choice."""
    if tables.trials is None or tables.trials["trial"].n_unique() == tables.trials["algorithm"].n_unique():
        return []
    columns = ["seed", "trial", "chosen", "edge", "validation_loss", "best_loss"]
    return [
        {"place": place.title or "this run", **{key: plain(value) for key, value in row.items()}}
        for place in found
        for row in place.within(with_edges(tables.trials))
        .sort("seed", maintain_order=True)
        .select(columns)
        .to_dicts()
    ]


def budget(tables: Tables, found: list[Place]) -> list[dict[str, Any]]:
    """What federated training cost with the chosen trial, and personalizing, a run on average."""
    if tables.rounds is None:
        return []
    rows = []
    for place in found:
        own = place.within(tables.rounds).filter(pl.col("chosen"))
        for (algorithm,), part in own.group_by("algorithm", maintain_order=True):
            runs = part["run"].n_unique()
            sums = {
                key: round(part[key].sum() / runs) for key in ("steps", "tokens", "bytes_down", "bytes_up")
            }
            trained = part.select("run", stage=pl.lit(TRAIN) + pl.col("trial")).unique()
            settings = {row["setting"] for row in place.rows if row["algorithm"] == algorithm}
            tuned = [f"personalized-{algorithm}-{setting}" for setting in settings]
            both = trained.select("run").unique().join(pl.DataFrame({"stage": tuned}), how="cross")
            rows.append(
                {
                    "place": place.title or "this run",
                    "algorithm": algorithm,
                    "rounds": len(part) // runs,
                    **sums,
                    "seconds": _seconds(tables, trained, runs),
                    "personalizing": _seconds(tables, both, runs),
                }
            )
    return rows


def _seconds(tables: Tables, stages: pl.DataFrame, runs: int) -> float | None:
    """Return the seconds of these stages of these runs, added up, a run on average."""
    if tables.times is None:
        return None
    mine = tables.times.join(stages, on=["run", "stage"], how="semi")
    return round(float(mine["seconds"].sum()) / runs, 1) if len(mine) else None
