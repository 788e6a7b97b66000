"""The condition "personal": the parameters of each client from a method's own training."""

from pathlib import Path

from fedprofit.algorithm.base import AlgorithmSettings, Context
from fedprofit.evaluate.results import Condition, Score
from fedprofit.runs.bench import Bench
from fedprofit.runs.checkpoint import save_tensors
from fedprofit.runs.conditions import metrics_at, prompted, score_prompts
from fedprofit.runs.train import Trained

PERSONAL = "personal"


def has_personal(bench: Bench, settings: AlgorithmSettings) -> bool:
    """Return whether a method has personal parameters."""
    return settings.build(Context(bench.solver)).personal is not None


def score_personal(bench: Bench, keep: Path, method: str, trained: Trained) -> list[Score]:
    """Score the clients' personal parameters; the regime selects new or participating clients."""
    assert trained.personal is not None
    clients = bench.sets.clients
    params = trained.personal(clients)
    facts = {"clients": list(clients), "steps": [trained.rounds] * len(clients), "stopped": {}}
    save_tensors(keep, bench.tuner.save({f"step-{trained.rounds}": params}), facts)
    condition = Condition(PERSONAL, method, setting=PERSONAL, step=trained.rounds)
    return score_prompts(bench, prompted(bench, params), condition, metrics_at(bench, generate=True))
