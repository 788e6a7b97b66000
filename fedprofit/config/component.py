"""Components: settings classes that a configuration selects by `kind`.

A *family* is an extension point of the package: algorithms, client optimizers, partitions and so on. Its
base class names it. Each subclass with a `kind` is one of its components:

    class AlgorithmSettings(Component, family="algorithm", package="fedprofit.algorithm"): ...

    class FedAvg(AlgorithmSettings, kind="fedavg"):
        \"\"\"Federated averaging.\"\"\"

        steps: int = 1

        def build(self, engine) -> Algorithm: ...

In YAML `{kind: fedavg, steps: 4}` and in Python `FedAvg(steps=4)` are the same object. The built-in
components of a family are the modules of its package, imported on first use. Plug-ins (`plugins.py`) add
others. Modules of components import torch only inside functions, so that a configuration is checked before
torch is loaded.
"""

import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fedprofit.config.base import Section
from fedprofit.core.errors import UserError, cut, nearest

UNKNOWN_KIND, MISSING_KIND = "unknown_kind", "missing_kind"  # pydantic error types
MORE = "Plug-ins add more: name their modules under plugins, or give their file with --plugin"
BUILT_IN = "fedprofit."
_READING_RECORDS = ContextVar("reading records", default=False)


@dataclass
class Family:
    """An extension point of the package and its components."""

    name: str
    package: str  # package or module of the built-in components
    default: str | None = None  # the kind of a section that names none
    kinds: dict[str, "type[Component]"] = field(default_factory=dict)
    _complete: bool = False

    def all_kinds(self) -> dict[str, "type[Component]"]:
        """Import the built-in components and return all registered ones by kind."""
        if not self._complete:
            self._complete = True
            package = import_module(self.package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                import_module(f"{self.package}.{module.name}")
        return self.kinds

    def find(self, kind: object) -> "type[Component] | None":
        """Return the component of a kind, or None; search installed plug-ins if it is unknown."""
        known = self.all_kinds()
        if not isinstance(kind, str):
            return None
        if kind not in known:
            for search in SEARCHES:
                search()
        return known.get(kind)

    def register(self, component: "type[Component]") -> None:
        """Add a component. Raise UserError if its kind is taken, or its docstring or a method is missing."""
        if not component.is_built_in():
            self.all_kinds()  # so that the plug-in is the one that comes second
        other = self.kinds.get(component.kind)
        if other is not None and not _is_same(component, other):
            raise UserError(
                f"{where_of(component)}: registers the {self.name} {component.kind!r}, which already exists "
                f"({where_of(other)}). Give it another kind."
            )
        if not (component.__dict__.get("__doc__") or "").strip():
            raise UserError(
                f"{where_of(component)}: the {self.name} {component.kind!r} has no docstring. Describe it in "
                "one line, which `fedprofit components` and reports show."
            )
        if missing := component.missing_methods():
            raise UserError(
                f"{where_of(component)}: the {self.name} {component.kind!r} has no method "
                f"{' and no method '.join(missing)}. Define it."
            )
        self.kinds[component.kind] = component


FAMILIES: dict[str, Family] = {}


def all_families() -> list[Family]:
    """Return all families after importing their built-in components."""
    seen: set[str] = set()
    while missing := FAMILIES.keys() - seen:  # importing a component can define another family
        for name in missing:
            FAMILIES[name].all_kinds()
        seen |= missing
    return list(FAMILIES.values())


SEARCHES: list[Callable[[], None]] = []  # called to find more components when a kind is unknown


def _is_same(component: type, other: type) -> bool:
    """Return whether a class redefines an earlier one, as when a notebook cell runs again."""
    return (component.__module__, component.__qualname__) == (other.__module__, other.__qualname__)


def where_of(component: type) -> str:
    """Return the file and line of a class, or its module if there is no file.

    >>> where_of(Component).rpartition("/")[2].partition(":")[0]
    'component.py'
    """
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return f"{component.__module__}.{component.__qualname__}"


def located(component: "Component") -> str:
    """Return the prefix of error messages about a component: "FILE:LINE: ", or nothing if it is built in."""
    return "" if component.is_built_in() else f"{where_of(type(component))}: "


class Component(Section):
    """Settings of one component. Subclasses with a `kind` are registered with their family."""

    family: ClassVar[Family]
    kind: ClassVar[str] = ""
    paper: ClassVar[str] = ""  # reference of the method, as one line
    needs: ClassVar[tuple[tuple[str, ...], ...]] = ()  # groups of methods; a component defines one of each
    is_base: ClassVar[bool] = False  # whether this is the base class of a family
    is_recorded: ClassVar[bool] = False  # whether this is a recorded component whose plug-in is not loaded

    def __init_subclass__(
        cls,
        *,
        kind: str = "",
        family: str = "",
        package: str = "",
        default: str | None = None,
        paper: str = "",
        **more: Any,
    ) -> None:
        """Define a family, or set the kind of a component."""
        super().__init_subclass__(**more)
        cls.kind, cls.paper, cls.is_base = kind, paper, bool(family)
        if family:
            cls.family = FAMILIES.setdefault(family, Family(family, package, default))

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the component once its fields are complete."""
        if cls.kind:
            cls.family.register(cls)

    @classmethod
    def missing_methods(cls) -> list[str]:
        """Return what the class must define and does not: of each group in a base's `needs`, one method."""
        return [
            " or ".join(group)
            for base in cls.__mro__
            for group in base.__dict__.get("needs", ())
            if all(getattr(cls, name) is getattr(base, name) for name in group)
        ]

    @classmethod
    def is_built_in(cls) -> bool:
        """Return whether the class is part of this package."""
        return cls.__module__.startswith(BUILT_IN)

    @model_validator(mode="before")
    @classmethod
    def _without_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "kind" not in given:
            return given
        if given["kind"] != cls.kind:
            raise ValueError(f"kind is {given['kind']!r}, but {cls.__name__} is {cls.kind!r}")
        return {key: value for key, value in given.items() if key != "kind"}

    @model_serializer(mode="wrap")
    def _with_kind(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **dump(self)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate values of a family's base class as the component that they name."""
        return _any_of(cls) if cls.is_base else handler(source)


def _any_of(base: type[Component]) -> CoreSchema:
    def validate(value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, base):
            return value
        component = _recorded(base, value) or chosen(base.family, value)
        # Through JSON: strict types, yet a list may become a tuple.
        return component.model_validate_json(json.dumps(value)) if info.mode == "json" else component(**value)

    def dump(one: Component, info: SerializationInfo) -> dict[str, Any]:
        return one.model_dump(
            mode=info.mode, exclude_defaults=info.exclude_defaults, exclude_none=info.exclude_none
        )

    return core_schema.with_info_plain_validator_function(
        validate, serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True)
    )


@contextmanager
def reading_records() -> Iterator[None]:
    """Accept components whose plug-in is not loaded: what a run recorded can be shown without it."""
    token = _READING_RECORDS.set(True)
    try:
        yield
    finally:
        _READING_RECORDS.reset(token)


def _recorded(base: type[Component], value: Any) -> type[Component] | None:
    """Return a class that keeps all fields of a recorded component whose kind is unknown; else None."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not _READING_RECORDS.get() or not isinstance(kind, str) or base.family.find(kind):
        return None

    class Recorded(base):  # type: ignore[misc, valid-type]
        """A component whose plug-in is not loaded."""

        model_config = ConfigDict(extra="allow")

    Recorded.is_recorded = True
    Recorded.kind = kind  # only now: a class that is defined with a kind is registered
    return Recorded


def chosen(family: Family, value: Any) -> type[Component]:
    """Return the component that a section names. Raise PydanticCustomError if it does not exist."""
    if not isinstance(value, dict):
        raise PydanticCustomError("model_type", "should be a section with keys")
    kind = value.get("kind", family.default)
    if kind is None:
        raise PydanticCustomError(MISSING_KIND, "is missing; it determines the keys of the section")
    found = family.find(kind)
    if found is None:
        near = nearest(str(kind), sorted(family.all_kinds()))
        text = f"there is no {family.name} {cut(repr(kind))} ({near}). {MORE}"
        raise PydanticCustomError(UNKNOWN_KIND, "{text}", {"text": text})
    return found
