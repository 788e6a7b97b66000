"""Configuration entries with a name in the results, standalone or as candidates of one method."""

from typing import Any

from pydantic import model_validator

from fedprofit.config.base import Name, Section


class Named(Section):
    """An entry with a name."""

    name: Name = ""
    """Name in the results. Default: the kind."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, given: Any) -> Any:
        kind = getattr(cls, "kind", "")
        return {"name": kind, **given} if kind and isinstance(given, dict) else given


class Trial(Named):
    """A method with its hyperparameters, standalone or as one of several candidates."""

    method: Name | None = None
    """Entries with the same method are candidates. The one with the lowest loss on the validation clients in
    its last round is selected and appears under this name in the results."""

    @property
    def stands_for(self) -> str:
        """The name in the results."""
        return self.method or self.name
