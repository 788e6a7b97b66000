"""Entries of a configuration that have a name in results, alone or as trials of one method."""

from typing import Any

from pydantic import model_validator

from fedprofit.config.base import Name, Section


class Named(Section):
    """An entry with a name; by default its kind."""

    name: Name = ""
    """What results call it; by default its kind."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, given: Any) -> Any:
        kind = getattr(cls, "kind", "")
        return {"name": kind, **given} if kind and isinstance(given, dict) else given


class Trial(Named):
    """A method with its hyperparameters, by itself or as one of several candidates."""

    method: Name | None = None
    """Entries that name the same method are its candidates. The one whose last round has the least loss on
    the validation clients is selected and appears under this name in all results."""

    @property
    def stands_for(self) -> str:
        """The name that results have."""
        return self.method or self.name
