"""The scored settings of a run with their hyperparameters, from its configuration."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from fedprofit.evaluate.hyperparameters import (
    ALGORITHM,
    BASELINE,
    NEW,
    PERSONALIZATION,
    PREDICTOR,
    ScoredSetting,
    flattened,
    in_common,
    settings_frame,
)

Entry = Mapping[str, Any]


def settings_of(
    configuration: Mapping[str, Any],
    chosen: Mapping[str, str],
    regime: str = NEW,
    personal: Collection[str] = (),
) -> list[ScoredSetting]:
    """List the settings that a run scores.

    Args:
        configuration: of the run, complete (`Config.to_mapping`).
        chosen: the selected trial of each algorithm and baseline. If it is missing, only the common
            hyperparameters of its trials are known.
        regime: whether the scored clients took part in training.
        personal: the methods with personal parameters.
    """
    return list(_settings(configuration, chosen, regime, personal))


def settings_table(settings: Sequence[ScoredSetting]) -> pl.DataFrame:
    """Make the table of a run's settings."""
    return settings_frame(one.row for one in settings)


def _settings(
    configuration: Mapping[str, Any], chosen: Mapping[str, str], regime: str, personal: Collection[str]
) -> Iterator[ScoredSetting]:
    yield ScoredSetting("base", regime=regime)
    methods: dict[str, list[Entry]] = {}
    for entry in configuration["training"]["algorithms"]:
        methods.setdefault(entry.get("method") or entry["name"], []).append(entry)
    for method, trials in methods.items():
        algorithm = {ALGORITHM: _selected(trials, chosen.get(method))}
        for which in ("last", "best"):
            yield ScoredSetting("federated", method, which, regime=regime, parts=algorithm)
        if method in personal:
            yield ScoredSetting("personal", method, "personal", regime=regime, parts=algorithm)
        for entry in configuration.get("personalization") or ():
            if method in (entry.get("algorithms") or methods):
                parts = algorithm | {PERSONALIZATION: flattened(entry)}
                yield ScoredSetting("personalized", method, entry["name"], entry["start"], regime, parts)
                for one in entry.get("predictors") or ():
                    served = parts | {PREDICTOR: flattened(one)}
                    name = f"{entry['name']}.{one['name']}"
                    yield ScoredSetting("served", method, name, entry["start"], regime, served)
    for name, value in (configuration.get("baselines") or {}).items():
        trials = value if isinstance(value, list) else [value] if value else []
        if trials:
            setting = trials[0]["name"] if len(trials) == 1 else name
            own = {BASELINE: _selected(trials, chosen.get(name))}
            yield ScoredSetting(name, setting=setting, regime=regime, parts=own)


def _selected(trials: Sequence[Entry], name: str | None) -> dict[str, Any]:
    """Return the hyperparameters of the trial of this name, or the common ones of all trials."""
    named = [entry for entry in trials if entry["name"] == name]
    return in_common([flattened(entry) for entry in named or trials])
