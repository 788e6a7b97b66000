"""Messages for pydantic's validation errors: the key, the value, the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fedprofit.config.base import SEVERAL
from fedprofit.config.component import MISSING_KIND, UNKNOWN_KIND, Component
from fedprofit.core.errors import cut, nearest

MOST_PROBLEMS = 10  # problems in one message
MOST_DETAILS = 200  # pydantic errors that are examined

EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "model": "a section with keys",
    "dict": "a section with keys",
}


@dataclass(frozen=True)
class Place:
    """Location of an error: the keys as the user writes them, and the valid keys there."""

    keys: tuple[int | str, ...]
    union: int | None  # number of keys that lead to a union of plain types; None outside a union
    known: list[str]  # valid keys of the innermost section

    def __str__(self) -> str:
        return cut(".".join(str(key) for key in self.keys))


def explain(error: ValidationError, model: type[BaseModel], place: str, given: Any = None) -> str:
    """Return one paragraph with each wrong key, its value and the remedy.

    Args:
        error: the validation error.
        model: the section that was validated.
        place: the file, or another name for the configuration.
        given: the validated value; it determines the component of each section.
    """
    details = error.errors(include_url=False)[:MOST_DETAILS]
    found = [(locate(model, detail["loc"], given), detail) for detail in details]
    problems: list[str] = []
    for at, detail in found:
        # Pydantic reports each branch of a union such as `number or 'full'`; report them as one problem.
        branches = [
            (a, d) for a, d in found if at.union and a.union and a.keys[: a.union] == at.keys[: at.union]
        ]
        deepest = [(a, d) for a, d in branches if len(a.keys) > (a.union or 0)]
        if deepest and len(at.keys) == at.union:
            continue  # the value is a list, and the error is inside it
        same = [d for a, d in branches if a.keys == at.keys] or [detail]
        text = _problem(at, same)
        if text not in problems:
            problems.append(text)
        if len(problems) > MOST_PROBLEMS:
            problems[-1] = "and more"
            break
    return f"{place}: " + "; ".join(problems) + "."


def locate(model: type[BaseModel], location: Sequence[int | str], given: Any = None) -> Place:
    """Convert a pydantic location to keys, without the tags of union branches."""
    keys: list[int | str] = []
    options: list[Any] = [model]
    union, known = None, list(model.model_fields)
    for part in location:
        models = [_component(option, value_at(given, keys), keys) for option in options if _is_model(option)]
        lists = [option for option in options if get_origin(option) is tuple]
        if models and lists:  # a union of a section and a list of sections: the part is the tag
            options = lists if part == SEVERAL else models
        elif len(models) > 1:  # a union discriminated by `kind`: the part is the kind
            options = [m for m in models if part in get_args(m.model_fields["kind"].annotation)]
        elif models:
            keys.append(part)
            known = sorted([*models[0].model_fields, *["kind"] * issubclass(models[0], Component)])
            field = models[0].model_fields.get(str(part))
            options = _options(field.annotation) if field else []
        elif len(options) > 1 and union is None:  # the name of a plain type, such as "int"
            union = len(keys)
        else:
            keys.append(part)
            inside = [get_args(option)[0] for option in lists]
            inside += [get_args(option)[1] for option in options if get_origin(option) is dict]
            options = [o for inner in inside for o in _options(inner)]
    return Place(tuple(keys), union, known)


def value_at(given: Any, keys: Sequence[int | str]) -> Any:
    """Return the value at a path of keys, or None."""
    for key in keys:
        try:
            given = given[key]
        except (KeyError, IndexError, TypeError):
            return None
    return given


def _component(option: type[BaseModel], given: Any, keys: Sequence[int | str]) -> type[BaseModel]:
    """Return the component of a section whose type is the base class of a family."""
    if not (issubclass(option, Component) and option.is_base and isinstance(given, dict)):
        return option
    named = [key for key in keys if isinstance(key, str)]  # the key of a baseline is its kind
    kind = given.get("kind", option.family.default or (named[-1] if named else None))
    return option.family.find(kind) or option


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _options(annotation: Any) -> list[Any]:
    """Return the types of a union, without None."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [] if annotation is type(None) else [annotation]


def _problem(at: Place, details: Sequence[Any]) -> str:
    detail, context = details[0], details[0].get("ctx", {})
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        return f"unknown key '{at}' ({nearest(str(at.keys[-1]), at.known)})"
    if kind == "missing":
        return f"'{at}' is missing and has no default"
    if kind == MISSING_KIND:
        return f"'{at}.kind' is missing; it determines the keys of the section"
    if kind == UNKNOWN_KIND:
        return f"'{at}.kind': {context['text']}"
    if kind == "union_tag_not_found":
        return f"'{at}.kind' is missing; it determines the keys of the section"
    if kind == "union_tag_invalid":
        return f"'{at}.kind': should be one of {context['expected_tags']} (found {shown(context['tag'])})"
    if kind == "value_error":
        reason = cut(str(context["error"]), 400)
        return f"'{at}': {reason}" if at.keys else reason
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    if at.keys and at.keys[-1] == "path" and isinstance(detail["input"], list | dict):
        return foreign(str(at), detail["input"])
    return f"'{at}': should be {expected} (found {shown(detail['input'])})"


def foreign(key: str, value: Any) -> str:
    """Return a message for a Python value that a configuration cannot contain.

    >>> foreign("data.source.path", [{"input": "a"}])[:48]
    "'data.source.path' holds data in memory (list): "
    """
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__qualname__}".removeprefix("builtins.")
    if key.rpartition(".")[2] == "path":
        return (
            f"'{key}' holds data in memory ({kind}): should be the path of a file, as text. For data in "
            "memory set data.source to fedprofit.data.memory.dataset(rows)"
        )
    return f"'{key}' holds a {kind}: should be text, a number, true, false, a list or keys and values"


def _expected(detail: Any) -> str:
    kind: str = detail["type"]
    if kind == "string_pattern_mismatch":
        return (
            "a name of letters, digits, '.', '_', '+' and '-' that starts with a letter or digit, at most 64"
        )
    if kind.startswith(("greater_than", "less_than")) or kind == "literal_error":
        return str(detail["msg"]).removeprefix("Input should be ")
    return EXPECTED.get(kind.split("_")[0]) or str(detail["msg"]).removeprefix("Input should be ")


def shown(value: Any) -> str:
    """Format a value as in YAML, truncated for a message."""
    words: dict[Literal["null", "true", "false"], Any] = {"null": None, "true": True, "false": False}
    for word, meaning in words.items():
        if value is meaning:
            return word
    if isinstance(value, dict | list):
        return "keys and values" if isinstance(value, dict) else "a list"
    return cut(repr(value))
