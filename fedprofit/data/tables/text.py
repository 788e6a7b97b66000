"""Text files: their encoding, and their values as columns of text."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fedprofit.core.errors import UserError
from fedprofit.data.tables.reading import Finding, Numbering, Reading, shown

# Byte-order marks; the longer ones first, since they begin like shorter ones.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LOOKED_AT = 4096  # bytes at the beginning
UNDECODABLE = re.compile("[\udc80-\udcff]")  # surrogateescape maps bytes to these
LIST = pa.list_(pa.string())


@dataclass(frozen=True)
class TextTable:
    """A table of text, the errors in its cells, and the numbering of its rows."""

    table: pa.Table
    findings: list[Finding]
    numbering: Numbering


def decode(data: bytes, encoding: str | None, place: str, reading: Reading) -> tuple[str, str]:
    """Return a file's text and its encoding: the one named, that of its byte-order mark, or UTF-8.

    Undecodable bytes become surrogates, by which `cells` finds their rows.

    Raises:
        UserError: an unknown encoding, UTF-16 without its byte-order mark, or damaged UTF-16 or UTF-32.
    """
    name = _named(encoding) if encoding else encoding_of(data)
    if name == "utf-8" and encoding is None and data[:LOOKED_AT].count(0) > len(data[:LOOKED_AT]) // 4:
        side = "le" if data[1:2] == b"\0" else "be"
        raise UserError(
            f"{place}: line 1: every other byte is zero, as in UTF-16 without its mark. Set "
            f"data.source.encoding: utf-16-{side}, or save the file as UTF-8."
        )
    try:
        return data.decode(name), name
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        if not name.startswith(("utf-16", "utf-32")):
            text = data.decode(name, "surrogateescape")
            _hint(data, start, text, reading)
            return text, name
        line = data[:start].decode(name, "replace").count("\n") + 1
        raise UserError(
            f"{place}: line {line}: the bytes {data[start : start + 4]!r} are not {name}. Save the file as "
            "UTF-8, or set data.source.encoding to its encoding."
        ) from None


def encoding_of(data: bytes) -> str:
    """Return the encoding that a byte-order mark names, else utf-8."""
    return next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")


def _named(encoding: str) -> str:
    try:
        found = codecs.lookup(encoding)
        "a".encode(encoding)  # some codecs are not of text
    except (LookupError, UnicodeError):
        raise UserError(
            f"data.source.encoding: {encoding!r} is not an encoding of Python. Set it to utf-8, utf-16, "
            "cp1252 or latin-1, for example, or to null to have it detected."
        ) from None
    return "utf-8-sig" if found.name == "utf-8" else found.name


def _hint(data: bytes, start: int, text: str, reading: Reading) -> None:
    """Suggest an encoding for undecodable bytes if all other text is ASCII."""
    if not UNDECODABLE.sub("", text).isascii():
        return
    before = re.split(rb"[\r\n,;\t|]", data[max(0, start - 20) : start])[-1]
    after = re.split(rb"[\r\n,;\t|]", data[start : start + 20])[0]
    try:
        words = (before + after).decode("cp1252")
    except UnicodeDecodeError:
        return
    hint = "If the file is Windows-1252 or Latin-1, set data.source.encoding: cp1252; then line"
    reading.hints[f"{hint} {data.count(10, 0, start) + 1} reads {shown(words)}."] = None


def cells(values: Sequence[Any], column: str, lists: bool) -> tuple[pa.Array, list[Finding]]:
    """Turn the values of a column into text; other values become null and are reported.

    Numbers must have been read as text, as they are spelled. A column of only true and false becomes text
    too. With `lists`, a list of texts is also a value.
    """
    try:
        return pa.array(values, pa.string()), []
    except (pa.ArrowException, UnicodeEncodeError):
        pass  # some are not text; found below
    logical = all(value is None or isinstance(value, bool) for value in values)
    wrong: dict[str, list[int]] = {}
    made: list[Any] = []
    for row, value in enumerate(values):
        if logical and value is not None:
            value = str(value).lower()
        reason = _reason(value, lists)
        if reason:
            wrong.setdefault(reason, []).append(row)
        made.append(None if reason else value)
    if any(isinstance(value, list) for value in made):
        made = [value if value is None or isinstance(value, list) else [value] for value in made]
    kind = LIST if any(isinstance(value, list) for value in made) else pa.string()
    return pa.array(made, kind), [
        Finding(column, reason, np.array(rows, np.int64), lambda row: raw(values[row]))
        for reason, rows in wrong.items()
    ]


def _reason(value: Any, lists: bool) -> str:
    """Return why a value is not text; "" if it is, or if it is missing."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "undecodable bytes" if UNDECODABLE.search(value) else "half a character (a lone surrogate)"
        return ""
    if value is None:
        return ""
    if isinstance(value, list) and lists:
        reasons = (_reason(one, False) for one in value)
        return next((f"in the list: {reason}" for reason in reasons if reason), "")
    kinds = {bool: "true or false", list: "a list", dict: "an object", float: "an infinite number"}
    return f"{kinds.get(type(value), type(value).__name__)} where text is expected"


def column_name(name: str) -> str:
    """Return a column's name as valid text: undecodable bytes are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def raw(value: Any) -> Any:
    """Return a text with its undecodable bytes restored."""
    if isinstance(value, str) and UNDECODABLE.search(value):
        return value.encode("utf-8", "surrogateescape")
    return value
