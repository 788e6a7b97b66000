"""The identity of a run: a hash of what it computes, independent of where and how."""

from copy import deepcopy
from typing import Any

from fedprofit.config.run import Config
from fedprofit.core.files import content_hash
from fedprofit.data.sources.base import portable

# Settings of how a run is computed. They may change when it is resumed.
NOT_COMPUTED = ("device", "engine", "attention", "token_budget", "workers")


def identity(config: Config) -> str:
    """Hash what a run computes, without its name, the path of its data, and how it is computed.

    Defaults are excluded, so that a setting added by a later version does not change the hash. Results of
    versions with different defaults do not mix, since a table contains those of one version.
    """
    mapping = portable_run(config.model_dump(mode="json", exclude_defaults=True))
    del mapping["name"]
    backbone = mapping.setdefault("backbone", {})  # absent if all of it is default
    for key in NOT_COMPUTED:
        backbone.pop(key, None)
    return content_hash(mapping)


def portable_run(mapping: dict[str, Any]) -> dict[str, Any]:
    """Remove the path of the data on this machine from a configuration.

    >>> portable_run({"data": {"source": {"path": "here/and/there.csv"}}})
    {'data': {'source': {'path': 'there.csv'}}}
    """
    result = deepcopy(mapping)
    result["data"]["source"] = portable(result["data"]["source"])
    return result
