"""Words for what pydantic found wrong with a configuration: the key, the value, the remedy."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fedprofit.errors import nearest


def explain(error: ValidationError, model: type[BaseModel], place: str) -> str:
    """Return one paragraph that names each wrong key of `place`, its value and what to write."""
    problems = [_problem(detail, model) for detail in error.errors(include_url=False)]
    return f"{place}: " + "; ".join(problems) + "."


def _problem(detail: Any, model: type[BaseModel]) -> str:
    location = [part for part in detail["loc"] if not _is_tag(part, detail["loc"])]
    key = ".".join(str(part) for part in location) or "the configuration"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r} ({nearest(str(location[-1]), _keys_at(model, detail['loc'][:-1]))})"
    if detail["type"] == "missing":
        return f"{key!r} is missing and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = detail["input"]
    shown = "" if isinstance(value, dict | list) else f" (found {value!r})"
    return f"{key!r}: {message}{shown}"


def _is_tag(part: Any, location: Any) -> bool:
    """Pydantic puts the tag of a union member, such as 'fedavg' or 'int', into the location."""
    position = location.index(part)
    if not isinstance(part, str) or position == 0:
        return False
    tags = {"lexicon", "sni", "table", "hub", "fedavg", "fedsgd", "int", "str", "Groups", "constrained-int"}
    return part in tags or part.startswith(("tuple[", "literal[", "constrained-"))


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the valid keys of the section that a location leads to."""
    found: list[type[BaseModel]] = [model]
    for part in location:
        step: list[type[BaseModel]] = []
        for candidate in found:
            if part in candidate.model_fields:
                step += _models(candidate.model_fields[part].annotation)
        if step:
            found = step
        elif isinstance(part, str):
            found = [m for m in found if _has_tag(m, part)] or found
    return sorted({key for candidate in found for key in candidate.model_fields})


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    kind = model.model_fields.get("kind")
    return kind is not None and tag in get_args(kind.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, tuple, list, Annotated):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []
