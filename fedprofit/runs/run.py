"""Run a configuration and write its results to a folder.

`stages.py` lists the stages. When a run is resumed, stages with rows on disk are skipped; the others are
repeated with bit-identical results.
"""

from pathlib import Path
from typing import Any

from fedprofit.config.run import Config
from fedprofit.core.errors import UserError, first_line, is_out_of_memory
from fedprofit.core.files import exclusive_lock, path_in_errors
from fedprofit.core.places import ANEW, numba_folder
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.results import to_frame, write_frame
from fedprofit.evaluate.rules import METRICS
from fedprofit.plugins import blaming_plugins
from fedprofit.runs.bench import Bench, prepare
from fedprofit.runs.environment import check_content, check_environment, environment, write_environment
from fedprofit.runs.folder import (
    RunFolder,
    Stopwatch,
    check_folder,
    claim_folder,
    default_folder,
    must_rewrite_config,
    read_timing,
    remove_damaged,
)
from fedprofit.runs.progress import Quiet, duration, logged
from fedprofit.runs.stages import Running, Stage, stages_of
from fedprofit.runs.summary import write_summary
from fedprofit.runs.tables import write_stage_examples, write_tables


def run(
    config: Config, out: str | Path | None = None, resume: bool = False, report: Quiet | None = None
) -> RunFolder:
    """Run a configuration and return its folder (see `folder.py` for its files).

    `fedprofit.write_report(folder.path)` adds the page, tables and pictures, as the command does.

    Args:
        config: the configuration.
        out: the folder; default `runs/NAME-HASH`.
        resume: resume the run in that folder. A complete run is returned unchanged if its data is unchanged.
        report: progress reporter; silent by default.

    Raises UserError for a problem with the configuration, its data, its model or the folder.
    """
    place = Path(out) if out else default_folder(config)
    with path_in_errors(place):
        folder = check_folder(place, config, resume)
        if folder.is_complete:
            check_content(folder, config)
            if must_rewrite_config(folder, config):
                with exclusive_lock(folder.path):
                    claim_folder(folder, config)
        else:
            report = report or Quiet()
            with blaming_plugins(), logged(report):
                _run(config, folder, report)
        return folder


def _run(config: Config, folder: RunFolder, report: Quiet) -> None:
    try:
        # A resumed run keeps its dtype on any machine: a run in two dtypes would match neither.
        bench = prepare(config, folder.dtype)
        facts = environment(config, bench.engine, bench.dataset.fingerprint)
        facts[METRICS] = bench.scoring.to_mapping()
        check_environment(folder, config, facts)
        # Created only now, so that a configuration that cannot run leaves no folder.
        with exclusive_lock(folder.path):
            claim_folder(folder, config)
            _compute(bench, folder, facts, report)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(config, error) from error
        raise


def _compute(bench: Bench, folder: RunFolder, facts: dict[str, Any], report: Quiet) -> None:
    """Run the unfinished stages, then merge their results."""
    for reason in remove_damaged(folder):
        report.warn(f"recomputed, since {reason}")
    stages = stages_of(bench)
    report.plan(folder.log, sum(stage.cost for stage in stages))
    write_record(folder.plan, {stage.name: round(stage.cost) for stage in stages})
    report.log(f"computed by {bench.engine.reason}")
    _, reason = numba_folder()
    if bench.engine.attention == "fused" and reason:
        report.log(f"compiled loops: {ANEW}: {reason}")
    differences = write_environment(folder, facts)
    if differences:
        report.warn(
            f"resumed with another environment: {'; '.join(differences)}. Sums are rounded differently from "
            "here on, so results may differ from those of an uninterrupted run (float32: in the last "
            "bits; half precision: visibly). environment.json records it under resumed"
        )
    for what, text in bench.dataset.remarks():
        report.log(f"data: {what}: {text}")
    running = Running(folder, report, Stopwatch(folder))
    for stage in stages:
        _run_stage(stage, running, bench)
    scored, checks = (
        [stage.name for stage in stages if stage.table == table] for table in ("results", "validation")
    )
    write_summary(folder, bench, write_tables(folder, bench, scored, checks))
    report.log(f"complete in {duration(sum(read_timing(folder).values()))}")


def _run_stage(stage: Stage, running: Running, bench: Bench) -> None:
    """Run a stage unless its rows are on disk, and count its seconds."""
    folder, report = running.folder, running.report
    running.watch.begin(stage.name)
    report.begin(stage.name)
    is_done = folder.part(stage.name).exists()
    if not is_done:
        scores = stage.run(running)
        write_stage_examples(folder, stage.name, bench.records)
        if scores:
            write_frame(folder.part(stage.name), to_frame(bench.config.seed, scores))
        for client, note in sorted({(score.client, score.note) for score in scores if score.note}):
            report.log(f"{stage.name}: client {client} stopped: {note}")
    if not stage.repeats:
        (report.skip if is_done else report.advance)(stage.cost)
    running.watch.lap()


def out_of_memory(config: Config, error: Exception) -> UserError:
    """Return the error for exhausted memory, with the setting to lower."""
    return UserError(
        f"{config.name}: out of memory ({first_line(error)}). Lower backbone.token_budget (now "
        f"{config.backbone.token_budget}), which limits memory (sums are then rounded differently, in every "
        "number type), and resume with --resume."
    )
