"""The conditions of a run's table: train or reuse prompts, store and score them."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch

from fedprofit.baseline.base import BaselineSettings
from fedprofit.core.types import Params
from fedprofit.evaluate.clients import check_clients, score_clients
from fedprofit.evaluate.metrics.base import Metric
from fedprofit.evaluate.results import Condition, Score
from fedprofit.personalization.base import (
    PersonalizationSettings,
    Personalized,
    personalize,
    stopped_before,
)
from fedprofit.predict.base import (
    Predictor,
    PredictorContext,
    PredictorSettings,
    Prompted,
    build_predictor,
)
from fedprofit.predict.interpolated import Interpolated
from fedprofit.runs.bench import Bench
from fedprofit.runs.checkpoint import load_tensors, save_tensors
from fedprofit.runs.train import Trained
from fedprofit.tuner.base import Tuner

SERVED = "served"  # the condition of a personalization's predictors


def score_shared(bench: Bench, prompt: Params, condition: Condition) -> list[Score]:
    """Score one prompt for all clients."""
    stacked = {key: tensor.unsqueeze(0) for key, tensor in prompt.items()}
    return score_prompts(bench, prompted(bench, stacked), condition, metrics_at(bench, generate=True))


def prompted(bench: Bench, params: Params) -> Predictor:
    """Return the predictor of stacked parameters: one set per client, or one for all."""
    return Prompted(bench.engine, bench.tuner.apply(params))


def federated(bench: Bench, name: str, trained: Trained) -> list[Score]:
    """Score the federated prompts of the last and the best-on-validation round."""
    last = score_shared(
        bench, trained.last, Condition("federated", name, setting="last", step=trained.rounds)
    )
    what = Condition("federated", name, setting="best", step=trained.best_round)
    if trained.best_round == trained.rounds:  # the prompt is already scored
        bench.records.repeat(replace(what, setting="last"), what)
        return last + [replace(score, condition=what) for score in last]
    return last + score_shared(bench, trained.best, what)


def personalized(
    bench: Bench, keep: Path, name: str, trained: Trained, settings: PersonalizationSettings
) -> list[Score]:
    """Personalize the federated prompt by each client and score it along its steps and alphas."""
    start: Params = getattr(trained, settings.start)
    clients, seed = bench.sets.clients, bench.config.seed
    tuned = personalize(settings, bench.solver, start, clients, bench.train_examples, seed)
    save_points(keep, tuned, bench.tuner)
    what = Condition("personalized", name, settings.name, settings.start)
    return score_points(bench, start, tuned, settings, what)


def score_points(
    bench: Bench,
    start: Params,
    tuned: Personalized,
    settings: PersonalizationSettings | BaselineSettings,
    what: Condition,
) -> list[Score]:
    """Score the clients' parameters at every evaluation point, interpolations, and the named predictors."""
    last, generate = max(tuned.points), bench.config.evaluation.generate
    notes = {step: stopped_before(step, tuned.facts) for step in tuned.points}

    def predictor(step: int, chosen: PredictorSettings) -> Predictor:
        personal, clients = tuned.points[step], tuned.clients
        context = PredictorContext(bench.engine, bench.tuner, personal, start, clients, bench.train_examples)
        return build_predictor(chosen, context, finite=False)

    def at(step: int, alpha: float) -> tuple[Predictor, Condition]:
        return predictor(step, Interpolated(alpha=alpha)), replace(what, alpha=alpha, step=step)

    # The clients' validation losses come first: they determine another step with generated answers.
    checks = {step: check_prompts(bench, *at(step, 1.0), notes[step]) for step in tuned.points}
    best = best_step([check for found in checks.values() for check in found], last)
    scores = []
    for step in tuned.points:
        mixes = settings.interpolation if step == last or settings.interpolate_at == "all" else ()
        for alpha in sorted({1.0, *mixes}, reverse=True):
            chosen = generate == "best" and (step, alpha) == (best, 1.0)
            metrics = metrics_at(bench, step == last or generate == "all" or chosen)
            known = checks[step] if alpha == 1.0 else None
            scores += score_prompts(bench, *at(step, alpha), metrics, notes[step], known)
    for one in settings.predictors:
        served = replace(what, condition=SERVED, setting=f"{what.setting}.{one.name}", step=last)
        scores += score_prompts(bench, predictor(last, one), served, metrics_at(bench, True), notes[last])
    return scores


def best_step(scores: Sequence[Score], last: int) -> int:
    """Return the step with the lowest mean local validation loss; the last if none is known."""
    losses: dict[int, list[float]] = {}
    for one in scores:
        if one.scope == "validation" and one.condition.alpha == 1.0 and one.condition.step is not None:
            losses.setdefault(one.condition.step, []).append(one.value)
    means = {step: sum(found) / len(found) for step, found in losses.items()}
    return min(means, key=lambda step: means[step] if isfinite(means[step]) else inf, default=last)


def metrics_at(bench: Bench, generate: bool) -> list[Metric]:
    """Return the metrics of a point: all of them, or those that need no text."""
    return [metric for metric in bench.scoring.metrics if generate or not metric.needs_text]


def score_prompts(
    bench: Bench,
    predictor: Predictor,
    condition: Condition,
    metrics: Sequence[Metric],
    notes: dict[str, str] | None = None,
    checks: Sequence[Score] | None = None,
) -> list[Score]:
    """Score a predictor on the run's sets; `checks` are its validation scores, if known."""
    most = bench.config.evaluation.max_new_tokens
    found = score_clients(bench.engine, predictor, bench.sets, condition, metrics, most, notes)
    bench.records.add(found.records)
    return [*found.scores, *(check_prompts(bench, predictor, condition, notes) if checks is None else checks)]


def check_prompts(
    bench: Bench, predictor: Predictor, condition: Condition, notes: dict[str, str] | None = None
) -> list[Score]:
    """Score a predictor on the clients' own validation examples, by loss."""
    found = check_clients(bench.engine, predictor, bench.sets, condition, notes)
    bench.records.add(found.records)
    return list(found.scores)


def save_points(path: Path, tuned: Personalized, tuner: Tuner) -> None:
    """Write the clients' prompts at every evaluation point."""
    points = {f"step-{step}": params for step, params in tuned.points.items()}
    save_tensors(path, tuner.save(points), tuned.facts)


def load_points(path: Path, tuner: Tuner, device: torch.device) -> tuple[dict[int, Params], dict[str, Any]]:
    """Read the clients' prompts by evaluation step, and the facts of `Personalized`."""
    tensors, facts = load_tensors(path, device)
    points = {int(label.removeprefix("step-")): params for label, params in tuner.load(tensors, path).items()}
    return dict(sorted(points.items())), facts
