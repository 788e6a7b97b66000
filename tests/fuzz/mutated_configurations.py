"""Configurations and studies with faults: each loads or raises `UserError`, in under a second."""

import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from faults import HANG, LOADED, SILENT, Outcome, attempt, damaged

from fedprofit.config.file import load_config, to_yaml
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_yaml
from fedprofit.studies.spec import load_study

ROOT = Path(__file__).parents[2]
SOURCES = ("configs/*.yaml", "studies/**/*.yaml")
LIMIT = 1.0  # seconds of CPU time
LONGEST_MESSAGE = 3000  # characters
SCALARS = [
    "1:30", "010", "0o17", "0x1F", "yes", "No", "on", "null", "~", "1e-3", "1e999", "-.inf", ".nan", "+1",
    "2026-01-01", "2026-13-45", "12:61:99", "!!int abc", "!!float x", "!!binary aGk=", "!!timestamp 1",
    "!!python/object/apply:os.getcwd []", "!unknown x", "9" * 30, "9" * 6000, "-" + "9" * 20, "1_000", "''",
    '"\\x00"', "'unfinished", '"', "[", "{", "]", "}", "&a [*a]", "*nowhere", "<<", "? x", "- x", "%x", "@x",
    "`x`", "# x", "a" * 5000, "é雪\U0001f600", "x: y: z", "{grid: [1, 2]}", "{pick: [1, 2]}", "{grid: []}",
    "true", "0", "-1", "0.0", "1.5", "[]", "{}", "[1, [2, [3]]]", "{a: {b: {c: d}}}", "[null]", "=",
]  # fmt: skip
BYTES = [
    b"\x00",
    b"\x01",
    b"\x1b[31m",
    b"\t",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
]

Mutation = Callable[[random.Random, str], str]


def scalar(draw: random.Random, text: str) -> str:
    """Replace a value by an unusual one."""
    at = draw.choice(list(re.finditer(r"(?<=: )[^\n#,{}\[\]]+", text)) or [re.match("", text)])
    return text[: at.start()] + draw.choice(SCALARS) + text[at.end() :]


def delete_line(draw: random.Random, text: str) -> str:
    """Delete a line."""
    lines = text.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return "".join(lines)


def repeat_line(draw: random.Random, text: str) -> str:
    """Insert a copy of a line at a random position."""
    lines = text.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return "".join(lines)


def indent(draw: random.Random, text: str) -> str:
    """Change the indentation of a line."""
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    lines[at] = draw.choice([" ", "  ", "\t"]) + lines[at] if draw.random() < 0.7 else lines[at].lstrip()
    return "".join(lines)


def nest(draw: random.Random, text: str) -> str:
    """Append deep nesting, or replace everything by it."""
    depth = draw.choice([10, 49, 60, 1000, 20000])
    deep = draw.choice(["[" * depth, "{a: " * depth, "- " * depth, "[" * depth + "]" * depth, "? " * depth])
    return draw.choice([text + "extra: " + deep, deep, text + "\n" + deep])


def aliases(draw: random.Random, text: str) -> str:
    """Add anchors whose aliases grow exponentially."""
    width, depth = draw.choice([(2, 40), (9, 9), (100, 4), (2, 3)])
    lines = ["a0: &a0 [x, y]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return draw.choice(["", text]) + "\n".join(lines) + "\n"


def value(draw: random.Random, text: str) -> str:
    """Change, delete or copy a random value of the tree."""
    tree = yaml_text.load(text)
    section, key = draw.choice(list(_places(tree)))
    odd: list[Any] = [None, True, -1, 0, 10**18, 1e308, "", "x", "1:30", [], {}, [[]], {"x": 1}, ["a"] * 2000]
    action = draw.randrange(3)
    if action == 0:
        section[key] = draw.choice(odd)
    elif action == 1:
        del section[key]
    else:
        other, place = draw.choice(list(_places(tree)))
        section[key] = deepcopy(other[place])
    return yaml_text.dump(tree)


def unknown_keys(draw: random.Random, text: str) -> str:
    """Add unknown keys, some of them long or many."""
    many = draw.choice([1, 3, 2000])
    return text + "".join(f"{draw.choice(['key', 'k' * 500, 'seed'])}{n}: {n}\n" for n in range(many))


def binary(draw: random.Random, text: str) -> str:
    """Insert bytes that are not text."""
    content = text.encode()
    at = draw.randrange(len(content))
    return (content[:at] + draw.choice(BYTES) + content[at:]).decode("latin-1")


def damage(draw: random.Random, text: str) -> str:
    """Damage the file like a failing disk."""
    return damaged(draw, text.encode())[1].decode("latin-1")


MUTATIONS: tuple[Mutation, ...] = (
    scalar, scalar, delete_line, repeat_line, indent, nest, aliases, value, value, unknown_keys, binary,
    damage,
)  # fmt: skip


def mutated_configurations(folder: Path, seed: int, count: int) -> Iterator[Outcome]:
    """Mutate valid files and read them; yield the outcomes."""
    draw = random.Random(seed)
    for name in ("configs", "studies"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    files = sorted(file for pattern in SOURCES for file in folder.glob(pattern))
    for _ in range(count):
        mutation, file = draw.choice(MUTATIONS), draw.choice(files)
        changed = mutation(draw, file.read_text("utf-8"))
        while draw.random() < 0.2 and changed.strip():
            changed = draw.choice([scalar, delete_line, repeat_line, indent])(draw, changed)
        path = file.with_name("mutated.yml")  # next to the original, since a study's base is a relative path
        path.write_bytes(changed.encode("latin-1" if mutation in (binary, damage) else "utf-8", "replace"))
        began = time.process_time()
        outcome = attempt(mutation.__name__, repr(changed[:200]), partial(_read, path), "", seconds=20)
        seconds = time.process_time() - began
        if seconds > LIMIT:
            outcome = Outcome(mutation.__name__, HANG, f"{seconds:.1f} s: {changed[:200]!r}")
        yield outcome


def _read(path: Path) -> str:
    """Read a configuration or a study; a configuration must read back equal after writing."""
    try:
        mapping = read_yaml(path)
        if isinstance(mapping, dict) and {"axes", "base", "run"} & set(mapping):
            load_study(path)
            return LOADED
        config = load_config(path)
    except UserError as error:
        if len(str(error)) > LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        raise
    again = path.with_name("again.yaml")
    again.write_text(to_yaml(config), encoding="utf-8")
    return LOADED if load_config(again) == config else SILENT


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every section or list of a tree, with each of its keys or positions."""
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
