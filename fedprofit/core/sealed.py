"""Files that carry a checksum of their own bytes.

The checksum is the SHA-256 of the whole file with 64 zeros in the checksum's place. It stands where each
format has room for it: the last key of a JSON object, the key-value metadata of a Parquet file, the header
of a safetensors file, a comment of YAML. So there is one check for all of them, it covers every byte,
headers and footers included, and it travels with the file: a copy, a rename or a replacement cannot part
them. `reading.py` checks it before any library parses the file.

Files without a checksum (of earlier versions, or written by hand) are read as they are. One whose checksum
is there in part only counts as damaged.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedprofit.core.files import atomic, json_text

KEY = "sha256_of_this_file"
ROWS = "rows"  # the key of a list, which by itself has no room for a checksum
ZEROS = "0" * 64
BLANK = f'"{KEY}": "{ZEROS}"'
TRACES = (b"sha256_of", b"_this_file")  # either tells that there was a checksum
# Inside a JSON text that is itself a JSON string, quotes are escaped.
FOUND = re.compile(rb'\\?"' + KEY.encode() + rb'\\?": ?\\?"([0-9a-f]{64})\\?"')


def seal(content: bytes) -> bytes:
    """Return the content with its checksum in place of the last `BLANK` in it."""
    place = _place(content)
    assert place is not None, "the content has no place for its checksum"
    return content[: place.start] + _checksum(content, place).encode() + content[place.stop :]


def is_intact(content: bytes) -> bool:
    """Tell whether a file's content is what was written, as far as it carries a checksum.

    >>> content = seal(b'{"a": 1, ' + BLANK.encode() + b"}")
    >>> is_intact(content), is_intact(content.replace(b"1,", b"2,")), is_intact(b'{"a": 1}')
    (True, False, True)
    """
    place = _place(content)
    if place is None:
        return not any(trace in content for trace in TRACES)
    return content[place].decode() == _checksum(content, place)


def _place(content: bytes) -> slice | None:
    # The last: users' texts come before it, whatever they hold.
    at = max(content.rfind(KEY.encode()) - 2, 0)
    found = FOUND.search(content, at, at + 2 * len(BLANK))
    return slice(*found.span(1)) if found else None


def _checksum(content: bytes, place: slice) -> str:
    digest = hashlib.sha256(content[: place.start])
    digest.update(ZEROS.encode())
    digest.update(content[place.stop :])
    return digest.hexdigest()


def write_record(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write keys and values, or rows, as JSON with a checksum, atomically."""
    record = dict(value) if isinstance(value, Mapping) else {ROWS: list(value)}
    _write(path, json_text({**record, KEY: ZEROS}))


def write_yaml(path: Path, text: str) -> None:
    """Write YAML with a checksum in its last line, a comment, atomically."""
    _write(path, f"{text}# {BLANK}\n")


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(seal(text.encode()))


def seal_file(path: Path) -> None:
    """Put the checksum into a file that a library wrote with `facts_text` in its metadata."""
    content = path.read_bytes()
    place = _place(content)
    assert place is not None, "the file has no place for its checksum"
    with open(path, "r+b") as handle:
        handle.seek(place.start)
        handle.write(_checksum(content, place).encode())


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return facts as JSON with a place for the checksum, for the metadata of Parquet and safetensors."""
    text = json.dumps(facts, sort_keys=True)
    return text[:-1] + ", " * bool(facts) + BLANK + "}"
