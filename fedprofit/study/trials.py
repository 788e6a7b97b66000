"""Trials of a method: several hyperparameters of it, chosen among by validation clients alone.

What an algorithm is chosen by is the loss of the last round's prompt on the global validation set, since
that prompt is what is personalized by default. The best round's stands beside it, for whoever starts from
that. A baseline is chosen likewise after its last step: the central prompt on the same set, and training
alone by what the validation clients come to, each with its own prompt on its own examples.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from fedprofit.config import Config, Trial
from fedprofit.study.folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What one trial came to."""

    method: str
    trial: str
    chosen: bool
    rounds: int  # of a baseline: local steps
    loss: float | None  # nats per target token on the global validation set, last round; None if not finite
    best_round: int
    best_loss: float | None
    tokens: int


def outcomes(folder: RunFolder, config: Config) -> list[Outcome]:
    """Return what every trial of a run came to, from the history of its rounds.

    An algorithm by itself is a trial too; a baseline by itself is none, since nothing is known of it.
    """
    methods: list[Sequence[Trial]] = list(config.training.methods.values())
    methods += [trials for trials in config.baselines.trials.values() if len(trials) > 1]
    return [outcome for trials in methods for outcome in outcomes_of(folder, trials)]


def outcomes_of(folder: RunFolder, trials: Sequence[Trial]) -> list[Outcome]:
    """Return what one method's trials came to; the first of those with the least loss is the chosen one."""
    found = []
    for trial in trials:
        history = json.loads(folder.history(trial.name).read_text(encoding="utf-8"))
        checked = [row for row in history if row.get("validation_loss") is not None]
        best = min(checked, key=lambda row: row["validation_loss"], default=history[-1])
        facts = (
            history[-1]["round"],
            history[-1].get("validation_loss"),
            best["round"],
            best.get("validation_loss"),
        )
        found.append((trial, *facts, sum(row["tokens"] for row in history)))
    chosen = min(found, key=lambda one: inf if one[2] is None else one[2])[0]
    return [Outcome(trial.stands_for, trial.name, trial is chosen, *facts) for trial, *facts in found]


def chosen_of(folder: RunFolder, trials: Sequence[Trial]) -> str:
    """Name the trial that stands for its method."""
    if len(trials) == 1:
        return trials[0].name
    return next(outcome.trial for outcome in outcomes_of(folder, trials) if outcome.chosen)
