"""Damaged files of a tiny run, a tiny study, their cached data and a converted model."""

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from faults import AGAIN, SILENT, TRACEBACK, UNCHANGED, Outcome, attempt, damaged
from gguf_file import write_gguf
from tiny_run import call, tiny_config

import fedprofit
from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.backbone import fetch
from fedprofit.backbone.load import load_backbone
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.files import cache_folder
from fedprofit.data.federated import open_dataset
from fedprofit.runs.checkpoint import load_tensors
from fedprofit.runs.folder import RunFolder
from fedprofit.studies.ledger import add, claim, write_facts
from fedprofit.studies.spec import PlannedRun, Study

DATA = "data"  # the cached data sets
RESUMED = "resumed run"
SHARES = {RESUMED: 0.35, DATA: 0.25, "complete run": 0.2, "study": 0.1, "prompts": 0.08, "model": 0.02}


@dataclass(frozen=True)
class Bench:
    """The undamaged files; faults are injected into copies."""

    place: Path
    config: Config
    gguf: Path

    @property
    def run(self) -> RunFolder:
        """A complete run."""
        return RunFolder(self.place / "run")


def make(place: Path) -> Bench:
    """Create a run with trials and personalized validation clients, its study, and a model from GGUF."""
    os.environ["FEDPROFIT_CACHE"] = str(place / "cache")
    torch.set_num_threads(1)
    mapping = tiny_config(place)
    two = [{"name": f"{{}}{n}", "steps": n} for n in (1, 2)]
    mapping["training"] |= {"rounds": 2}
    mapping["training"]["algorithms"] = [
        {"kind": "fedsgd", "name": f"sgd{n}", "method": "sgd", "server": {"rate": 0.1 * n}} for n in (1, 2)
    ]
    mapping["baselines"] = {
        name: [one | {"name": one["name"].format(name)} for one in two] for name in ("local", "central")
    }
    mapping["evaluation"] |= {"validation": True}
    config = fedprofit.from_mapping(mapping)
    bench = Bench(place, config, place / "tiny.gguf")
    fedprofit.run(config, out=bench.run.path)
    planned = PlannedRun("0" * 16, {"seed": 0}, config)
    study = Study(name="tiny", run=mapping, axes={"seed": [0]})
    folder = claim(place / "study", study, resume=False)
    shutil.copytree(bench.run.path, folder.run(planned.key))
    write_facts(folder, study)
    add(folder, planned)
    shutil.rmtree(folder.path / "runs")
    write_gguf(bench.gguf)
    fetch.from_gguf(bench.gguf)
    return bench


def damaged_files(bench: Bench, seed: int, count: int) -> Iterator[Outcome]:
    """Damage files of every kind; yield the outcomes."""
    draw = random.Random(seed)
    logging.getLogger("fedprofit").addHandler(logging.NullHandler())
    probes = {
        RESUMED: _Resumed(bench).probe,
        DATA: _Data(bench).probe,
        "complete run": _Opened(bench, bench.run.path).probe,
        "study": _Opened(bench, bench.place / "study").probe,
        "prompts": _Prompts(bench).probe,
        "model": _Model(bench).probe,
    }
    for group, share in SHARES.items():
        for _ in range(round(share * count)):
            yield probes[group](draw, group)


def commands(bench: Bench, seed: int, count: int) -> Iterator[Outcome]:
    """Damage files of a complete run; the report command must exit with status 2 and name the file."""
    draw = random.Random(seed)
    opened = _Opened(bench, bench.run.path)
    for _ in range(count):
        file = draw.choice(opened.files)

        def report(file: Path = file) -> str:
            done = call("report", opened.copy, cwd=bench.place)
            if done.returncode == 2:
                raise UserError("".join(done.stderr.split()))  # undo the line wrapping
            return SILENT if done.returncode == 0 else TRACEBACK

        yield _with_damage(draw, "report", file, report)


class _Opened:
    """A complete run or study, opened as reports do."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.folder, self.copy = folder, bench.place / "opened" / folder.name
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(folder, self.copy)
        self.expected = open_tables(self.copy)
        skipped = ("run.log", "plan.json")  # not read for a complete run
        self.files = [
            file
            for pattern in ("*.parquet", "*.json", "*.yaml", "parts/history-*")
            for file in sorted(self.copy.glob(pattern))
            if file.name not in skipped
        ]

    def probe(self, draw: random.Random, group: str) -> Outcome:
        file = draw.choice(self.files)
        return _with_damage(draw, group, file, lambda: _compared(self.expected, open_tables(self.copy)))


def _compared(expected: Tables, found: Tables) -> str:
    # `ends` is derived from the results, in any order.
    for field in (field for field in fields(Tables) if field.name != "ends"):
        one, other = getattr(expected, field.name), getattr(found, field.name)
        same = one.equals(other) if isinstance(one, pl.DataFrame) and other is not None else one == other
        if not same:
            return SILENT
    return UNCHANGED


class _Prompts:
    """Prompts and checkpoints, read as users do."""

    def __init__(self, bench: Bench) -> None:
        self.files = [*bench.run.path.glob("prompts/*"), *bench.run.path.glob("checkpoints/*")]
        self.files.sort()

    def probe(self, draw: random.Random, group: str) -> Outcome:
        file = draw.choice(self.files)
        expected = load_tensors(file)

        def read() -> str:
            (tensors, facts), (was, known) = load_tensors(file), expected
            same = facts == known and tensors.keys() == was.keys()
            return UNCHANGED if same and all(tensors[k].equal(was[k]) for k in was) else SILENT

        return _with_damage(draw, group, file, read)


class _Resumed:
    """An unfinished run without its last stage, resumed with one damaged file."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.unfinished = RunFolder(bench.place / "unfinished")
        shutil.rmtree(self.unfinished.path, ignore_errors=True)
        shutil.copytree(bench.run.path, self.unfinished.path)
        for file in (self.unfinished.summary, self.unfinished.results, self.unfinished.part("central")):
            file.unlink()
        self.files = [
            file.relative_to(self.unfinished.path)
            for pattern in ("parts/*", "checkpoints/*", "prompts/*", "*.json", "*.yaml")
            for file in sorted(self.unfinished.path.glob(pattern))
        ]

    def probe(self, draw: random.Random, group: str) -> Outcome:
        name = draw.choice(self.files)
        copy = RunFolder(self.bench.place / "resumed")
        shutil.rmtree(copy.path, ignore_errors=True)
        shutil.copytree(self.unfinished.path, copy.path)
        file = copy.path / name
        damage, content = damaged(draw, file.read_bytes())
        file.write_bytes(content)

        def resume() -> str:
            fedprofit.run(self.bench.config, out=copy.path, resume=True)
            if _compared(open_tables(self.bench.run.path), _as(self.bench.run.path, copy.path)) == SILENT:
                return SILENT
            if file.read_bytes() == content:
                return SILENT  # still damaged in a complete run
            return AGAIN if name.name in copy.log.read_text() else SILENT

        return attempt(group, f"{damage} of {name}", resume, name.name)


def _as(path: Path, copy: Path) -> Tables:
    """Open a resumed run with the original's path, seconds and environment, which may differ."""
    original = open_tables(path)
    return replace(open_tables(copy), path=path, times=original.times, environments=original.environments)


class _Data:
    """The cached data set of the run."""

    def __init__(self, bench: Bench) -> None:
        settings = bench.config.backbone
        self.backbone = load_backbone(settings.name, settings.dtype, settings.device)
        self.bench, self.kept = bench, bench.place / "kept-data"
        open_dataset(bench.config.data, self.backbone, bench.config.seed)
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(cache_folder() / DATA, self.kept)
        self.files = sorted(f.relative_to(self.kept) for f in self.kept.rglob("*.*") if f.is_file())
        self.expected = self.content()

    def content(self) -> list[Any]:
        data = open_dataset(self.bench.config.data, self.backbone, self.bench.config.seed)
        clients = [list(data.clients(group)) for group in ("train", "validation", "test")]
        examples = [
            (e.prefix.tolist(), e.source.tolist(), e.target.tolist(), e.task, e.references)
            for group in ("train", "validation", "test")
            for split in ("train", "validation", "test")
            for e in data.pooled(group, split)
        ]
        return [clients, examples, [e.source.tolist() for e in data.unseen], data.tasks]

    def probe(self, draw: random.Random, group: str) -> Outcome:
        name = draw.choice(self.files)
        file, original = cache_folder() / DATA / name, (self.kept / name).read_bytes()

        def read() -> str:
            if self.content() != self.expected:
                return SILENT
            return AGAIN if file.read_bytes() == original else SILENT

        if not original:
            return self.probe(draw, group)
        damage, content = damaged(draw, original)
        file.write_bytes(content)
        outcome = attempt(group, f"{damage} of {name}", read, file.parent.name)
        if file.read_bytes() != original:
            shutil.rmtree(cache_folder() / DATA)
            shutil.copytree(self.kept, cache_folder() / DATA)
        return outcome


class _Model:
    """A model converted from GGUF."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, fetch.from_gguf(bench.gguf)
        self.files = sorted(file for file in self.folder.iterdir() if file.name != ".verified.json")

    def probe(self, draw: random.Random, group: str) -> Outcome:
        file = draw.choice(self.files)
        original = file.read_bytes()
        damage, content = damaged(draw, original)
        file.write_bytes(content)

        def read() -> str:
            path = fetch.from_gguf(self.bench.gguf) / file.name
            return AGAIN if path.read_bytes() == original else SILENT

        outcome = attempt(group, f"{damage} of {file.name}", read, file.name)
        if file.read_bytes() != original:
            file.write_bytes(original)
        return outcome


def _with_damage(draw: random.Random, group: str, file: Path, act: Callable[[], str]) -> Outcome:
    """Damage a file, act, and restore it."""
    original = file.read_bytes()
    damage, content = damaged(draw, original)
    file.write_bytes(content)
    try:
        return attempt(group, f"{damage} of {file.name}", partial(act), file.name)
    finally:
        file.write_bytes(original)
