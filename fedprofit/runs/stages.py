"""The stages of a run, in order: one list for the runner, the progress bar and every estimate.

    base model  ->  for each method: train its trials, score the federated prompt of the selected one, then
    personalize the clients by each setting and score them  ->  for each baseline: train its trials, then
    train and score the selected one

Each stage writes its rows to its own file. A stage depends on earlier stages only through files and the
trained parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from fedprofit.algorithm.base import AlgorithmSettings
from fedprofit.baseline.base import BaselineSettings
from fedprofit.evaluate.results import Condition, Score
from fedprofit.personalization.base import PersonalizationSettings
from fedprofit.runs import baselines, cost
from fedprofit.runs.bench import Bench
from fedprofit.runs.conditions import federated, personalized, score_shared
from fedprofit.runs.folder import TRAIN, TRIAL, RunFolder, Stopwatch
from fedprofit.runs.personal import has_personal, score_personal
from fedprofit.runs.progress import Reporter
from fedprofit.runs.train import Trained, save_trained, train
from fedprofit.runs.trials import selected_trial

VALIDATION = "validation-"  # name prefix of stages that score the validation clients


@dataclass(frozen=True)
class Running:
    """State of a run in progress: its folder, its reporter, and the trained parameters."""

    folder: RunFolder
    report: Reporter
    watch: Stopwatch
    trained: dict[str, Trained] = field(default_factory=dict)  # by trial


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: name of its file and in progress messages.
        cost: in tokens read forward once (`cost.py`).
        run: computes the stage and returns its rows.
        table: the table of its rows; "" for a stage without rows.
        repeats: whether it runs again when the run is resumed, and reports its own progress.
    """

    name: str
    cost: float
    run: Callable[[Running], list[Score]]
    table: Literal["results", "validation", ""] = "results"
    repeats: bool = False


def stages_of(bench: Bench) -> list[Stage]:
    """List the stages of a run, in order."""
    sizes = {"": cost.measure(bench)}
    benches = {"": bench}
    if bench.config.evaluation.validation:
        benches[VALIDATION] = bench.of_validation_clients()
        sizes[VALIDATION] = cost.measure(benches[VALIDATION])
    found = [Stage("base", sizes[""].once(bench.config, trained=False), partial(_score_base, bench))]
    for method, trials in bench.config.training.methods.items():
        found += [_training(bench, sizes[""], trial) for trial in trials]
        for group in benches:
            found += _of_method(benches[group], sizes[group], group, method)
    without_text = not any(metric.needs_text for metric in bench.scoring.metrics)
    for name, entries in bench.config.baseline_trials.items():
        if entries[0].answers_without_model and without_text:
            continue  # a text has no loss
        found += _of_baseline(bench, sizes[""], name)
    return found


def _score_base(bench: Bench, running: Running) -> list[Score]:
    return score_shared(bench, bench.tuner.empty(bench.engine.backbone), Condition("base"))


def _training(bench: Bench, sizes: cost.Sizes, trial: AlgorithmSettings) -> Stage:
    spent = cost.of_training(bench, sizes, trial)

    def run(running: Running) -> list[Score]:
        a_round = spent / bench.config.training.rounds
        running.trained[trial.name] = train(
            bench, trial, running.folder, running.report, a_round, running.watch
        )
        return []

    return Stage(f"{TRAIN}{trial.name}", spent, run, table="", repeats=True)


def _of_method(bench: Bench, sizes: cost.Sizes, group: str, method: str) -> Iterator[Stage]:
    """Yield the stages that score a method's federated prompt and its personalizations."""
    config = bench.config
    table: Literal["results", "validation"] = "validation" if group else "results"

    def selected(running: Running) -> Trained:
        trials = [trial.name for trial in config.training.methods[method]]
        return running.trained[selected_trial(running.folder, trials)]

    def score_federated(running: Running) -> list[Score]:
        chosen = selected(running)
        if not group:
            save_trained(running.folder.prompts(f"federated-{method}"), chosen, bench.tuner)
        return federated(bench, method, chosen)

    def personalize(name: str, settings: PersonalizationSettings, running: Running) -> list[Score]:
        return personalized(bench, running.folder.prompts(name), method, selected(running), settings)

    def score_own(name: str, running: Running) -> list[Score]:
        return score_personal(bench, running.folder.prompts(name), method, selected(running))

    yield Stage(f"{group}federated-{method}", 2 * sizes.once(config), score_federated, table)
    if has_personal(bench, config.training.methods[method][0]):
        yield Stage(
            f"{group}personal-{method}",
            sizes.each(config),
            partial(score_own, f"{group}personal-{method}"),
            table,
        )
    for settings in config.personalizations(method):
        name = f"{group}personalized-{method}-{settings.name}"
        yield Stage(name, sizes.tuned(config, settings), partial(personalize, name, settings), table)


def _of_baseline(bench: Bench, sizes: cost.Sizes, name: str) -> Iterator[Stage]:
    """Yield the stages of a baseline's trials, if it has several, and of the selected one."""
    entries = bench.config.baseline_trials[name]
    has_trials = len(entries) > 1
    costs = {entry.name: cost.of_baseline(bench, sizes, entry, has_trials) for entry in entries}

    def attempt(entry: BaselineSettings, running: Running) -> list[Score]:
        baselines.attempt(bench, running.folder, entry)
        return []

    def final(running: Running) -> list[Score]:
        best = selected_trial(running.folder, [entry.name for entry in entries])
        entry = next(entry for entry in entries if entry.name == best)
        return baselines.score(bench, running.folder, name, entry, has_trials)

    for entry in entries if has_trials else ():
        yield Stage(f"{TRIAL}{entry.name}", costs[entry.name][0], partial(attempt, entry), table="")
    yield Stage(name, max(own for _, own in costs.values()), final)
