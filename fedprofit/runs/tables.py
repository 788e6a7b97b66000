"""The tables of a complete run, put together from what its stages left."""

from collections.abc import Sequence

import polars as pl

from fedprofit.config.run import Config
from fedprofit.core.reading import read_parquet
from fedprofit.evaluate.hyperparameters import ScoredSetting, identified
from fedprofit.evaluate.results import SCHEMA, write_frame
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.settings import settings_of, settings_table
from fedprofit.runs.trials import chosen_trials


def write_tables(
    folder: RunFolder, config: Config, scored: Sequence[str], checks: Sequence[str]
) -> pl.DataFrame:
    """Write the settings, and the scores of the test and of the validation clients.

    Args:
        folder: the run's.
        config: its configuration.
        scored: the stages that score test clients.
        checks: those that score validation clients; without any, these have no table.

    Returns:
        The scores of the test clients.
    """
    settings = settings_of(config.to_mapping(), chosen_trials(folder, config))
    write_frame(folder.settings, settings_table(settings))
    if checks:
        write_frame(folder.validation, _gathered(folder, checks, settings))
    results = _gathered(folder, scored, settings)
    write_frame(folder.results, results)
    return results


def _gathered(folder: RunFolder, stages: Sequence[str], settings: Sequence[ScoredSetting]) -> pl.DataFrame:
    # Relaxed: a run that an earlier version began has other columns.
    parts = [read_parquet(folder.part(stage), folder.again()) for stage in stages]
    return identified(pl.concat(parts, how="diagonal_relaxed"), settings).select(SCHEMA)
