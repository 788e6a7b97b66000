"""Time methods in turns; write tables to the terminal, Markdown and JSON."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

from fedprofit.backbone.device import computes_bfloat16
from fedprofit.core.files import write_json, write_text
from fedprofit.runs.environment import commit, processor

LIBRARIES = ("fedprofit", "torch", "transformers", "peft", "pfl", "flwr", "ray")


@dataclass(frozen=True)
class Result:
    """The times of a method, and their ratios to the engine's time in the same turn."""

    method: str
    seconds: list[float]
    ratios: list[float]


@dataclass(frozen=True)
class Measurement:
    """One table: title, examples and tokens of each run, and all results."""

    title: str
    examples: int
    tokens: int
    facts: dict[str, Any]
    results: list[Result]


def timed(method: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Wrap a method so that it returns its duration in seconds."""

    def seconds() -> float:
        begin = time.perf_counter()
        method()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    return seconds


def take_turns(methods: Mapping[str, Callable[[], float]], repetitions: int) -> list[Result]:
    """Run timed methods in turns; reverse the order in every other turn."""
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(repetitions):
        for name in list(methods)[:: -1 if repetition % 2 else 1]:
            taken[name].append(methods[name]())
    return [
        Result(name, times, [t / engine for t, engine in zip(times, taken["engine"], strict=True)])
        for name, times in taken.items()
    ]


HEADER = ["method", "seconds", "range", "examples/s", "engine / this", "of peak"]


def cells(measurement: Measurement, result: Result) -> list[str]:
    """Return the table row of a result."""
    middle, facts = statistics.median(result.seconds), measurement.facts
    has_peak = "peak" in facts and not result.method.endswith("-float32")  # the peak has another dtype
    return [
        result.method,
        f"{middle:.2f}",
        f"{min(result.seconds):.2f}-{max(result.seconds):.2f}",
        f"{measurement.examples / middle:.2f}",
        "" if result.method == "engine" else f"{statistics.median(result.ratios):.2f}",
        f"{facts['flops'] / middle / facts['peak']:.0%}" if has_peak else "",
    ]


def show(measurement: Measurement) -> None:
    """Print a table of at most 80 columns."""
    rows = [cells(measurement, result) for result in measurement.results]
    used = [column for column in range(len(HEADER)) if any(row[column] for row in rows)]
    # The names of methods are not wrapped.
    headers = [Column(HEADER[column], no_wrap=column == 0) for column in used]
    table = Table(*headers, title=measurement.title, title_justify="left")
    for row in rows:
        table.add_row(*(row[column] for column in used))
    Console(width=80).print(table)


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown below its title, with right-aligned numbers."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([f"{title}\n", lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]])


def write(folder: Path, name: str, measurements: Sequence[Measurement], settings: dict[str, Any]) -> None:
    """Write `name.json` (settings, provenance, every run) and `name.md` (the tables)."""
    tables = [markdown(m.title, HEADER, [cells(m, result) for result in m.results]) for m in measurements]
    write_text(folder / f"{name}.md", "\n\n".join(tables) + "\n")
    found = {
        "settings": settings,
        **made_with(),
        "measurements": [{**vars(m), "results": [vars(r) for r in m.results]} for m in measurements],
    }
    write_json(folder / f"{name}.json", found)


def made_with() -> dict[str, Any]:
    """Return the provenance of results: command, commit, versions of libraries, and machine."""
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "computes_bfloat16": computes_bfloat16(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"command": sys.argv, "commit": commit(), "versions": versions(), "machine": machine}


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries in `LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
