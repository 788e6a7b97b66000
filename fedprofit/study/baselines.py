"""The baselines that are trained: each client alone, and one prompt on the pooled data.

Both are held to what the algorithms are: where those have trials, these have as many, and the validation
clients choose.
"""

from collections.abc import Sequence
from functools import reduce
from math import isfinite
from pathlib import Path

from fedprofit.config import Baseline
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, Mean, score
from fedprofit.files import write_json
from fedprofit.personalize.finetune import Personalized, finetune
from fedprofit.study.bench import Bench, pooled_train
from fedprofit.study.conditions import metrics_at, save_points, score_points, score_prompts
from fedprofit.tuner.prompt import KEY
from fedprofit.types import ClientId


def alone(bench: Bench, keep: Path, settings: Baseline) -> list[Score]:
    """Let each client train alone, from the common initialization, and score it along its steps."""
    tuned = _trained_alone(bench, settings, bench.sets.clients)
    save_points(keep, tuned)
    return score_points(bench, bench.start, tuned, settings, _condition("local", settings))


def centrally(bench: Bench, keep: Path, settings: Baseline) -> list[Score]:
    """Train one prompt on the train clients' pooled data and score it along its steps."""
    tuned = _trained_centrally(bench, settings)
    save_points(keep, tuned)
    scores = []
    for step, params in tuned.points.items():
        what = _condition("central", settings, step)
        generate = step == max(tuned.points) or bench.config.evaluation.generate == "all"
        scores += score_prompts(bench, params, what, metrics_at(bench, generate), tuned.result.stopped)
    return scores


def try_alone(bench: Bench, record: Path, settings: Baseline) -> list[Score]:
    """Record how well the validation clients train alone by one trial: on their own validation examples."""
    if not record.exists():
        clients = bench.dataset.clients("validation")
        tuned = _trained_alone(bench, settings, clients)
        own = [Job(place, bench.dataset.examples(one, "validation")) for place, one in enumerate(clients)]
        _record(bench, record, tuned, own)
    return []


def try_centrally(bench: Bench, record: Path, settings: Baseline) -> list[Score]:
    """Record how well one trial's prompt does on the set that the algorithms' trials are chosen by."""
    if not record.exists():
        _record(bench, record, _trained_centrally(bench, settings), [Job(0, bench.validation)])
    return []


def _record(bench: Bench, record: Path, tuned: Personalized, jobs: Sequence[Job]) -> None:
    """Write the history of a trial: its last step alone, as of an algorithm's last round."""
    last = max(tuned.points)
    found = score(bench.engine, tuned.points[last][KEY], jobs, ["loss"])
    loss = reduce(Mean.merge, (means["loss"] for means in found)).value
    row = {
        "round": last,
        "validation_loss": loss if isfinite(loss) else None,
        "tokens": sum(tuned.result.tokens),
    }
    write_json(record, [row])


def _trained_alone(bench: Bench, settings: Baseline, clients: Sequence[ClientId]) -> Personalized:
    return finetune(bench.engine, bench.start, clients, bench.train_examples, settings, bench.config.seed)


def _trained_centrally(bench: Bench, settings: Baseline) -> Personalized:
    pool = pooled_train(bench)
    return finetune(bench.engine, bench.start, ["pool"], lambda _: pool, settings, bench.config.seed)


def _condition(name: str, settings: Baseline, step: int | None = None) -> Condition:
    # What trials differ in is not what the baseline is: runs that chose otherwise are still compared.
    if settings.method:
        return Condition(name, setting=settings.method, step=step)
    pull = settings.pull if name == "local" else None
    return Condition(name, setting=settings.name, rate=settings.client.rate, pull=pull, step=step)
