"""Tokenized examples on disk: written once, then memory-mapped.

A store is a folder of flat arrays. Example i consists of

    tokens[starts[i] : cuts[i]]        its source
    tokens[cuts[i] : starts[i + 1]]    its target
    prefixes[prefix_starts[p] : prefix_starts[p + 1]], p = prefix_of[i]

An open store needs only the memory of the rows that are read.

Memory-mapped files are not checked while they are read. Instead, the hashes in `checksums.json` are verified
before a folder is opened (`manifest.py`).
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray

from fedprofit.core import manifest
from fedprofit.core.errors import UserError
from fedprofit.core.files import atomic
from fedprofit.core.reading import read_json, read_rows
from fedprofit.core.sealed import write_record
from fedprofit.core.types import Example, Tokens
from fedprofit.data.splits import same_input
from fedprofit.data.template import Instance, Template

CHUNK = 4096  # instances at a time
OTHER_LETTERS = "|".join(rf"[^\x00-\x7F\P{{{kind}}}]" for kind in "LMN")  # letters, marks, digits
CHECKSUMS = "checksums.json"
FORMAT = 3  # part of cached folders' names; raise it when texts, splits, owners of rows or files change

LOGGER = logging.getLogger(__name__)


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder of the cache with `write`, add the hashes of its files; replace a damaged one."""
    if folder.is_dir():
        with FileLock(folder.with_name(".lock")):
            if not damage(folder):
                return  # another process has recreated it meanwhile
            shutil.rmtree(folder)
    with atomic(folder) as temporary:
        write(temporary)
        write_record(temporary / CHECKSUMS, manifest.entries(temporary))


def damage(folder: Path, everything: bool = False) -> str:
    """Describe the damaged files of a cached folder; "" if there are none."""
    try:
        recorded = read_json(folder / CHECKSUMS, "")
    except UserError as error:
        # Earlier versions recorded no hashes.
        return str(error).rstrip() if (folder / CHECKSUMS).exists() else f"{folder}: has no {CHECKSUMS}."
    damaged = manifest.verify(folder, recorded, everything)
    return f"{folder}: is damaged ({', '.join(damaged)})." if damaged else ""


def is_intact(folder: Path) -> bool:
    """Return whether a cached folder exists and is undamaged; log the damage."""
    if not folder.is_dir():
        return False
    reason = damage(folder)
    if reason:
        LOGGER.warning("recreated: %s", reason)
    return not reason


class ExampleStore:
    """Random access to the examples of a store folder."""

    def __init__(self, folder: Path) -> None:
        """Map the files without reading them."""
        self.tasks: list[str] = read_rows(folder / "tasks.json", "Delete the folder; it is recreated.")
        self.task_of = _mapped(folder, "task_of")
        self._starts, self._cuts = _mapped(folder, "starts"), _mapped(folder, "cuts")
        self._prefix_of, self._prefix_starts = _mapped(folder, "prefix_of"), _mapped(folder, "prefix_starts")
        # Equal for equal task and input, before inputs are trimmed.
        self.question_of = _mapped(folder, "question_of")
        self._trimmed, self._merged = _mapped(folder, "trimmed"), _mapped(folder, "merged")
        self._tokens = _flat(folder / "tokens.bin")
        self._prefixes = _flat(folder / "prefixes.bin")
        self._references = map_arrow(folder / "references.arrow")

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, row: int) -> Example:
        start, cut, stop = self._starts[row], self._cuts[row], self._starts[row + 1]
        prefix = self._prefix_of[row]
        return Example(
            prefix=self._prefixes[self._prefix_starts[prefix] : self._prefix_starts[prefix + 1]],
            source=self._tokens[start:cut],
            target=self._tokens[cut:stop],
            task=self.tasks[self.task_of[row]],
            references=tuple(self._references[row].as_py()),
            row=row,
        )

    @property
    def merged(self) -> tuple[int, int]:
        """Count texts whose tokens differ from those of the joined text, and texts that were compared."""
        differing, checked = self._merged.tolist()
        return differing, checked

    def trimmed(self, rows: NDArray[np.int64]) -> int:
        """Count the rows whose examples or input were trimmed to max_tokens."""
        return int(np.count_nonzero(self._trimmed[rows]))

    def unread_targets(self) -> tuple[int, int]:
        """Count all references, and those with letters or digits beyond a to z and 0 to 9, or with none."""
        targets = unread = 0
        for chunk in self._references.chunks:
            for start in range(0, len(chunk), CHUNK):  # memory-mapped, in parts
                texts = chunk.slice(start, CHUNK).flatten()
                others = pc.match_substring_regex(texts, OTHER_LETTERS)
                read = pc.and_(pc.match_substring_regex(texts, "[A-Za-z0-9]"), pc.invert(others))
                targets += len(texts)
                unread += len(texts) - (pc.sum(read).as_py() or 0)
        return targets, unread

    def longest(self) -> int:
        """Return the tokens of the longest example, prefix included."""
        prefix = np.diff(self._prefix_starts)[self._prefix_of]
        return int((np.diff(self._starts) + prefix).max())


class Examples(Sequence[Example]):
    """A lazy sequence of rows of a store."""

    def __init__(self, store: ExampleStore, rows: NDArray[np.int64]) -> None:
        """View the given rows of a store."""
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> "Examples": ...
    def __getitem__(self, position: int | slice) -> "Example | Examples":
        if isinstance(position, slice):
            return Examples(self.store, self.rows[position])
        return self.store[int(self.rows[position])]

    def take(self, positions: Sequence[int]) -> list[Example]:
        """Read the examples at these positions."""
        return [self[position] for position in positions]


def write_store(folder: Path, pool: pa.Table, template: Template) -> None:
    """Tokenize a pool into a new store folder."""
    folder.mkdir(parents=True)
    tasks = pool["task"].combine_chunks().dictionary_encode()
    (folder / "tasks.json").write_text(json.dumps(tasks.dictionary.to_pylist()), encoding="utf-8")
    np.save(folder / "task_of.npy", tasks.indices.to_numpy(zero_copy_only=False).astype(np.int32))
    starts, cuts, prefix_of = [0], [], []
    prefixes: dict[bytes, int] = {}
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "prefixes.bin", "wb") as shared:
        prefix_starts = [0]
        for prefix, source, target in _encoded(pool, template):
            number = prefixes.setdefault(prefix.tobytes(), len(prefixes))
            if number == len(prefix_starts) - 1:
                shared.write(prefix.tobytes())
                prefix_starts.append(prefix_starts[-1] + len(prefix))
            prefix_of.append(number)
            tokens.write(source.tobytes() + target.tobytes())
            cuts.append(starts[-1] + len(source))
            starts.append(cuts[-1] + len(target))
    for name, values in (("starts", starts), ("cuts", cuts), ("prefix_starts", prefix_starts)):
        np.save(folder / f"{name}.npy", np.array(values, dtype=np.int64))
    np.save(folder / "prefix_of.npy", np.array(prefix_of, dtype=np.int32))
    np.save(folder / "question_of.npy", same_input(pool))
    np.save(folder / "trimmed.npy", np.array(template.trimmed, dtype=bool))
    np.save(folder / "merged.npy", np.array([template.differing, template.checked]))
    save_arrow(folder / "references.arrow", pool["targets"])


def _encoded(pool: pa.Table, template: Template) -> Iterator[tuple[Tokens, Tokens, Tokens]]:
    columns = ["definition", "positives", "input", "targets"]
    for chunk in pool.select(columns).to_batches(max_chunksize=CHUNK):
        yield from template.encode(
            [
                Instance(
                    definition=row["definition"],
                    positives=[(p["input"], p["output"]) for p in row["positives"] or ()],
                    input=row["input"],
                    target=row["targets"][0],
                )
                for row in chunk.to_pylist()
            ]
        )


def save_arrow(path: Path, column: pa.ChunkedArray | pa.Array) -> None:
    """Write one column as an Arrow file that can be memory-mapped."""
    table = pa.table({"values": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def map_arrow(path: Path) -> pa.ChunkedArray:
    """Memory-map a column written by `save_arrow`."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["values"]


def _mapped(folder: Path, name: str) -> NDArray[np.int64]:
    return np.load(folder / f"{name}.npy", mmap_mode="r")  # type: ignore[no-any-return]


def _flat(path: Path) -> Tokens:
    # An empty file cannot be mapped; without definitions the file is empty.
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=np.int32)
    return np.memmap(path, dtype=np.int32, mode="r")
