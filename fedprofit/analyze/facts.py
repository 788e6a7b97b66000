"""Hyperparameters used by analyses: columns of settings.parquet, joined to results by setting id."""

from collections.abc import Sequence
from typing import Final

import polars as pl

ALGORITHM_KIND: Final = "algorithm.kind"
ALGORITHM_CLIENT: Final = "algorithm.client.kind"
TUNING_KIND: Final = "personalization.kind"
TUNING_CLIENT: Final = "personalization.client.kind"
TUNING_RATE: Final = "personalization.client.rate"
PROXIMAL: Final = "personalization.proximal"  # weight of the proximal term
FACTS = (ALGORITHM_KIND, ALGORITHM_CLIENT, TUNING_KIND, TUNING_CLIENT, TUNING_RATE, PROXIMAL)
NUMBERS = (TUNING_RATE, PROXIMAL)
SETTING_NAMES = ("algorithm", "setting", "start")


def agreed(table: pl.DataFrame, cell: Sequence[str] = ()) -> pl.DataFrame:
    """Return the facts of each personalization; null where seeds differ.

    Args:
        table: results with columns of FACTS; missing columns count as null.
        cell: columns that identify a grid cell.

    Returns:
        A row for each grid cell, algorithm, setting and start.
    """
    missing = [pl.lit(None, pl.String).alias(fact) for fact in FACTS if fact not in table.columns]
    tuned = table.with_columns(missing).filter(pl.col("condition") == "personalized")
    keys = [*cell, *SETTING_NAMES]
    once = tuned.select(*keys, *FACTS).unique(maintain_order=True)
    same = [pl.when(pl.col(fact).n_unique() == 1).then(pl.col(fact).first()).alias(fact) for fact in FACTS]
    return once.group_by(keys, maintain_order=True).agg(same)
