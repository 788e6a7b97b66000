"""The conditions of a run's table: each trains or takes prompts, keeps them, and scores them."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path

from fedprofit.config import FineTune
from fedprofit.data.store import Examples
from fedprofit.evaluate.clients import score_clients
from fedprofit.evaluate.results import Condition, Score
from fedprofit.personalize.finetune import Personalized, finetune
from fedprofit.personalize.interpolate import interpolate
from fedprofit.study.bench import Bench, pooled_train
from fedprofit.study.checkpoint import save_tensors
from fedprofit.study.train import Trained
from fedprofit.tuner.prompt import KEY
from fedprofit.types import ClientId, Params


def score_shared(bench: Bench, prompt: Params, condition: Condition) -> list[Score]:
    """Score one prompt for all clients."""
    return _score(bench, {KEY: prompt[KEY].unsqueeze(0)}, condition, _metrics(bench, generate=True))


def federated(bench: Bench, name: str, trained: Trained) -> list[Score]:
    """Score the federated prompts of the last and the best-on-validation round."""
    last = score_shared(
        bench, trained.last, Condition("federated", name, setting="last", step=trained.rounds)
    )
    what = Condition("federated", name, setting="best", step=trained.best_round)
    if trained.best_round == trained.rounds:  # the same prompt need not be scored twice
        return last + [replace(score, condition=what) for score in last]
    return last + score_shared(bench, trained.best, what)


def personalized(bench: Bench, keep: Path, name: str, trained: Trained, settings: FineTune) -> list[Score]:
    """Fine-tune the federated prompt by each client and score it along its steps and alphas."""
    start: Params = getattr(trained, settings.start)
    tuned = _finetune(bench, start, settings)
    _save_points(keep, tuned)
    return _score_points(bench, start, tuned, settings, "personalized", name)


def alone(bench: Bench, keep: Path, settings: FineTune) -> list[Score]:
    """The baseline of each client training alone, from the common initialization."""
    tuned = _finetune(bench, bench.start, settings)
    _save_points(keep, tuned)
    return _score_points(bench, bench.start, tuned, settings, "local")


def centrally(bench: Bench, keep: Path, settings: FineTune) -> list[Score]:
    """The baseline of one prompt trained on the train clients' pooled data."""
    pool = pooled_train(bench)
    tuned = finetune(bench.engine, bench.start, ["pool"], lambda _: pool, settings, bench.config.seed)
    _save_points(keep, tuned)
    scores = []
    for step, params in tuned.points.items():
        condition = Condition("central", setting=settings.name, rate=settings.client.rate, step=step)
        generate = step == max(tuned.points) or bench.config.evaluation.generate == "all"
        scores += _score(bench, params, condition, _metrics(bench, generate), tuned.result.stopped)
    return scores


def _finetune(bench: Bench, start: Params, settings: FineTune) -> Personalized:
    def own(client: ClientId) -> Examples:
        return bench.dataset.examples(client, "train")

    return finetune(bench.engine, start, bench.sets.clients, own, settings, bench.config.seed)


def _score_points(
    bench: Bench, start: Params, tuned: Personalized, settings: FineTune, condition: str, algorithm: str = ""
) -> list[Score]:
    """Score the clients' prompts at every evaluation point, and between there and the start."""
    last, generate = max(tuned.points), bench.config.evaluation.generate
    what = Condition(
        condition,
        algorithm,
        settings.name,
        start=settings.start if algorithm else "",
        rate=settings.client.rate,
        pull=settings.pull,
    )

    def score(step: int, alpha: float, metrics: Sequence[str]) -> list[Score]:
        mixed = interpolate(tuned.points[step], start, alpha)
        return _score(bench, mixed, replace(what, alpha=alpha, step=step), metrics, tuned.result.stopped)

    scores = []
    for step in tuned.points:
        mixes = settings.interpolation if step == last or settings.interpolate_at == "all" else ()
        for alpha in sorted({1.0, *mixes}, reverse=True):
            scores += score(step, alpha, _metrics(bench, step == last or generate == "all"))
    best = best_step(scores, last)
    texts = [metric for metric in bench.config.evaluation.metrics if metric != "loss"]
    if generate == "best" and best != last and texts:
        scores += [found for found in score(best, 1.0, texts) if found.scope != "validation"]
    return scores


def best_step(scores: Sequence[Score], last: int) -> int:
    """Return the step with the least mean local validation loss; the last if none is known."""
    losses: dict[int, list[float]] = {}
    for one in scores:
        if one.scope == "validation" and one.condition.alpha == 1.0 and one.condition.step is not None:
            losses.setdefault(one.condition.step, []).append(one.value)
    means = {step: sum(found) / len(found) for step, found in losses.items()}
    return min(means, key=lambda step: means[step] if isfinite(means[step]) else inf, default=last)


def _metrics(bench: Bench, generate: bool) -> list[str]:
    return [metric for metric in bench.config.evaluation.metrics if generate or metric == "loss"]


def _score(
    bench: Bench,
    params: Params,
    condition: Condition,
    metrics: Sequence[str],
    notes: dict[str, str] | None = None,
) -> list[Score]:
    most = bench.config.evaluation.max_new_tokens
    return score_clients(bench.engine, params[KEY], bench.sets, condition, metrics, most, notes)


def _save_points(path: Path, tuned: Personalized) -> None:
    tensors = {f"step-{step}.{KEY}": params[KEY] for step, params in tuned.points.items()}
    save_tensors(path, tensors, {"clients": tuned.clients, "steps": tuned.result.steps})
