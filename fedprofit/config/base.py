"""The strict base class of configuration sections, and the types of their values."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]  # 1 would never update the average
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]

ONE, SEVERAL = "one", "several"  # tags of a union of a section and a list of sections


def _one_or_several(value: Any) -> str:
    return SEVERAL if isinstance(value, list | tuple) else ONE


OneOrSeveral = Discriminator(_one_or_several)


class Section(BaseModel):
    """A frozen section of the configuration without unknown keys or type conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: cls._prepare(key, value) for key, value in given.items()}

    @classmethod
    def _prepare(cls, key: str, value: Any) -> Any:
        """Convert a list to a tuple if the field is one; set a missing kind to that of the default."""
        field = cls.model_fields.get(key)
        if field is None:
            return value
        if isinstance(value, list) and "tuple" in str(field.annotation):
            return tuple(value)
        kind = getattr(field.default, "kind", "") if isinstance(field.default, Section) else ""
        if kind and isinstance(value, dict) and "kind" not in value:
            return {"kind": kind, **value}
        return value
