"""Trials: several hyperparameters of a method, of which the validation clients select one.

An algorithm's trials are selected by the loss of the last round's prompt on the global validation set, since
that prompt is personalized by default. The best round is also recorded, for methods that start from it. A
baseline's trials are selected by the loss after the last step: central on the same set, local by each
validation client's prompt on its own examples.
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
    """The outcome of one trial."""

    method: str  # an algorithm's name, or local or central
    trial: str
    chosen: bool
    rounds: int  # local steps for a baseline
    loss: float | None  # selection loss in nats per target token; None if not finite
    best_round: int
    best_loss: float | None
    tokens: int


def check_trials(config: Config) -> None:
    """Raise UserError unless every baseline has as many trials as every algorithm."""
    wanted = max(len(trials) for trials in config.training.methods.values())
    for name, trials in config.baseline_trials.items():
        is_trained = any(trial.is_trained for trial in trials)
        if not is_trained and len(trials) > 1:
            raise UserError(
                f"{config.name}: baselines.{name}: nothing is trained, so that there is nothing to select. "
                "Give one entry."
            )
        if is_trained and len(trials) != wanted:
            raise UserError(
                f"{config.name}: baselines.{name}: give as many trials as each algorithm has ({wanted}, not "
                f"{len(trials)}), such as client: {{rate: {{pick: [...]}}}}, or omit it with null."
            )


def outcomes(folder: RunFolder, config: Config) -> list[Outcome]:
    """Return the outcomes of all trials of the algorithms, single ones included."""
    methods = config.training.methods.items()
    return [one for name, trials in methods for one in outcomes_of(folder, name, [t.name for t in trials])]


def baseline_outcomes(folder: RunFolder, config: Config) -> list[Outcome]:
    """Return the outcomes of the baselines' trials, without single ones, which were not selected."""
    several = [(name, trials) for name, trials in config.baseline_trials.items() if len(trials) > 1]
    return [one for name, trials in several for one in outcomes_of(folder, name, [t.name for t in trials])]


def outcomes_of(folder: RunFolder, method: str, trials: Sequence[str]) -> list[Outcome]:
    """Return the outcomes of a method's trials; the first with the lowest loss is selected."""
    found = []
    for trial in trials:
        history = read_rows(folder.history(trial), folder.remedy())
        checked = [row for row in history if row.get("validation_loss") is not None]
        best = min(checked, key=lambda row: row["validation_loss"], default=history[-1])
        facts = (history[-1]["round"], history[-1].get("validation_loss"), best["round"])
        found.append((trial, *facts, best.get("validation_loss"), sum(row["tokens"] for row in history)))
    chosen = min(found, key=lambda one: inf if one[2] is None else one[2])[0]
    return [Outcome(method, trial, trial == chosen, *facts) for trial, *facts in found]


def selected_trials(folder: RunFolder, config: Config) -> dict[str, str]:
    """Return the selected trial of each algorithm, and of each baseline that has several."""
    every = [*outcomes(folder, config), *baseline_outcomes(folder, config)]
    return {one.method: one.trial for one in every if one.chosen}


def selected_trial(folder: RunFolder, trials: Sequence[str]) -> str:
    """Return the name of a method's selected trial."""
    if len(trials) == 1:
        return trials[0]
    return next(outcome.trial for outcome in outcomes_of(folder, "", trials) if outcome.chosen)
