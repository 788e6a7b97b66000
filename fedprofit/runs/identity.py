"""What a run is known by: what it computes, wherever and however it does."""

from copy import deepcopy
from typing import Any

from fedprofit.config.run import Config
from fedprofit.core.files import content_hash
from fedprofit.data.sources.base import portable

# What says how and where a run is computed, and not what: it may change when a run is gone on with.
NOT_COMPUTED = ("device", "engine", "attention", "token_budget", "workers")


def identity(config: Config) -> str:
    """Hash what a run computes, leaving out its name, where its data lies, and how it is computed.

    Defaults are left out too: a setting that a later version adds is no new run while it changes nothing.
    Results of versions with other defaults do not mix, since a table holds those of one version.
    """
    mapping = portable_run(config.model_dump(mode="json", exclude_defaults=True))
    del mapping["name"]
    backbone = mapping.setdefault("backbone", {})  # also where all of it is default
    for key in NOT_COMPUTED:
        backbone.pop(key, None)
    return content_hash(mapping)


def portable_run(mapping: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration where its data lies on this machine.

    >>> portable_run({"data": {"source": {"path": "here/and/there.csv"}}})
    {'data': {'source': {'path': 'there.csv'}}}
    """
    result = deepcopy(mapping)
    result["data"]["source"] = portable(result["data"]["source"])
    return result
