"""Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705): task JSON files or a Parquet table.

The folder is the official repository's `tasks`; the table has a row per instance with the columns
task_id, category, split, definition, input and target.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from fedprofit.core.errors import UserError, first_line, nearest
from fedprofit.core.files import expanded
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.sources.base import Columns
from fedprofit.data.splits import encode, shuffled_positions
from fedprofit.data.tables.columns import check, to_pool
from fedprofit.data.tables.reading import Reading

PARQUET_COLUMNS = ["task_id", "category", "split", "definition", "input", "target"]
OWN_COLUMNS = Columns(definition="definition", task="task", category="category", split="split")


class Selection(Protocol):
    """Limits of the tasks and instances to read; `sources/sni.py` documents the fields."""

    path: str
    tasks: tuple[str, ...]
    categories: tuple[str, ...]
    instances: int | None
    max_tasks: int | None
    min_instances: int
    max_words: int | None


def read(settings: Selection, seed: int, reading: Reading) -> pa.Table:
    """Read the instances that pass the limits, as a table of POOL_SCHEMA.

    The limits apply in this order: `tasks`, `categories`, `max_words` (of the definition, the input and each
    target), `min_instances`, `max_tasks` (seeded), `instances` (seeded, per task). JSON files
    have no splits. Their tasks are named after the files; those of a table are named like task073.

    Raises:
        UserError: nothing at the path, a damaged file, an unknown task or category, or no instance passes.
            Bad rows and tasks that the limits exclude go into `reading`.
    """
    path = expanded(settings.path)
    if path.is_dir():
        pool = _read_folder(path, settings, seed, reading)
    elif path.is_file():
        pool = _read_parquet(path, settings, reading)
    else:
        raise UserError(f"{path}: there is no such file or folder (data.source.path). Check the path.")
    if pool.num_rows == 0 and not reading.bad:
        raise UserError(
            f"{path}: no instance passes tasks, categories, max_words and min_instances. "
            f"{reading.dropped or 'Loosen one of them.'}"
        )
    pool = _limit_tasks(pool, settings.max_tasks, seed)
    return _limit_instances(pool, settings.instances, seed)


def _read_parquet(path: Path, settings: Selection, reading: Reading) -> pa.Table:
    try:
        there = pyarrow.parquet.read_schema(path).names
        for name in PARQUET_COLUMNS:
            if name not in there:
                raise UserError(
                    f"{path}: there is no column {name!r}; {nearest(name, there)} For a table of your own, "
                    "use source kind: table."
                )
        table = pyarrow.parquet.read_table(path, columns=PARQUET_COLUMNS)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not readable as Parquet: {first_line(error)}. Name a Parquet table or a "
            "folder of task JSON files in data.source.path."
        ) from None
    ids, codes = np.unique(table["task_id"].to_numpy(), return_inverse=True)
    names = [f"task{number:03d}" for number in ids]
    table = table.append_column("task", pa.array(names).take(pa.array(codes)))
    table = table.filter(pc.is_in(table["task"], pa.array(_chosen(settings.tasks, names, path))))
    category = table["category"].cast(pa.string())
    allowed = _categories(settings, pc.unique(category).to_pylist(), path)
    pool = to_pool(table.filter(pc.is_in(category, pa.array(allowed))), OWN_COLUMNS, str(path), reading)
    short = _limit_words(pool, settings.max_words)
    tasks, _ = encode(pool["task"])
    before, after = (_sizes(rows, tasks) for rows in (pool, short))
    _tell_dropped(before, after, settings, reading)
    return _with_instances(short, settings.min_instances)


def _sizes(pool: pa.Table, tasks: list[str]) -> list[int]:
    counts = {entry["values"]: entry["counts"] for entry in pool["task"].value_counts().to_pylist()}
    return [counts.get(task, 0) for task in tasks]


def _tell_dropped(before: list[int], after: list[int], settings: Selection, reading: Reading) -> None:
    """Report the limits that excluded tasks.

    Args:
        before: instances of each task before max_words.
        after: instances of each task after it.
        settings: the limits.
        reading: collects the report.
    """
    few = sum(count < settings.min_instances for count in before)
    long = sum(count < settings.min_instances for count in after) - few
    if few or long:
        limits = [f"{long} by max_words: {settings.max_words}"] * bool(long and settings.max_words)
        limits += [f"{few} by min_instances: {settings.min_instances}"] * bool(few)
        limits[-1] += f" (together with min_instances: {settings.min_instances})" * bool(
            long and not few and settings.min_instances > 1
        )
        reading.dropped = (
            f"Of {len(before)} tasks {few + long} were excluded: {' and '.join(limits)} (data.source). Raise "
            "max_words or lower min_instances to keep more."
        )
        reading.remarks.append(("tasks left out", f"{few + long} of {len(before)}: {' and '.join(limits)}"))


def _read_folder(path: Path, settings: Selection, seed: int, reading: Reading) -> pa.Table:
    files = {file.stem: file for file in sorted(path.glob("task*.json"))}
    if not files:
        raise UserError(
            f"{path}: no task*.json in this folder (data.source.path). Name the folder `tasks`, "
            "or a .parquet file."
        )
    tables, categories, before, after = [], [], list[int](), list[int]()
    for name in _chosen(settings.tasks, list(files), path):
        table = _read_json(name, files[name])
        category = table["category"][0].as_py()
        categories.append(category)
        if not settings.categories or category in settings.categories:
            table = check(table, str(files[name]), reading)
            before.append(table.num_rows)
            table = _limit_words(table, settings.max_words)
            after.append(table.num_rows)
            if table.num_rows >= settings.min_instances:
                tables.append(_limit_instances(table, settings.instances, seed))
    _categories(settings, sorted(set(categories)), path)
    _tell_dropped(before, after, settings, reading)
    return pa.concat_tables(tables) if tables else POOL_SCHEMA.empty_table()


def _read_json(name: str, file: Path) -> pa.Table:
    try:
        task = json.loads(file.read_text(encoding="utf-8"))
        rows = [_row(name, task, instance) for instance in task["Instances"]]
        table = pa.Table.from_pylist(rows, schema=POOL_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        raise UserError(
            f"{file}: not a task file of Super-NaturalInstructions ({type(error).__name__}: {error}). It "
            "needs Definition, Categories, Positive Examples and Instances; fetch the file again or "
            "remove it."
        ) from None
    if table.num_rows == 0:
        raise UserError(f"{file}: Instances is empty. Fetch the file again or remove it.")
    return table


def _row(name: str, task: dict[str, Any], instance: dict[str, Any]) -> dict[str, Any]:
    output = instance["output"]
    return {
        "task": name,
        "category": task["Categories"][0],
        "definition": task["Definition"][0] if isinstance(task["Definition"], list) else task["Definition"],
        "positives": [{"input": p["input"], "output": p["output"]} for p in task["Positive Examples"]],
        "input": instance["input"],
        "targets": output if isinstance(output, list) else [output],
    }


def _chosen(asked: Iterable[str], names: list[str], path: Path) -> list[str]:
    """Return the requested names (all if none is requested), in the order of `names`."""
    chosen = set()
    for query in asked:
        found = [name for name in names if _same_task(query, name)]
        if not found:
            hint = nearest(query, names) if len(names) <= 20 else _nearest_of_many(query, names)
            raise UserError(f"{path}: there is no task {query!r} (data.source.tasks); {hint}")
        chosen.update(found)
    return [name for name in names if name in chosen] if chosen else names


def _nearest_of_many(query: str, names: list[str]) -> str:
    hint = nearest(query, names)
    return (
        hint if hint.startswith("did") else f"{len(names)} tasks are there, from {names[0]} to {names[-1]}."
    )


def _same_task(query: str, name: str) -> bool:
    if query == name:
        return True
    asked, there = (re.fullmatch(r"(?:task)?0*(\d+)(_.*)?", text) for text in (query, name))
    if asked is None or there is None or asked[1] != there[1]:
        return False
    return asked[2] is None or there[2] is None  # two full names must agree in full


def _categories(settings: Selection, there: list[str], path: Path) -> list[str]:
    for category in settings.categories:
        if category not in there:
            raise UserError(
                f"{path}: there is no category {category!r} (data.source.categories) among the tasks read; "
                + nearest(category, sorted(there))
            )
    return list(settings.categories) or there


def _limit_words(pool: pa.Table, most: int | None) -> pa.Table:
    if most is None:
        return pool
    long = _words(pool["definition"]) > most
    long |= _words(pool["input"]) > most
    targets = pool["targets"].combine_chunks()
    words = _words(pc.list_flatten(targets))
    long[pc.list_parent_indices(targets).to_numpy()[words > most]] = True
    return pool.filter(pa.array(~long))


def _words(text: pa.Array | pa.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.int64]]":
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(text)))
    return np.asarray(words.to_numpy(), np.int64)


def _with_instances(pool: pa.Table, least: int) -> pa.Table:
    names, codes = encode(pool["task"])
    enough = np.bincount(codes, minlength=len(names)) >= least
    return pool.filter(pa.array(enough[codes]))


def _limit_tasks(pool: pa.Table, most: int | None, seed: int) -> pa.Table:
    if most is None:
        return pool
    names, codes = encode(pool["task"])
    chosen = numpy_generator(seed, "sni tasks").permutation(len(names))[:most]
    return pool.filter(pa.array(np.isin(codes, chosen)))


def _limit_instances(pool: pa.Table, most: int | None, seed: int) -> pa.Table:
    if most is None:
        return pool
    names, codes = encode(pool["task"])
    position = np.empty(len(codes), np.int64)
    sizes = np.bincount(codes, minlength=len(names))
    position[np.argsort(codes, kind="stable")] = shuffled_positions(names, sizes, seed, "sni instances")
    return pool.filter(pa.array(position < most))
