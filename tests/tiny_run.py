"""A complete run on a tiny random model and a small table, for the tests of runs."""

import json
import multiprocessing.process
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import tiny_folder

from fedprofit.core import yaml_text
from fedprofit.core.processes import fresh_processes

WORDS = ["red", "green", "blue", "grey", "pink", "gold", "teal", "navy", "plum", "lime", "rose", "sand"]


def write_table(path: Path, clients: int = 6, rows: int = 20) -> Path:
    """Each client has its own task on the same kind of inputs."""
    draw = np.random.default_rng(0)
    lines = []
    for client in range(clients):
        seen = set()
        while len(seen) < rows:
            seen.add(" ".join(draw.choice(WORDS, 3)))
        for number, text in enumerate(sorted(seen)):
            target = [text.split()[client % 3], text.upper()][client % 2]
            row = {
                "who": f"c{client}",
                "ask": text,
                "want": target,
                "job": f"job{(client + number) % 4}",
                "rule": "Pick a word",
            }
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def tiny_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a run of a few seconds; `changes` replace complete sections."""
    columns = {"client": "who", "input": "ask", "target": "want", "task": "job", "definition": "rule"}
    table = write_table(folder / "table.jsonl")
    config = {
        "name": "tiny",
        "backbone": {"name": str(tiny_folder(folder)), "dtype": "float32", "device": "cpu"},
        "data": {
            "source": {"kind": "table", "path": str(table), "columns": columns},
            "clients": {"train": 3, "validation": 1, "test": 2},
            "examples": None,
            "unseen_tasks": ["job3"],
        },
        "tuner": {"length": 3},
        "training": {
            "rounds": 3,
            "cohort": 2,
            "evaluate_every": 1,
            "algorithms": [
                {"kind": "fedavg", "name": "avg", "steps": 2, "server": {"kind": "adam", "rate": 0.1}},
                {"kind": "fedsgd", "name": "sgd", "server": {"rate": 0.5}},
            ],
        },
        "personalization": [
            {"name": "tune", "steps": 3, "proximal": 0.01, "evaluate_at": [1], "interpolation": [0.5]}
        ],
        "baselines": {
            "local": {"name": "local", "steps": 2},
            "central": {"name": "central", "steps": 2, "batch_size": 8},
        },
        "evaluation": {"max_new_tokens": 4, "global_examples": 6, "unseen_examples": 4},
    }
    return config | changes


def write_config(folder: Path, **changes: Any) -> Path:
    """Write the configuration as YAML and return its path."""
    path = folder / "config-in.yaml"
    path.write_text(yaml_text.dump(tiny_config(folder, **changes)), encoding="utf-8")
    return path


def begin(
    *arguments: str | Path, cwd: Path, prints: tuple[str, str] = (os.devnull, os.devnull)
) -> multiprocessing.process.BaseProcess:
    """Start the command line in a separate process that has the libraries already imported.

    Its output goes to the two files of `prints`.
    """
    given = (list(map(str, arguments)), cwd, surroundings(), prints)
    process = fresh_processes().Process(target=_main, args=given)
    process.start()
    return process


def _main(arguments: list[str], cwd: Path, environment: dict[str, str], prints: tuple[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in zip(prints, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    torch.set_num_threads(1)
    sys.argv = ["fedprofit", *arguments]
    from fedprofit.__main__ import main  # now: the width of its console depends on the environment

    main()


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of a real process."""
    return [sys.executable, "-m", "fedprofit", *map(str, arguments)]


def surroundings() -> dict[str, str]:
    """Return the environment of a real process: one thread, plain text of 80 columns."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}


def call(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, started by `begin`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = begin(*arguments, cwd=cwd, prints=(str(out), str(err)))
        process.join()
        printed = out.read_text("utf-8"), err.read_text("utf-8")
    return subprocess.CompletedProcess(command(*arguments), process.exitcode or 0, *printed)


def processes_of(tag: str) -> list[int]:
    """Return the processes with TAG=tag in their environment, including descendants."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and f"TAG={tag}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
