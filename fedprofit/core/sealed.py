"""Files that contain a checksum of their own bytes.

The checksum is the SHA-256 of the file with 64 zeros in place of the checksum. Its location depends on the
format: the last key of a JSON object, the key-value metadata of a Parquet file, the header of a safetensors
file, a comment of YAML. It covers every byte, headers and footers included, and stays with the file when it
is copied or renamed. `reading.py` verifies it before any library parses the file.

Files without a checksum (from earlier versions, or written by hand) are accepted. A file with a partial
checksum counts as damaged.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedprofit.core.files import atomic, json_text

KEY = "sha256_of_this_file"
ROWS = "rows"  # key for a list, which itself cannot hold a checksum
ZEROS = "0" * 64
BLANK = f'"{KEY}": "{ZEROS}"'
TRACES = (b"sha256_of", b"_this_file")  # either shows that there was a checksum
# Quotes are escaped in a JSON text within a JSON string.
FOUND = re.compile(rb'\\?"' + KEY.encode() + rb'\\?": ?\\?"([0-9a-f]{64})\\?"')


def seal(content: bytes) -> bytes:
    """Return the content with its checksum in place of its last `BLANK`."""
    place = _place(content)
    assert place is not None, "the content has no field for its checksum"
    return content[: place.start] + _checksum(content, place).encode() + content[place.stop :]


def is_intact(content: bytes) -> bool:
    """Return whether a file's content matches its checksum; True without a checksum.

    >>> content = seal(b'{"a": 1, ' + BLANK.encode() + b"}")
    >>> is_intact(content), is_intact(content.replace(b"1,", b"2,")), is_intact(b'{"a": 1}')
    (True, False, True)
    """
    place = _place(content)
    if place is None:
        return not any(trace in content for trace in TRACES)
    return content[place].decode() == _checksum(content, place)


def _place(content: bytes) -> slice | None:
    # The last occurrence: users' texts come before it.
    at = max(content.rfind(KEY.encode()) - 2, 0)
    found = FOUND.search(content, at, at + 2 * len(BLANK))
    return slice(*found.span(1)) if found else None


def _checksum(content: bytes, place: slice) -> str:
    digest = hashlib.sha256(content[: place.start])
    digest.update(ZEROS.encode())
    digest.update(content[place.stop :])
    return digest.hexdigest()


def write_record(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write keys and values, or rows, as JSON with a checksum atomically."""
    record = dict(value) if isinstance(value, Mapping) else {ROWS: list(value)}
    _write(path, json_text({**record, KEY: ZEROS}))


def write_yaml(path: Path, text: str) -> None:
    """Write YAML atomically, with a checksum in a comment on the last line."""
    _write(path, f"{text}# {BLANK}\n")


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(seal(text.encode()))


def seal_file(path: Path) -> None:
    """Set the checksum in a file that a library wrote with `facts_text` in its metadata."""
    content = path.read_bytes()
    place = _place(content)
    assert place is not None, "the file has no field for its checksum"
    with open(path, "r+b") as handle:
        handle.seek(place.start)
        handle.write(_checksum(content, place).encode())


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return facts as JSON with a field for the checksum, for metadata of Parquet and safetensors files."""
    text = json.dumps(facts, sort_keys=True)
    return text[:-1] + ", " * bool(facts) + BLANK + "}"
