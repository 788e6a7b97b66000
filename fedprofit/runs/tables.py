"""The tables of a complete run, merged from the files of its stages."""

from collections.abc import Sequence

import polars as pl

from fedprofit.core.reading import read_parquet
from fedprofit.evaluate.examples import Recorder, gathered, without_names
from fedprofit.evaluate.hyperparameters import ScoredSetting, identified
from fedprofit.evaluate.results import SCHEMA, write_frame
from fedprofit.evaluate.worst import Texts, worst_examples
from fedprofit.runs.bench import Bench
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.settings import settings_of, settings_table
from fedprofit.runs.trials import selected_trials

PERSONAL = "personal-"  # name prefix of stages that score personal parameters


def write_stage_examples(folder: RunFolder, stage: str, records: Recorder) -> None:
    """Write the examples that a stage scored.

    Call this before the scores are written, which mark the stage as complete.
    """
    found = records.take()
    if found is not None:
        write_frame(folder.stage_examples(stage), found)


def write_tables(
    folder: RunFolder, bench: Bench, scored: Sequence[str], checks: Sequence[str]
) -> pl.DataFrame:
    """Write the settings, the scores of test and validation clients, and the scored examples.

    Args:
        folder: the run's.
        bench: shared state of its stages.
        scored: the stages that score test clients.
        checks: the stages that score validation clients; without any, there is no table for them.

    Returns:
        The scores of the test clients.
    """
    personal = [stage.removeprefix(PERSONAL) for stage in scored if stage.startswith(PERSONAL)]
    settings = settings_of(
        bench.config.to_mapping(),
        selected_trials(folder, bench.config),
        bench.config.evaluation.regime,
        personal,
    )
    write_frame(folder.settings, settings_table(settings))
    if checks:
        write_frame(folder.validation, _gathered(folder, checks, settings))
    results = _gathered(folder, scored, settings)
    write_frame(folder.results, results)
    _write_examples(folder, bench, scored, settings)
    return results


def _gathered(folder: RunFolder, stages: Sequence[str], settings: Sequence[ScoredSetting]) -> pl.DataFrame:
    # Relaxed: a run started by an earlier version has other columns.
    parts = [read_parquet(folder.part(stage), folder.remedy()) for stage in stages]
    return identified(pl.concat(parts, how="diagonal_relaxed"), settings).select(*SCHEMA)


def _write_examples(
    folder: RunFolder, bench: Bench, stages: Sequence[str], settings: Sequence[ScoredSetting]
) -> None:
    """Write all scored examples, and the worst of them with their texts; nothing if none is recorded."""
    paths = [folder.stage_examples(stage) for stage in stages]
    parts = [read_parquet(path, folder.remedy()) for path in paths if path.exists()]
    if not parts:
        return
    examples = gathered(parts, settings)
    write_frame(folder.examples, without_names(examples))
    scores = read_parquet(folder.results, folder.remedy())["metric"].unique().to_list()
    write_frame(folder.worst, worst_examples(examples, scores, lambda row: _texts(bench, row)))


def _texts(bench: Bench, row: int) -> Texts:
    """Return the texts of an example of the data set."""
    example = bench.dataset.store[row]
    decode = bench.engine.backbone.tokenizer.decode
    return Texts(str(decode(example.source, skip_special_tokens=True)).strip(), example.references[0])
