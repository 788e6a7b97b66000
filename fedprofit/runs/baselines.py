"""The baselines that are trained: each client alone, and one prompt on the pooled data.

Both are held to what the algorithms are: where those have trials, these have as many, and the validation
clients choose.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from math import isfinite
from pathlib import Path

from fedprofit.core.files import write_with
from fedprofit.core.sealed import write_record
from fedprofit.core.types import ClientId
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, Mean, score
from fedprofit.personalization.base import Personalized, stopped_before
from fedprofit.personalization.finetune import FineTune
from fedprofit.runs.bench import Bench
from fedprofit.runs.conditions import (
    load_points,
    metrics_at,
    prompted,
    save_points,
    score_points,
    score_prompts,
)
from fedprofit.runs.folder import TRY, RunFolder


def alone(bench: Bench, folder: RunFolder, settings: FineTune, tried: bool) -> list[Score]:
    """Let each client train alone, from the common initialization, and score it along its steps.

    Where it was `tried`, what trials differ in is not what the baseline is: the rows say neither name nor
    rate, so that runs that chose otherwise are still compared.
    """
    tuned = _trained_alone(bench, settings, bench.sets.clients)
    save_points(folder.prompts("local"), tuned, bench.tuner)
    own = Condition("local", setting=settings.name, rate=settings.client.rate, pull=settings.pull)
    what = Condition("local", setting="local") if tried else own
    return score_points(bench, bench.start, tuned, settings, what)


def centrally(bench: Bench, folder: RunFolder, settings: FineTune, tried: bool) -> list[Score]:
    """Train one prompt on the train clients' pooled data and score it along its steps; `tried` as above.

    What a trial has trained is not trained again.
    """
    kept = folder.prompts("central")
    if tried:
        write_with(kept, partial(shutil.copyfile, folder.prompts(f"{TRY}{settings.name}")))
    else:
        save_points(kept, _trained_centrally(bench, settings), bench.tuner)
    points, facts = load_points(kept, bench.tuner, bench.engine.backbone.device)
    own = Condition("central", setting=settings.name, rate=settings.client.rate)
    what, scores = Condition("central", setting="central") if tried else own, []
    for step, params in points.items():
        metrics = metrics_at(bench, step == max(points) or bench.config.evaluation.generate == "all")
        stopped = stopped_before(step, facts).values()
        notes = {client: reason for reason in stopped for client in bench.sets.clients}
        scores += score_prompts(bench, prompted(bench, params), replace(what, step=step), metrics, notes)
    return scores


def try_alone(bench: Bench, folder: RunFolder, settings: FineTune) -> list[Score]:
    """Record how well the validation clients train alone by one trial: on their own validation examples."""
    record = folder.history(settings.name)
    if not record.exists():
        clients = bench.dataset.clients("validation")
        tuned = _trained_alone(bench, settings, clients)
        own = [Job(place, bench.dataset.examples(one, "validation")) for place, one in enumerate(clients)]
        _record(bench, record, tuned, own)
    return []


def try_centrally(bench: Bench, folder: RunFolder, settings: FineTune) -> list[Score]:
    """Record how well one trial's prompt does on the set that the algorithms' trials are chosen by."""
    record, kept = folder.history(settings.name), folder.prompts(f"{TRY}{settings.name}")
    if not record.exists() or not kept.exists():
        tuned = _trained_centrally(bench, settings)
        save_points(kept, tuned, bench.tuner)
        _record(bench, record, tuned, [Job(0, bench.validation)])
    return []


def _record(bench: Bench, record: Path, tuned: Personalized, jobs: Sequence[Job]) -> None:
    """Write the history of a trial: its last step alone, as of an algorithm's last round."""
    last = max(tuned.points)
    found = score(bench.engine, bench.tuner.apply(tuned.points[last]), jobs, ["loss"])
    loss = reduce(Mean.merge, (means["loss"] for means in found)).value
    row = {
        "round": last,
        "validation_loss": loss if isfinite(loss) else None,
        "tokens": sum(tuned.result.tokens),
    }
    write_record(record, [row])


def _trained_alone(bench: Bench, settings: FineTune, clients: Sequence[ClientId]) -> Personalized:
    return settings.build(bench.solver)(bench.start, clients, bench.train_examples, bench.config.seed)


def _trained_centrally(bench: Bench, settings: FineTune) -> Personalized:
    pool = bench.dataset.pooled("train", "train")
    return settings.build(bench.solver)(bench.start, ["pool"], lambda _: pool, bench.config.seed)


# How each baseline is tried, and how the chosen one is trained and scored.
BASELINES = {"local": (try_alone, alone), "central": (try_centrally, centrally)}
