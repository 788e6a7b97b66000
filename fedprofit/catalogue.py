"""List of the components: kinds, fields, defaults, one-line summaries and papers of each family."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit import plugins
from fedprofit.config import run as _  # noqa: F401  imports the base of every family
from fedprofit.config.component import Component, Family, all_families
from fedprofit.core.errors import UserError, nearest


def summary(component: type[Component]) -> str:
    """Return the first line of a component's docstring.

    >>> from fedprofit.algorithm.fedsgd import FedSgd
    >>> summary(FedSgd)[:13]
    'Federated SGD'
    """
    return inspect.cleandoc(component.__doc__ or "").partition("\n")[0]


def field_texts(component: type[Component]) -> dict[str, str]:
    """Return the attribute docstring of each field of a component, inherited fields included.

    >>> from fedprofit.algorithm.fedavg import FedAvg
    >>> "batch_size" in field_texts(FedAvg)
    True
    """
    found: dict[str, str] = {}
    for base in reversed(component.__mro__):
        if base.__module__.startswith(("pydantic", "builtins")):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # defined in an interpreter
            continue
        found |= dict(_texts(ast.parse(source).body[0]))
    return {name: text for name, text in found.items() if name in component.model_fields}


def _texts(definition: ast.stmt) -> Iterator[tuple[str, str]]:
    body = getattr(definition, "body", [])
    for statement, following in pairwise(body):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_text and isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, " ".join(str(following.value.value).split())


def show(console: Console, asked: str | None = None) -> None:
    """Print all components, or the fields of one family or kind. Raise UserError if it is unknown."""
    plugins.load_installed()
    families = all_families()
    if asked is None:
        for family in families:
            console.print(_overview(family))
        return
    found = [
        component
        for family in families
        for kind, component in family.kinds.items()
        if asked in (kind, family.name)
    ]
    if not found:
        known = {name for family in families for name in (family.name, *family.kinds)}
        raise UserError(f"components: there is no family or kind {asked!r} ({nearest(asked, known)}).")
    for component in found:
        console.print(_fields(component))


def _overview(family: Family) -> Table:
    table = Table(title=f"{family.name}s", title_justify="left", show_lines=False)
    for title in ("kind", "description", "source"):
        table.add_column(title, overflow="fold")
    for kind, component in family.all_kinds().items():
        default = " (default)" if kind == family.default else ""
        origin = "" if component.is_built_in() else component.__module__
        source = ". ".join(filter(None, (component.paper, origin)))
        table.add_row(Text(kind + default), Text(summary(component)), Text(source))
    return table


def _fields(component: type[Component]) -> Table:
    title = f"{component.family.name} {component.kind}: {summary(component)}"
    paper = f"{component.paper}. " if component.paper else ""
    table = Table(
        title=Text(title),
        title_justify="left",
        caption=Text(f"{paper}In Python: {component.__module__}.{component.__qualname__}"),
        caption_justify="left",
    )
    for heading in ("field", "type", "default", "description"):
        table.add_column(heading, overflow="fold")
    texts = field_texts(component)
    for name, field in component.model_fields.items():
        words = (name, type_in_words(field.annotation), _default(name, field), texts.get(name, ""))
        table.add_row(*map(Text, words))
    return table


def _default(name: str, field: FieldInfo) -> str:
    if name == "name":
        return "the kind"
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Component):
        return str({"kind": default.kind, **default.model_dump(mode="json", exclude_defaults=True)})
    return str(default)


def type_in_words(annotation: Any) -> str:
    """Describe a field's type as in a configuration.

    >>> type_in_words(int | None), type_in_words(tuple[float, ...]), type_in_words(Literal["a", "b"])
    ('integer or null', 'list of number', 'a or b')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(type_in_words(one) for one in arguments)
    if origin is Literal:
        return " or ".join(str(one) for one in arguments)
    if origin is tuple:
        return f"list of {type_in_words(arguments[0])}"
    if hasattr(annotation, "__metadata__"):
        return type_in_words(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return annotation.family.name
    names = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
