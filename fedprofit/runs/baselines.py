"""Training, trials and scoring of a run's baselines.

They are treated like the algorithms: if these have trials, each baseline has as many, and the validation
clients select one.
"""

import shutil
from dataclasses import replace
from functools import partial, reduce
from math import isfinite

from fedprofit.baseline.base import BaselineContext, BaselineSettings
from fedprofit.core.files import write_with
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.clients import score_texts
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, score as score_jobs
from fedprofit.personalization.base import stopped_before
from fedprofit.runs.bench import Bench, longest_row
from fedprofit.runs.conditions import (
    load_points,
    metrics_at,
    prompted,
    save_points,
    score_points,
    score_prompts,
)
from fedprofit.runs.folder import TRIAL, RunFolder


def context_of(bench: Bench) -> BaselineContext:
    """Return the run's inputs for its baselines."""
    pool = bench.dataset.pooled("train", "train")
    length = bench.engine.backbone.context_length
    return BaselineContext(
        bench.engine,
        bench.tuner,
        bench.solver,
        bench.start,
        bench.train_examples,
        pool,
        None if length is None else length - longest_row(bench.config, bench.dataset),
        bench.config.seed,
    )


def attempt(bench: Bench, folder: RunFolder, entry: BaselineSettings) -> None:
    """Record the loss of one trial on the validation examples of the validation clients.

    Shared parameters are scored on the set by which the algorithms' trials are selected, and stored.
    Otherwise each client's parameters are scored on the client's own examples.
    """
    record, kept = folder.history(entry.name), folder.prompts(f"{TRIAL}{entry.name}")
    if record.exists() and (kept.exists() or not entry.is_shared):
        return
    clients = bench.dataset.clients("validation")
    tuned = entry.train(context_of(bench), clients)
    jobs = [Job(0, bench.validation)]
    if entry.is_shared:
        save_points(kept, tuned, bench.tuner)
    else:
        jobs = [Job(k, bench.dataset.examples(client, "validation")) for k, client in enumerate(clients)]
    last = max(tuned.points)
    found = score_jobs(bench.engine, bench.tuner.apply(tuned.points[last]), jobs, [LOSS])
    loss = reduce(lambda one, other: one.merge(other), (each.values[LOSS.name] for each in found)).value
    row = {
        "round": last,
        "validation_loss": loss if isfinite(loss) else None,
        "tokens": sum(tuned.result.tokens),
    }
    write_record(record, [row])


def score(
    bench: Bench, folder: RunFolder, name: str, entry: BaselineSettings, has_trials: bool
) -> list[Score]:
    """Train the selected entry of a baseline, store its parameters, and score them along its steps.

    If there are several candidates (`has_trials`), the rows name the baseline instead of the selected trial,
    so that runs with different selections remain comparable.
    """
    what = Condition(name, setting=name if has_trials else entry.name)
    if not entry.is_trained:
        return _score_untrained(bench, entry, what)
    if entry.is_shared:
        return _score_shared(bench, folder, name, entry, has_trials, what)
    tuned = entry.train(context_of(bench), bench.sets.clients)
    save_points(folder.prompts(name), tuned, bench.tuner)
    return score_points(bench, bench.start, tuned, entry, what)


def _score_untrained(bench: Bench, entry: BaselineSettings, what: Condition) -> list[Score]:
    context, clients = context_of(bench), bench.sets.clients
    if not entry.answers_without_model:
        return score_prompts(bench, entry.predictor(context, clients), what, metrics_at(bench, generate=True))
    found = score_texts(entry.answer(context, clients), bench.sets, what, bench.scoring.metrics)
    bench.records.add(found.records)
    return list(found.scores)


def _score_shared(
    bench: Bench, folder: RunFolder, name: str, entry: BaselineSettings, has_trials: bool, what: Condition
) -> list[Score]:
    kept = folder.prompts(name)
    if has_trials:  # reuse the trial's parameters
        write_with(kept, partial(shutil.copyfile, folder.prompts(f"{TRIAL}{entry.name}")))
    else:
        save_points(kept, entry.train(context_of(bench), bench.sets.clients), bench.tuner)
    points, facts = load_points(kept, bench.tuner, bench.engine.backbone.device)
    scores = []
    for step, params in points.items():
        metrics = metrics_at(bench, step == max(points) or bench.config.evaluation.generate == "all")
        stopped = stopped_before(step, facts).values()
        notes = {client: reason for reason in stopped for client in bench.sets.clients}
        scores += score_prompts(bench, prompted(bench, params), replace(what, step=step), metrics, notes)
    return scores
