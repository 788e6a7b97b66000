"""settings.parquet: one row per scored setting, with all its hyperparameters as typed columns.

A setting is a condition with the settings of its algorithm, its personalization or its baseline. Columns are
named by dotted keys, such as `algorithm.client.kind` and `personalization.client.rate`. A setting's id is a
hash of this content: it is the same in all runs and does not depend on the setting's name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from fedprofit.core.files import content_hash
from fedprofit.evaluate.results import NAMES, SETTING_ID

ALGORITHM, PERSONALIZATION, BASELINE, PREDICTOR = (
    "algorithm",
    "personalization",
    "baseline",
    "predictor",
)  # name prefixes of columns
NEW, PARTICIPATING = "new", "participating"  # regimes: whether the scored clients took part in training
# The user's name and the algorithms that it applies to: not part of the content.
NOT_CONTENT = ("name", "method", "algorithms", "predictors")
SCALARS = {bool: pl.Boolean(), int: pl.Int64(), float: pl.Float64(), str: pl.String()}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class ScoredSetting:
    """A scored setting: its names in the results of a run, and all its hyperparameters."""

    condition: str
    algorithm: str = ""
    setting: str = ""
    start: str = ""
    regime: str = NEW
    parts: Mapping[str, Values] = field(default_factory=dict)  # flat, by `ALGORITHM` and so on

    @cached_property
    def row(self) -> dict[str, Any]:
        """The row of the table."""
        # The name of a federated setting is that of its round: last or best.
        start = self.setting if self.condition == "federated" else self.start
        content = {"condition": self.condition, "start": start, "regime": self.regime}
        content |= {f"{part}.{key}": value for part, own in self.parts.items() for key, value in own.items()}
        return {SETTING_ID: content_hash(content)[:12], **content}


def flattened(values: Values, above: str = "") -> dict[str, Any]:
    """Return nested hyperparameters by dotted keys, without names.

    >>> flattened({"kind": "finetune", "name": "slow", "client": {"kind": "adam", "rate": 0.003}})
    {'kind': 'finetune', 'client.kind': 'adam', 'client.rate': 0.003}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{above}{key}.")
        elif above or key not in NOT_CONTENT:
            found[f"{above}{key}"] = value
    return found


def in_common(several: Sequence[Values]) -> dict[str, Any]:
    """Return the values that all mappings have in common.

    >>> in_common([{"kind": "sgd", "rate": 0.1}, {"kind": "sgd", "rate": 0.3}])
    {'kind': 'sgd'}
    """
    first, *others = several
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}


def settings_frame(rows: Iterable[Values]) -> pl.DataFrame:
    """Make the table: typed columns, a row for each id.

    A column with values of several types becomes text.

    >>> settings_frame([{"setting_id": "a", "batch_size": 16}, {"setting_id": "b", "batch_size": "full"}]
    ...     )["batch_size"].to_list()
    ['16', 'full']
    """
    once = {row[SETTING_ID]: row for row in rows}
    names = dict.fromkeys([SETTING_ID, *(name for row in once.values() for name in row)])
    columns = {name: _column([row.get(name) for row in once.values()]) for name in names}
    return pl.DataFrame({name: pl.Series(name, values, kind) for name, (values, kind) in columns.items()})


def _column(values: Sequence[Any]) -> tuple[list[Any], pl.DataType]:
    """Return a column's values and their type."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, list | tuple) for value in known):
        inner = _kind([item for value in known for item in value])
        if inner is not None:
            return [None if value is None else list(value) for value in values], pl.List(inner)
    kind = _kind(known)
    if kind is not None:
        return [float(v) if v is not None and kind == pl.Float64 else v for v in values], kind
    return [_text(value) for value in values], pl.String()


def _kind(values: Sequence[Any]) -> pl.DataType | None:
    """Return the type that all values have; None if there is none."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return pl.Float64()
    return SCALARS.get(kinds.pop()) if len(kinds) == 1 else None if kinds else pl.String()


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def identified(frame: pl.DataFrame, settings: Sequence[ScoredSetting]) -> pl.DataFrame:
    """Add the ids of the settings in one run's table; null for rows without."""
    names = [
        {**{name: getattr(one, name) for name in NAMES}, SETTING_ID: one.row[SETTING_ID]} for one in settings
    ]
    ids = pl.DataFrame(names, schema=dict.fromkeys([*NAMES, SETTING_ID], pl.String))
    found = frame.drop(SETTING_ID, strict=False).with_columns(pl.col(NAMES).fill_null(""))
    return found.join(ids, on=NAMES, how="left", maintain_order="left")


def joined(frame: pl.DataFrame, settings: pl.DataFrame, facts: Sequence[str]) -> pl.DataFrame:
    """Join hyperparameters to a table by the setting's id; an unknown column is null."""
    known = [name for name in facts if name in settings.columns]
    found = frame.join(settings.select(SETTING_ID, *known), on=SETTING_ID, how="left", maintain_order="left")
    return found.with_columns(pl.lit(None, pl.String).alias(name) for name in facts if name not in known)
