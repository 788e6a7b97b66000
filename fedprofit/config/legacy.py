"""Configurations that earlier versions kept in result folders, upgraded to today's keys.

This applies only to result folders. A file that a user gives to a command is read unchanged.
"""

from copy import deepcopy
from typing import Any

from fedprofit.config.component import FAMILIES, all_families
from fedprofit.evaluate.settings import with_metric_settings

OPTIMIZERS = {"client": "client optimizer", "server": "server optimizer"}  # a section, and its family


def upgraded(mapping: Any) -> Any:
    """Return a run's configuration with the keys of this version.

    Earlier versions named an optimizer by `optimizer`, kept the fields of all optimizers beside it, knew one
    kind of personalization, described a baseline with the fields of a personalization, and kept the settings
    of metrics, aggregation and partitions in other places.

    >>> old = {"training": {"algorithms": [{"kind": "fedsgd", "server": {"optimizer": "sgd", "tau": 0.1}}]}}
    >>> upgraded(old)["training"]["algorithms"][0]
    {'kind': 'fedsgd', 'server': {'kind': 'sgd'}}
    """
    if not isinstance(mapping, dict):
        return mapping
    all_families()
    result = deepcopy(mapping)
    training = result.get("training")
    baselines = result.get("baselines")
    for entry in _entries(training.get("algorithms") if isinstance(training, dict) else None):
        _upgrade_optimizers(entry)
        if weights := entry.pop("weights", None):
            entry["aggregate"] = [{"kind": "mean", "weights": weights}]
    for entry in _entries(result.get("personalization")):
        _upgrade_optimizers(entry)
        entry.setdefault("kind", "finetune")
        if "pull" in entry:
            entry["proximal"] = entry.pop("pull")
    for kind, value in baselines.items() if isinstance(baselines, dict) else ():
        for entry in _entries(value):
            if _upgrade_optimizers(entry):
                _keep_known(entry, "baseline", kind)
    data, evaluation = result.get("data"), result.get("evaluation")
    partition = data.get("partition") if isinstance(data, dict) else None
    if isinstance(partition, dict):
        _keep_known(partition, "partition", partition.get("kind", "auto"))
    if isinstance(evaluation, dict):
        result["evaluation"] = with_metric_settings(evaluation)
    return result


def _entries(value: Any) -> list[dict[str, Any]]:
    """Return the sections that a value is, or is a list of."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def _upgrade_optimizers(entry: dict[str, Any]) -> bool:
    """Name the optimizers of an entry by kind; return whether it was written by an earlier version."""
    old = False
    for key, family in OPTIMIZERS.items():
        section = entry.get(key)
        if isinstance(section, dict) and "optimizer" in section:
            kind = section.pop("optimizer")
            entry[key] = {"kind": kind, **section}
            _keep_known(entry[key], family, kind)
            old = True
    return old


def _keep_known(section: dict[str, Any], family: str, kind: str) -> None:
    """Drop the fields that a component does not have."""
    found = FAMILIES[family].find(kind) if family in FAMILIES else None
    if found is not None:
        for key in section.keys() - found.model_fields.keys() - {"kind"}:
            del section[key]
