"""Benchmark how a round of FedAvg scales with the population, the cohort, the prompt length, and the cores.

    python benchmarks/scale.py --out runs/benchmarks/scale

Every point runs in a separate process, so that its peak memory can be measured. The points of an axis take
turns, one round each. A population is a table that is tokenized into the cache at first use.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from table import made_with

import fedprofit
from fedprofit.algorithm.base import Context
from fedprofit.backbone.engine import Engine
from fedprofit.core.files import cache_folder, write_json
from fedprofit.data.sources import read_source
from fedprofit.data.sources.lexicon import LexiconSource
from fedprofit.doctor import peak_bytes
from fedprofit.runs.bench import prepare
from fedprofit.runs.train import client_batches
from fedprofit.server.cohort import draw_cohort

BASE = {"population": 1000, "cohort": 8, "length": 20, "threads": 2, "rows": 3}
AXES: Mapping[str, Sequence[int]] = {
    "population": (1_000, 100_000, 1_000_000),
    "cohort": (1, 8, 64, 512),
    "length": (5, 20, 50, 100, 200),
    "threads": (1, 2),
}
LABELS = {
    "population": "clients in the population",
    "cohort": "clients in a round",
    "length": "vectors of the soft prompt",
    "threads": "cores",
}


def population_table(clients: int, train: int) -> Path:
    """Write the table of a population once: questions of the lexicon with a distinct number each.

    The numbers have a fixed count of digits, so that token counts do not depend on the population.
    """
    path, each = cache_folder() / f"population-{clients}-{train}.parquet", train + 2
    if not path.exists():
        pool = read_source(LexiconSource(kind="lexicon", instances=50), 0).to_pylist()
        rows = [pool[n % len(pool)] for n in range(each * clients)]
        columns = {
            "client": [f"client-{n // each:07d}" for n in range(each * clients)],
            # All splits are present: without validation rows, a fifth of the train rows would be used.
            "split": [*["train"] * train, "validation", "test"] * clients,
            "input": [f"{row['input']} ({n:07d})" for n, row in enumerate(rows)],
            "target": [row["targets"][0] for row in rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return path


def take_rounds(
    point: Mapping[str, int], model: str, token_budget: int, wanted: Iterable[object]
) -> Iterator[dict[str, Any]]:
    """Open a point's federation and yield its settings, then the results of a round per item of `wanted`."""
    torch.set_num_threads(point["threads"])
    config = point_config(point, model, token_budget)
    begin = time.perf_counter()
    bench = prepare(config)
    yield {
        **point,
        "opened": time.perf_counter() - begin,
        "dtype": str(bench.engine.backbone.dtype).removeprefix("torch."),
    }
    context = Context(bench.solver)
    method = config.training.algorithms[0].build(context)
    state = method.init(bench.start)
    for number, _ in enumerate(wanted, 1):
        begin = time.perf_counter()
        cohort = draw_cohort(bench.dataset.clients("train"), point["cohort"], 0, number)
        work = [client_batches(bench, method, client, number) for client in cohort]
        state, report = method.round(state, work, context.at(number))
        yield {
            "seconds": time.perf_counter() - begin,
            "tokens": report.tokens,
            "peak_bytes": peak_bytes(bench.engine),
        }


def point_config(point: Mapping[str, int], model: str, token_budget: int) -> fedprofit.Config:
    """Return the configuration of a point: one local step of FedAvg on the table of its population."""
    names = {name: name for name in ("client", "input", "target", "split")}
    algorithm = {"kind": "fedavg", "name": "fedavg", "steps": 1, "batch_size": point["rows"]}
    return fedprofit.from_mapping(
        {
            "name": "scale",
            "backbone": {"name": model, "token_budget": token_budget},
            "data": {
                "source": {
                    "kind": "table",
                    "path": str(population_table(point["population"], point["rows"])),
                    "columns": names,
                },
                "partition": {"kind": "natural"},
                "clients": {"train": point["population"] - 1, "validation": 0, "test": 1},
                "examples": None,
            },
            "tuner": {"kind": "prompt", "length": point["length"]},
            "training": {"cohort": point["cohort"], "algorithms": [algorithm]},
        }
    )


def point_of(axis: str, value: int) -> dict[str, int]:
    """Return the settings at a value of an axis: the base settings with this value."""
    point = {**BASE, axis: value}
    if axis == "population":
        point["rows"] = 1  # so that the table of a million clients is tokenized within minutes
    # The population must be larger than the cohort.
    point["population"] = max(point["population"], point["cohort"] + 1)
    return point


class Point:
    """A point of an axis in a separate process, which runs rounds on request."""

    def __init__(self, axis: str, value: int, args: argparse.Namespace) -> None:
        """Start the process and wait until it has opened its federation."""
        command = [sys.executable, __file__, "--point", json.dumps(point_of(axis, value))]
        command += ["--model", args.model, "--token-budget", str(args.token_budget)]
        self.name = f"{axis} {value}"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.opened = self._answer()

    def round(self) -> dict[str, Any]:
        """Run a round and return its results."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        raise SystemExit(f"{self.name} failed (exit status {self._process.wait()}). See the error above.")


def measure(axis: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure an axis. All values take turns, so that other load on the machine affects all of them."""
    for value in AXES[axis]:  # write the files of all populations before any measured process starts
        prepare(point_config(point_of(axis, value), args.model, args.token_budget))
    points = [Point(axis, value, args) for value in AXES[axis]]
    rounds: list[list[dict[str, Any]]] = [[] for _ in points]
    for number in range(args.rounds + 1):
        for point, taken in list(zip(points, rounds, strict=True))[:: -1 if number % 2 else 1]:
            taken.append(point.round())
    for point in points:
        point.end()
    found = [merged(point.opened, taken[1:]) for point, taken in zip(points, rounds, strict=True)]
    for point, facts in zip(points, found, strict=True):
        pairs = zip(facts["seconds"], found[0]["seconds"], strict=True)
        ratio = statistics.median(seconds / first for seconds, first in pairs)
        middle, peak = statistics.median(facts["seconds"]), facts["peak_bytes"] / 2**20
        print(f"{point.name}: {middle:.2f} s, {ratio:.2f} times the first, {peak:.0f} MiB")
    return found


def merged(opened: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the rounds of a point: the seconds of each round, tokens and peak memory of the last."""
    return {**opened, **rounds[-1], "seconds": [one["seconds"] for one in rounds]}


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], machine: str, path: Path) -> None:
    """Draw seconds per client and peak memory over each axis, with the machine as caption."""
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.6 * len(found), 5.6), layout="constrained", squeeze=False
    )
    for column, (axis, points) in enumerate(found.items()):
        x = [point[axis] for point in points]
        each = [statistics.median(p["seconds"]) / p["cohort"] for p in points]
        memory = [point["peak_bytes"] / 2**20 for point in points]
        for row, (values, label) in enumerate(
            ((each, "seconds per client and step"), (memory, "peak memory in MiB"))
        ):
            plot = axes[row][column]
            plot.plot(x, values, marker="o", color="#0072b2")
            plot.set(xlabel=LABELS[axis], ylabel=label, ylim=(0, 1.15 * max(values)))
            if axis in ("population", "cohort"):
                plot.set_xscale("log")
            if axis == "threads":
                plot.set_xticks(x)
            plot.grid(alpha=0.3)
    dtypes = {str(point["dtype"]) for points in found.values() for point in points}
    figure.text(0, -0.01, f"{machine}, {' and '.join(sorted(dtypes))}", va="top", fontsize=8, color="0.35")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Measure the requested axes; with `--point`, run one point."""
    parser = argparse.ArgumentParser(description="Scaling of a round of FedAvg.")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each point, after one warm-up round")
    parser.add_argument("--model", default="smollm2-135m-q4", help="a named backbone, a folder or a hub id")
    parser.add_argument("--token-budget", type=int, default=Engine.token_budget)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/scale"))
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        for facts in take_rounds(json.loads(args.point), args.model, args.token_budget, sys.stdin):
            print(json.dumps(facts), flush=True)
        return
    found = {axis: measure(axis, args) for axis in args.axes}
    provenance = made_with()
    write_json(args.out / "scale.json", {**provenance, "base": BASE, "points": found})
    machine = provenance["machine"]
    draw(found, f"{machine['processor']}, {machine['cores']} cores", args.out / "scale.png")


if __name__ == "__main__":
    main()
