"""Training and scoring of a run's baselines.

Baselines are treated like algorithms: they have as many trials, and one is selected on the validation
clients.
"""

import shutil
from dataclasses import replace
from functools import partial, reduce
from math import isfinite

from fedprofit.baseline.base import BaselineContext, BaselineSettings
from fedprofit.core.files import write_with
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, Mean
from fedprofit.evaluate.score import score as score_jobs
from fedprofit.personalization.base import stopped_before
from fedprofit.runs.bench import Bench
from fedprofit.runs.conditions import load_points, metrics_at, save_points, score_points, score_prompts
from fedprofit.runs.folder import TRY, RunFolder
from fedprofit.tuner.prompt import KEY


def context_of(bench: Bench) -> BaselineContext:
    """Return the inputs of the run's baselines."""
    pool = bench.dataset.pooled("train", "train")
    return BaselineContext(bench.solver, bench.start, bench.train_examples, pool, bench.config.seed)


def attempt(bench: Bench, folder: RunFolder, entry: BaselineSettings) -> None:
    """Train one trial and record its loss on the validation examples of the validation clients.

    Parameters that all clients share are scored on the set that also selects the algorithms' trials, and
    saved. Otherwise each client's parameters are scored on its own examples.
    """
    record, file = folder.history(entry.name), folder.prompts(f"{TRY}{entry.name}")
    if record.exists() and (file.exists() or not entry.is_shared):
        return
    clients = bench.dataset.clients("validation")
    tuned = entry.train(context_of(bench), clients)
    jobs = [Job(0, bench.validation)]
    if entry.is_shared:
        save_points(file, tuned)
    else:
        jobs = [Job(k, bench.dataset.examples(client, "validation")) for k, client in enumerate(clients)]
    last = max(tuned.points)
    found = score_jobs(bench.engine, tuned.points[last][KEY], jobs, ["loss"])
    loss = reduce(Mean.merge, (means["loss"] for means in found)).value
    row = {
        "round": last,
        "validation_loss": loss if isfinite(loss) else None,
        "tokens": sum(tuned.result.tokens),
    }
    write_record(record, [row])


def score(
    bench: Bench, folder: RunFolder, name: str, entry: BaselineSettings, has_trials: bool
) -> list[Score]:
    """Train the selected entry of a baseline, save its parameters, and score them at its steps.

    If it has several trials, its rows contain neither the entry's name nor its rate. Runs that selected
    different entries can then be compared.
    """
    rate = getattr(getattr(entry, "client", None), "rate", None)
    what = Condition(name, setting=name) if has_trials else Condition(name, setting=entry.name, rate=rate)
    if entry.is_shared:
        return _score_shared(bench, folder, name, entry, has_trials, what)
    tuned = entry.train(context_of(bench), bench.sets.clients)
    save_points(folder.prompts(name), tuned)
    return score_points(bench, bench.start, tuned, entry, what if has_trials else replace(what, pull=0.0))


def _score_shared(
    bench: Bench, folder: RunFolder, name: str, entry: BaselineSettings, has_trials: bool, what: Condition
) -> list[Score]:
    file = folder.prompts(name)
    if has_trials:  # reuse the parameters of the trial
        write_with(file, partial(shutil.copyfile, folder.prompts(f"{TRY}{entry.name}")))
    else:
        save_points(file, entry.train(context_of(bench), bench.sets.clients))
    points, facts = load_points(file, bench.engine.backbone.device)
    scores = []
    for step, params in points.items():
        metrics = metrics_at(bench, step == max(points) or bench.config.evaluation.generate == "all")
        stopped = stopped_before(step, facts).values()
        notes = {client: reason for reason in stopped for client in bench.sets.clients}
        scores += score_prompts(bench, params, replace(what, step=step), metrics, notes)
    return scores
