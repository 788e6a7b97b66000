"""What a run is known by: what it computes, wherever and however it does."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from fedprofit.config import NOT_COMPUTED, Config
from fedprofit.files import content_hash


def identity(config: Config) -> str:
    """Hash what a run computes, leaving out its name, where its data lies, and how it is computed.

    Defaults are left out too: a setting that a later version adds is no new run while it changes nothing.
    Results of versions with other defaults do not mix, since a table holds those of one version.
    """
    mapping = portable(config.model_dump(mode="json", exclude_defaults=True))
    del mapping["name"]
    for key in NOT_COMPUTED:
        mapping.get("backbone", {}).pop(key, None)
    return content_hash(mapping)


def portable(mapping: dict[str, Any]) -> dict[str, Any]:
    """Leave out where a run's data lies on this machine; the name of its file or folder stays.

    >>> portable({"data": {"source": {"path": "here/and/there.csv"}}})
    {'data': {'source': {'path': 'there.csv'}}}
    """
    result = deepcopy(mapping)
    source = result["data"]["source"]
    if "path" in source:
        source["path"] = Path(source["path"]).name
    return result
