"""The run: from a configuration to a folder of results.

    base model  ->  for each method: train its trials and choose one by the validation clients, score the
    federated prompt, then personalize the test clients by each setting and score them  ->  for each
    baseline: try and choose likewise, train and score  ->  one table; where asked for, the validation
    clients are personalized and scored too, into another

Each stage leaves its rows in a file of its own. A run that is gone on with skips the stages that are
whole, and repeats the others to the same bits: nothing a stage computes depends on what ran before it
except through files.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from fedprofit.algorithm.base import AlgorithmSettings, Context
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError, first_line, is_out_of_memory
from fedprofit.core.files import alone_in, naming_place
from fedprofit.core.places import ANEW, numba_folder
from fedprofit.core.reading import read_parquet
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.results import Condition, Score, to_frame, write_frame
from fedprofit.evaluate.rules import SCORING
from fedprofit.runs.baselines import BASELINES
from fedprofit.runs.bench import Bench, prepare
from fedprofit.runs.conditions import federated, personalized, score_shared
from fedprofit.runs.environment import check_content, check_environment, environment, write_environment
from fedprofit.runs.folder import (
    TRAIN,
    TRY,
    RunFolder,
    Stopwatch,
    check_folder,
    claim_folder,
    default_folder,
    must_rewrite_config,
    read_timing,
    remove_damaged,
)
from fedprofit.runs.plan import stages
from fedprofit.runs.progress import Quiet, Reporter, duration, logged
from fedprofit.runs.summary import write_summary
from fedprofit.runs.train import Trained, save_trained, train
from fedprofit.runs.trials import chosen_of

Stage = Callable[[], list[Score]]


def run(
    config: Config, out: str | Path | None = None, resume: bool = False, report: Quiet | None = None
) -> RunFolder:
    """Run a configuration and return its folder (see `folder.py` for what it holds).

    It holds the results; `fedprofit.write_report(folder.path)` writes the page, tables and pictures beside
    them, as the command does.

    Args:
        config: what to run.
        out: the folder; `runs/NAME-HASH` if not given.
        resume: go on with the run in that folder; a complete one is returned as it is, on unchanged data.
        report: how to tell of progress; silent if not given.

    Raises UserError for anything that is wrong with the configuration, its data, its model or the folder.
    """
    place = Path(out) if out else default_folder(config)
    with naming_place(place):
        folder = check_folder(place, config, resume)
        if folder.is_complete:
            check_content(folder, config)
            if must_rewrite_config(folder, config):
                with alone_in(folder.path):
                    claim_folder(folder, config)
        else:
            report = report or Quiet()
            with logged(report):
                _run(config, folder, report)
        return folder


def _run(config: Config, folder: RunFolder, report: Quiet) -> None:
    try:
        # A run gone on with elsewhere keeps its number type: half a run in another is neither's result.
        bench = prepare(config, folder.dtype)
        facts = environment(config, bench.engine, bench.dataset.fingerprint)
        facts[SCORING] = bench.rules.to_mapping()
        check_environment(folder, config, facts)
        # Only now: a configuration that cannot run leaves no folder behind.
        with alone_in(folder.path):
            claim_folder(folder, config)
            _compute(bench, folder, facts, report)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(config, error) from error
        raise


def _compute(bench: Bench, folder: RunFolder, facts: dict[str, Any], report: Quiet) -> None:
    """Compute what of the run is not whole yet, and put it together."""
    for reason in remove_damaged(folder):
        report.warn(f"made again, since {reason}")
    plan = stages(bench)
    report.plan(folder.log, sum(plan.values()))
    write_record(folder.plan, {stage: round(work) for stage, work in plan.items()})
    report.log(f"computed by {bench.engine.reason}")
    _, not_kept = numba_folder()
    if bench.engine.attention == "fused" and not_kept:
        report.log(f"compiled loops: {ANEW}: {not_kept}")
    differences = write_environment(folder, facts)
    if differences:
        report.warn(
            f"resumed with another environment: {'; '.join(differences)}. Sums are rounded otherwise from "
            "here on, so that results may differ from those of a run in one piece (float32: in the last "
            "bits; half precision: visibly). environment.json records it under resumed"
        )
    for what, text in bench.dataset.remarks():
        report.log(f"data: {what}: {text}")
    _run_stages(bench, folder, report, plan)
    checks = [stage for stage in plan if stage.startswith("validation-")]
    if checks:
        write_frame(folder.validation, _gathered(folder, checks))
    scored = [stage for stage in plan if stage not in checks and not stage.startswith((TRAIN, TRY))]
    results = _gathered(folder, scored)
    write_frame(folder.results, results)
    write_summary(folder, bench, results)
    report.log(f"complete in {duration(sum(read_timing(folder).values()))}")


def _gathered(folder: RunFolder, stages: Sequence[str]) -> pl.DataFrame:
    # Relaxed: a run that an earlier version began may lack a column.
    return pl.concat(
        [read_parquet(folder.part(stage), folder.again()) for stage in stages], how="diagonal_relaxed"
    )


def out_of_memory(config: Config, error: Exception) -> UserError:
    """Name the setting to lower."""
    return UserError(
        f"{config.name}: out of memory ({first_line(error)}). Lower backbone.token_budget (now "
        f"{config.backbone.token_budget}), which bounds memory (sums are then rounded otherwise, in every "
        "number type), and go on with --resume."
    )


def _run_stages(bench: Bench, folder: RunFolder, report: Reporter, plan: dict[str, float]) -> None:
    """Run what is not whole yet, and add up the seconds of each stage."""
    watch = Stopwatch(folder)
    for name, stage in all_stages(bench, folder, report, plan, watch):
        watch.begin(name)
        report.begin(name)
        whole = folder.part(name).exists()
        if not whole:
            scores = stage()
            if scores:
                write_frame(folder.part(name), to_frame(bench.config.seed, scores))
            for client, note in sorted({(score.client, score.note) for score in scores if score.note}):
                report.log(f"{name}: client {client} stopped: {note}")
        if not name.startswith(TRAIN):  # training tells of its rounds itself
            (report.skip if whole else report.advance)(plan[name])
        watch.lap()


def all_stages(
    bench: Bench, folder: RunFolder, report: Reporter, plan: dict[str, float], watch: Stopwatch
) -> Iterator[tuple[str, Stage]]:
    """Yield each stage's name and what it does, in the order of `plan.stages`.

    A stage must be done before the next is asked for: what training leaves goes into those behind it.
    """
    config, trained = bench.config, dict[str, Trained]()
    groups = {"": bench}
    if config.evaluation.validation:
        groups["validation-"] = bench.of_validation_clients()

    def train_stage(settings: AlgorithmSettings) -> list[Score]:
        name = settings.name
        work = plan[f"{TRAIN}{name}"] / config.training.rounds
        trained[name] = train(bench, settings.build(Context(bench.solver)), folder, report, work, watch)
        return []

    yield "base", partial(score_shared, bench, bench.tuner.empty(bench.engine.backbone), Condition("base"))
    for method, trials in config.training.methods.items():
        for trial in trials:
            yield f"{TRAIN}{trial.name}", partial(train_stage, trial)
        chosen = trained[chosen_of(folder, [trial.name for trial in trials])]
        save_trained(folder.prompts(f"federated-{method}"), chosen, bench.tuner)
        for group, its_bench in groups.items():
            yield f"{group}federated-{method}", partial(federated, its_bench, method, chosen)
            for settings in config.personalizations(method):
                name = f"{group}personalized-{method}-{settings.name}"
                yield name, partial(personalized, its_bench, folder.prompts(name), method, chosen, settings)
    for name, entries in config.baselines.trials.items():
        (attempt, final), tried = BASELINES[name], len(entries) > 1
        for entry in entries if tried else ():
            yield f"{TRY}{entry.name}", partial(attempt, bench, folder, entry)
        best = chosen_of(folder, [entry.name for entry in entries])
        chosen_entry = next(entry for entry in entries if entry.name == best)
        yield name, partial(final, bench, folder, chosen_entry, tried)
