"""Trials of a method: several hyperparameters of it, chosen among by validation clients alone.

What an algorithm is chosen by is the loss of the last round's prompt on the global validation set, since
that prompt is what is personalized by default. The best round's stands beside it, for whoever starts from
that. A baseline is chosen likewise after its last step: the central prompt on the same set, and training
alone by what the validation clients come to, each with its own prompt on its own examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_rows
from fedprofit.runs.folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What one trial came to."""

    method: str  # an algorithm's name, or local or central
    trial: str
    chosen: bool
    rounds: int  # of a baseline: local steps
    loss: float | None  # what it is chosen by, nats per target token; None if not finite
    best_round: int
    best_loss: float | None
    tokens: int


def check_trials(config: Config) -> None:
    """Raise UserError unless every baseline has as many trials as every algorithm."""
    wanted = max(len(trials) for trials in config.training.methods.values())
    for name, trials in config.baseline_trials.items():
        if len(trials) != wanted:
            raise UserError(
                f"{config.name}: baselines.{name}: give as many trials as each algorithm has ({wanted}, not "
                f"{len(trials)}), such as client: {{rate: {{pick: [...]}}}}, or leave it out with null."
            )


def outcomes(folder: RunFolder, config: Config) -> list[Outcome]:
    """Return what every trial of the algorithms came to; one by itself is a trial too."""
    methods = config.training.methods.items()
    return [one for name, trials in methods for one in outcomes_of(folder, name, [t.name for t in trials])]


def baseline_outcomes(folder: RunFolder, config: Config) -> list[Outcome]:
    """Return what the baselines' trials came to; one by itself is none, since nothing chose it."""
    tried = [(name, trials) for name, trials in config.baseline_trials.items() if len(trials) > 1]
    return [one for name, trials in tried for one in outcomes_of(folder, name, [t.name for t in trials])]


def outcomes_of(folder: RunFolder, method: str, trials: Sequence[str]) -> list[Outcome]:
    """Return what one method's trials came to; the first of those with the least loss is the chosen one."""
    found = []
    for trial in trials:
        history = read_rows(folder.history(trial), folder.again())
        checked = [row for row in history if row.get("validation_loss") is not None]
        best = min(checked, key=lambda row: row["validation_loss"], default=history[-1])
        facts = (history[-1]["round"], history[-1].get("validation_loss"), best["round"])
        found.append((trial, *facts, best.get("validation_loss"), sum(row["tokens"] for row in history)))
    chosen = min(found, key=lambda one: inf if one[2] is None else one[2])[0]
    return [Outcome(method, trial, trial == chosen, *facts) for trial, *facts in found]


def chosen_trials(folder: RunFolder, config: Config) -> dict[str, str]:
    """Return the selected trial of each algorithm, and of each baseline that has several."""
    every = [*outcomes(folder, config), *baseline_outcomes(folder, config)]
    return {one.method: one.trial for one in every if one.chosen}


def chosen_of(folder: RunFolder, trials: Sequence[str]) -> str:
    """Name the trial that stands for its method."""
    if len(trials) == 1:
        return trials[0]
    return next(outcome.trial for outcome in outcomes_of(folder, "", trials) if outcome.chosen)
