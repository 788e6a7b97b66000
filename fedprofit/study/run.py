"""The run: from a configuration to a folder of results.

    base model  ->  for each algorithm: train, score the federated prompt, then personalize the test
    clients by each setting and score them  ->  baselines  ->  one table

Each stage leaves its rows in a file of its own. A run that is gone on with skips the stages that are
whole, and repeats the others to the same bits: nothing a stage computes depends on what ran before it
except through files.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import torch

from fedprofit.algorithm import build
from fedprofit.config import AlgorithmConfig, Config, FineTune
from fedprofit.data.store import Examples
from fedprofit.errors import UserError
from fedprofit.evaluate.clients import score_clients
from fedprofit.evaluate.results import Condition, Score, to_frame, write_frame
from fedprofit.files import naming_full_disk, write_json
from fedprofit.personalize.finetune import Personalized, finetune
from fedprofit.personalize.interpolate import interpolate
from fedprofit.study.bench import Bench, pooled_train, prepare
from fedprofit.study.checkpoint import save_tensors
from fedprofit.study.folder import (
    RunFolder,
    check_folder,
    claim_folder,
    default_folder,
    environment,
    write_environment,
)
from fedprofit.study.plan import stages
from fedprofit.study.progress import Quiet, Reporter, duration
from fedprofit.study.summary import write_summary
from fedprofit.study.train import Trained, train
from fedprofit.tuner.prompt import KEY, no_prompt
from fedprofit.types import ClientId, Params

Stage = Callable[[], list[Score]]


def run(
    config: Config, out: Path | None = None, resume: bool = False, report: Quiet | None = None
) -> RunFolder:
    """Run a configuration and return its folder (see `folder.py` for what it holds).

    Args:
        config: what to run.
        out: the folder; `runs/NAME-HASH` if not given.
        resume: go on with the run in that folder; a complete one is returned as it is.
        report: how to tell of progress; silent if not given.

    Raises UserError for anything that is wrong with the configuration, its data, its model or the folder.
    """
    place = out or default_folder(config)
    with naming_full_disk(place):
        return _run(config, check_folder(place, config, resume), report or Quiet())


def _run(config: Config, folder: RunFolder, report: Quiet) -> RunFolder:
    if folder.summary.exists() and folder.results.exists():
        return folder
    try:
        bench = prepare(config)
        # Only now: a configuration that cannot run leaves no folder behind.
        claim_folder(folder, config)
        plan = stages(bench)
        report.plan(folder.log, sum(plan.values()))
        facts = environment(config, bench.engine.backbone, bench.dataset.fingerprint)
        for difference in write_environment(folder, facts):
            report.log(f"environment: {difference}; results may differ in the last bits")
        seconds = _run_stages(bench, folder, report, plan)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(config, error) from error
    except RuntimeError as error:
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise out_of_memory(config, error) from error
        raise
    results = pl.concat(
        [pl.read_parquet(folder.part(stage)) for stage in plan if not stage.startswith("train-")]
    )
    write_frame(folder.results, results)
    write_json(folder.path / "timing.json", seconds)
    write_summary(folder, bench, results)
    report.log(f"complete in {duration(sum(seconds.values()))}")
    return folder


def out_of_memory(config: Config, error: Exception) -> UserError:
    """Name the setting to lower."""
    reason = str(error).splitlines()[0][:120]
    return UserError(
        f"{config.name}: out of memory ({reason}). Lower backbone.token_budget (now "
        f"{config.backbone.token_budget}); it bounds memory and changes no result. Then go on with --resume."
    )


def _run_stages(
    bench: Bench, folder: RunFolder, report: Reporter, plan: dict[str, float]
) -> dict[str, float]:
    """Run what is not whole yet; return the seconds of each stage that ran now."""
    seconds = {}
    for name, stage in all_stages(bench, folder, report, plan):
        began = time.monotonic()
        report.begin(name)
        if not folder.part(name).exists():
            scores = stage()
            if scores:
                write_frame(folder.part(name), to_frame(bench.config.seed, scores))
            for client, note in sorted({(score.client, score.note) for score in scores if score.note}):
                report.log(f"{name}: client {client} stopped: {note}")
        if not name.startswith("train-"):  # training tells of its rounds itself
            report.advance(plan[name])
        seconds[name] = round(time.monotonic() - began, 3)
    return seconds


def all_stages(
    bench: Bench, folder: RunFolder, report: Reporter, plan: dict[str, float]
) -> Iterator[tuple[str, Stage]]:
    """Yield each stage's name and what it does, in the order of `plan.stages`.

    A stage must be done before the next is asked for: what training leaves goes into those behind it.
    """
    config, trained = bench.config, dict[str, Trained]()

    def train_stage(settings: AlgorithmConfig) -> list[Score]:
        name = settings.name
        work = plan[f"train-{name}"] / config.training.rounds
        trained[name] = train(bench, build(bench.engine, settings), folder, report, work)
        return []

    yield "base", partial(score_shared, bench, no_prompt(bench.engine.backbone), Condition("base"))
    for algorithm in config.training.algorithms:
        name = algorithm.name
        yield f"train-{name}", partial(train_stage, algorithm)
        yield f"federated-{name}", partial(federated, bench, folder, name, trained[name])
        for settings in config.personalization:
            stage = partial(personalized, bench, folder, name, trained[name], settings)
            yield f"personalized-{name}-{settings.name}", stage
    if config.baselines.local:
        yield "local", partial(alone, bench, folder, config.baselines.local)
    if config.baselines.central:
        yield "central", partial(centrally, bench, folder, config.baselines.central)


def score_shared(bench: Bench, prompt: Params, condition: Condition) -> list[Score]:
    """Score one prompt for all test clients."""
    return _score(bench, {KEY: prompt[KEY].unsqueeze(0)}, condition)


def federated(bench: Bench, folder: RunFolder, name: str, trained: Trained) -> list[Score]:
    """Save and score the federated prompts of the last and the best-on-validation round."""
    tensors = {f"{which}.{KEY}": getattr(trained, which)[KEY] for which in ("last", "best")}
    rounds = {"last": trained.rounds, "best": trained.best_round}
    save_tensors(folder.prompts(f"federated-{name}"), tensors, {"algorithm": name, "rounds": rounds})
    last = score_shared(
        bench, trained.last, Condition("federated", name, setting="last", step=trained.rounds)
    )
    what = Condition("federated", name, setting="best", step=trained.best_round)
    if trained.best_round == trained.rounds:  # the same prompt need not be scored twice
        return last + [replace(score, condition=what) for score in last]
    return last + score_shared(bench, trained.best, what)


def personalized(
    bench: Bench, folder: RunFolder, name: str, trained: Trained, settings: FineTune
) -> list[Score]:
    """Fine-tune the federated prompt by each test client and score it along its steps and alphas."""
    start: Params = getattr(trained, settings.start)
    tuned = _finetune(bench, start, settings)
    _save_points(folder, f"personalized-{name}-{settings.name}", tuned)
    return _score_points(bench, start, tuned, settings, "personalized", name)


def alone(bench: Bench, folder: RunFolder, settings: FineTune) -> list[Score]:
    """The baseline of each test client training alone, from the common initialization."""
    tuned = _finetune(bench, bench.start, settings)
    _save_points(folder, "local", tuned)
    return _score_points(bench, bench.start, tuned, settings, "local")


def centrally(bench: Bench, folder: RunFolder, settings: FineTune) -> list[Score]:
    """The baseline of one prompt trained on the train clients' pooled data."""
    pool = pooled_train(bench)
    tuned = finetune(bench.engine, bench.start, ["pool"], lambda _: pool, settings, bench.config.seed)
    _save_points(folder, "central", tuned)
    scores = []
    for step, params in tuned.points.items():
        condition = Condition("central", setting=settings.name, rate=settings.client.rate, step=step)
        scores += _score(bench, params, condition, last=step == max(tuned.points), notes=tuned.result.stopped)
    return scores


def _finetune(bench: Bench, start: Params, settings: FineTune) -> Personalized:
    def own(client: ClientId) -> Examples:
        return bench.dataset.examples(client, "train")

    return finetune(bench.engine, start, bench.clients, own, settings, bench.config.seed)


def _score_points(
    bench: Bench, start: Params, tuned: Personalized, settings: FineTune, condition: str, algorithm: str = ""
) -> list[Score]:
    """Score the clients' prompts at every evaluation point, and between there and the start."""
    scores = []
    for step, params in tuned.points.items():
        for alpha in sorted({1.0, *settings.interpolation}, reverse=True):
            what = Condition(
                condition,
                algorithm,
                settings.name,
                start=settings.start if algorithm else "",
                rate=settings.client.rate,
                pull=settings.pull,
                alpha=alpha,
                step=step,
            )
            mixed = interpolate(params, start, alpha)
            scores += _score(bench, mixed, what, last=step == max(tuned.points), notes=tuned.result.stopped)
    return scores


def _score(
    bench: Bench, params: Params, condition: Condition, last: bool = True, notes: dict[str, str] | None = None
) -> list[Score]:
    settings = bench.config.evaluation
    generate = last or settings.generate == "all"
    metrics = [metric for metric in settings.metrics if generate or metric == "loss"]
    return score_clients(
        bench.engine, params[KEY], bench.sets, condition, metrics, settings.max_new_tokens, notes
    )


def _save_points(folder: RunFolder, stage: str, tuned: Personalized) -> None:
    tensors = {f"step-{step}.{KEY}": params[KEY] for step, params in tuned.points.items()}
    save_tensors(folder.prompts(stage), tensors, {"clients": tuned.clients, "steps": tuned.result.steps})
