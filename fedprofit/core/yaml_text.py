"""YAML 1.2 (core schema) to plain values and back, with limits.

Values are built directly from parser events. This limits nesting, the number of values (with all aliases
expanded) and the size of integers. Keys are always text. A plain scalar is null, a boolean, a YAML 1.2
number, or text: `010` is ten, `1e-3` is a number, and `1:30`, `yes` and `2026-01-31` are text.

Texts that YAML 1.1 would read as another type are quoted, so that parsers of both versions agree.
"""

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from fedprofit.core.errors import cut, first_line

LONGEST = 2**17  # maximum characters of a text
MOST = 10_000  # maximum values of a text, with aliases expanded
DEEPEST = 50  # maximum nesting of sections and lists
LARGEST = 2**63  # integers must be smaller

PREFIX = "tag:yaml.org,2002:"
NULL = re.compile(r"(?:~|null|Null|NULL)?")
TRUE, FALSE = re.compile("true|True|TRUE"), re.compile("false|False|FALSE")
INTEGERS = {
    10: re.compile(r"[-+]?[0-9]+"),
    8: re.compile(r"0o[0-7]+"),
    16: re.compile(r"0x[0-9a-fA-F]+"),
}
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
INFINITE, NAN = re.compile(r"[-+]?\.(?:inf|Inf|INF)"), re.compile(r"\.(?:nan|NaN|NAN)")
# Read as text by every YAML version: letters first, then no special characters.
PLAIN = re.compile(r"[A-Za-z_/][\w/.+-]*(?: [\w/.+-]+)*", re.ASCII)
WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


class YamlProblem(Exception):
    """An error in a YAML text, with its line (from 1) if known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        """Store the reason, without a full stop, and the line."""
        super().__init__(reason)
        self.reason, self.line = reason, line

    def __str__(self) -> str:
        return f"{f'line {self.line}: ' if self.line else ''}{self.reason}"


def load(text: str) -> Any:
    """Parse a text with at most one document; None if it is empty. Raises YamlProblem.

    >>> load("rate: 1e-3\\nsizes: [010, 1:30]\\n")
    {'rate': 0.001, 'sizes': [10, '1:30']}
    """
    found = load_all(text)
    if len(found) > 1:
        raise YamlProblem(f"contains {len(found)} documents (separated by ---), expected one")
    return found[0] if found else None


def load_all(text: str) -> list[Any]:
    """Parse all documents of a text. Raises YamlProblem."""
    if len(text) > LONGEST:
        raise YamlProblem(f"has {len(text)} characters, the maximum is {LONGEST}")
    try:
        return _Builder().documents(YAML(typ="safe", pure=True).parse(StringIO(text)))
    except YamlProblem:
        raise
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlProblem(cut(str(error.problem or error.context)), line) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(f"the character U+{ord(text[error.position]):04X} is not text", line) from None
    except Exception as error:  # a parser bug is indistinguishable from an error in the text
        raise YamlProblem(first_line(error, with_type=True)) from None


@dataclass
class _Open:
    """A section or list that is still being parsed."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    size: int = 1  # number of values, itself included
    key: str | None = None  # key of the next value
    merges: list[Any] = field(default_factory=list)


class _Builder:
    """Build values from events without recursion."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # value and size; size 0 while it is parsed
        self._documents: list[Any] = []

    def documents(self, events: Iterator[Any]) -> list[Any]:
        """Return the value of each document."""
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else None
            try:
                self._take(event)
            except YamlProblem as problem:
                raise YamlProblem(problem.reason, problem.line or line) from None
        return self._documents

    def _take(self, event: Any) -> None:
        if isinstance(event, DocumentStartEvent):
            self._anchors = {}
        elif isinstance(event, CollectionEndEvent):
            self._close()
        elif isinstance(event, AliasEvent):
            value, size = self._anchors.get(event.anchor, (None, None))
            if size is None:
                raise YamlProblem(f"the alias *{cut(event.anchor)} has no anchor before it")
            if size == 0:
                raise YamlProblem(f"the anchor &{cut(event.anchor)} refers back to itself")
            self._add(deepcopy(value), size, None)  # copies can be changed independently
        elif isinstance(event, ScalarEvent):
            if self._wants_key():
                self._begin_key(event)
            else:
                self._add(_scalar(event), 1, event.anchor)
        elif isinstance(event, SequenceStartEvent | MappingStartEvent):
            self._begin(event)

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _begin(self, event: SequenceStartEvent | MappingStartEvent) -> None:
        if self._wants_key():
            raise YamlProblem("a key is a section or a list; write keys as plain words")
        if len(self._open) >= DEEPEST:
            raise YamlProblem(f"is nested more than {DEEPEST} deep")
        is_mapping = isinstance(event, MappingStartEvent)
        kind = "map" if is_mapping else "seq"
        if event.tag not in (None, "!", PREFIX + kind):
            raise YamlProblem(f"the tag {cut(str(event.tag))} is unknown")
        self._open.append(_Open({} if is_mapping else [], event.anchor))
        if event.anchor:
            self._anchors[event.anchor] = (None, 0)

    def _begin_key(self, event: ScalarEvent) -> None:
        if event.tag not in (None, "!", PREFIX + "str"):
            raise YamlProblem(f"the key {cut(event.value)!r} has the tag {cut(str(event.tag))}")
        top = self._open[-1]
        assert isinstance(top.value, dict)
        if event.value in top.value or (event.value == "<<" and top.merges):
            raise YamlProblem(f"the key {cut(event.value)!r} appears twice")
        if event.anchor:
            self._anchors[event.anchor] = (event.value, 1)
        top.key = event.value
        if event.value != "<<" or event.style:
            top.value[event.value] = None  # reserves the position and detects duplicates
        self._count(1)

    def _add(self, value: Any, size: int, anchor: str | None) -> None:
        """Add a complete value to the innermost open section or list."""
        self._count(size)
        if anchor:
            self._anchors[anchor] = (value, size)
        if not self._open:
            self._documents.append(value)
            return
        top = self._open[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            if not isinstance(value, str):
                raise YamlProblem("a key is an alias of a value that is not text; write keys as plain words")
            if value in top.value:
                raise YamlProblem(f"the key {cut(value)!r} appears twice")
            top.key, top.value[value] = value, None
        elif top.key in top.value:
            top.value[top.key], top.key = value, None
        else:  # an unquoted <<
            top.merges, top.key = _merged_sections(value), None

    def _count(self, size: int) -> None:
        if self._open:
            self._open[-1].size += size
            size = self._open[-1].size
        if size > MOST:
            raise YamlProblem(f"contains more than {MOST} values, with aliases expanded")

    def _close(self) -> None:
        done = self._open.pop()
        if isinstance(done.value, dict):
            for section in done.merges:
                for key, value in section.items():
                    done.value.setdefault(key, value)
        self._add(done.value, done.size, done.anchor)


def _merged_sections(value: Any) -> list[dict[str, Any]]:
    sections = value if isinstance(value, list) else [value]
    if not sections or not all(isinstance(section, dict) for section in sections):
        raise YamlProblem("<< takes a section or a list of them")
    return sections


def _scalar(event: ScalarEvent) -> Any:
    """Return the value of a scalar from its tag or the core schema."""
    text: str = event.value
    if event.tag is None:
        return text if event.style else _resolved(text)
    if event.tag in ("!", PREFIX + "str"):
        return text
    kind = event.tag.removeprefix(PREFIX)
    types: dict[str, tuple[type, ...]] = {
        "int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)
    }  # fmt: skip
    if kind not in types:
        raise YamlProblem(f"the tag {cut(event.tag)} is unknown")
    found = _resolved(text)
    if not isinstance(found, types[kind]) or (isinstance(found, bool) and kind != "bool"):
        raise YamlProblem(f"{cut(text)!r} does not match its tag !!{kind}")
    return float(found) if isinstance(found, int) and kind == "float" else found


def _resolved(text: str) -> Any:
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return bool(TRUE.fullmatch(text))
    for base, pattern in INTEGERS.items():
        if pattern.fullmatch(text):
            return _integer(text, base)
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITE.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    return math.nan if NAN.fullmatch(text) else text


def _integer(text: str, base: int) -> int:
    number = int(text, base) if len(text) <= 100 else LARGEST
    if abs(number) >= LARGEST:
        raise YamlProblem(f"the integer {cut(text)} needs more than 64 bits; quote it to make it text")
    return number


class _Representer(SafeRepresenter):
    """Write texts so that every YAML version reads them as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> ScalarNode:
        plain = PLAIN.fullmatch(data) and data.lower() not in WORDS
        return self.represent_scalar(PREFIX + "str", data, style=None if plain else '"')

    def number(self, data: float) -> ScalarNode:
        if not math.isfinite(data):
            text = ".nan" if math.isnan(data) else ".inf" if data > 0 else "-.inf"
        else:
            text = repr(data)
            if "e" in text and "." not in text:
                text = text.replace("e", ".0e")  # YAML 1.1 reads 1e-05 as text
        return self.represent_scalar(PREFIX + "float", text)


_Representer.add_representer(str, _Representer.text)
_Representer.add_representer(float, _Representer.number)


def dump(value: Any) -> str:
    """Write plain values as YAML that reads back equal, with keys in order.

    >>> print(dump({"name": "demo", "at": "1:30", "rate": 1e-05}), end="")
    name: demo
    at: "1:30"
    rate: 1.0e-05
    """
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style, writer.allow_unicode, writer.width = False, True, LONGEST
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = StringIO()
    writer.dump(value, out)
    return out.getvalue()
