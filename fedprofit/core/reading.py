"""Reading of the JSON, YAML, Parquet and safetensors files of runs, studies and caches.

Every problem with a file is a `UserError` with its path and the remedy: it is missing, its checksum
(`sealed.py`) differs, or a library cannot parse it. The checksum is verified first, so that no damaged file
reaches a parser: polars panics on some, and others request all memory.

User data is read by `data/sources` and `data/tables`.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError, first_line
from fedprofit.core.sealed import BLANK, KEY, ROWS, is_intact

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


@contextmanager
def guarded(path: Path, remedy: str) -> Iterator[None]:
    """Convert any exception about a file to a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or first_line(error, with_type=True)
        raise UserError(f"{path}: cannot be read ({reason}). {remedy}") from None
    except BaseException as error:
        # polars raises PanicException, which is not a subclass of Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = first_line(error, with_type=True)
        raise UserError(f"{path}: is damaged or in another format ({reason}). {remedy}") from None


def read_bytes(path: Path, remedy: str) -> bytes:
    """Read a file and verify its checksum, if it has one."""
    with guarded(path, remedy):
        content = path.read_bytes()
    if not is_intact(content):
        raise UserError(f"{path}: is damaged: its content differs from its checksum. {remedy}")
    return content


def damage(path: Path) -> str:
    """Describe the damage of a file with a checksum; "" if it is intact.

    A file without a checksum is intact if it can be parsed.
    """
    try:
        if path.suffix == ".parquet":
            read_parquet(path, "")
        elif path.suffix == ".safetensors":
            read_tensors(path, "")
        elif path.suffix == ".json":
            read_rows(path, "")
        else:
            read_bytes(path, "")
    except UserError as error:
        return str(error).rstrip()
    return ""


def read_json(path: Path, remedy: str, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Read the keys and values of a JSON file, without its checksum.

    Args:
        path: the file.
        remedy: what the user can do if it cannot be read.
        needs: required keys; `a.b` is a key of a section.

    Raises UserError.
    """
    found = _json(path, remedy)
    if not isinstance(found, dict):
        raise UserError(f"{path}: contains no keys and values. {remedy}")
    found.pop(KEY, None)
    for key in needs:
        inner: Any = found
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is None:
            raise UserError(f"{path}: has no {key!r}. {remedy}")
    return found


def read_rows(path: Path, remedy: str) -> list[Any]:
    """Read a JSON file of rows (a list); keys and values count as one row. Raises UserError."""
    found = _json(path, remedy)
    if isinstance(found, dict):
        found.pop(KEY, None)
        found = found[ROWS] if set(found) == {ROWS} else [found]
    if not isinstance(found, list):
        raise UserError(f"{path}: contains no rows. {remedy}")
    return found


def _json(path: Path, remedy: str) -> Any:
    content = read_bytes(path, remedy)
    with guarded(path, remedy):
        return json.loads(content.decode("utf-8"))


def read_yaml_text(path: Path, remedy: str) -> str:
    """Read a YAML file written by `sealed.write_yaml`, without its checksum."""
    lines = read_bytes(path, remedy).decode("utf-8", errors="replace").splitlines(keepends=True)
    return "".join(line for line in lines if KEY not in line or len(line) != len(f"# {BLANK}\n"))


def read_yaml(path: Path) -> Any:
    """Read a user's YAML file. Raise UserError with the line of a syntax error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the configuration ({error.strerror}). Check the path."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text. Save it as UTF-8.") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Any:
    """Parse YAML. Raise UserError with the line of a syntax error."""
    try:
        return yaml_text.load(text)
    except yaml_text.YamlProblem as problem:
        where = f" at line {problem.line}" if problem.line else ""
        raise UserError(
            f"{path}: not valid YAML{where}: {problem.reason}. Check the indentation and the quotes there."
        ) from None


def read_parquet(path: Path, remedy: str, needs: Sequence[str] = ()) -> "pl.DataFrame":
    """Read a Parquet table with the required columns `needs`. Raises UserError."""
    import polars as pl  # not needed to read configurations

    content = read_bytes(path, remedy)
    with guarded(path, remedy):
        found = pl.read_parquet(io.BytesIO(content))
    for name in needs:
        if name not in found.columns:
            raise UserError(f"{path}: has no column {name!r}. {remedy}")
    return found


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read the tensors of a safetensors file and the facts of its header. Raises UserError."""
    from safetensors.torch import load  # not needed to read configurations

    content = read_bytes(path, remedy)
    with guarded(path, remedy):
        header, _ = tensors_header(io.BytesIO(content))
        facts = json.loads(header["__metadata__"]["fedprofit"])
        facts.pop(KEY, None)
        return load(content), facts


def tensors_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and the offset of the first byte after it."""
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(min(length, 2**27)))
    return header, 8 + length
