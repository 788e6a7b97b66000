"""How a round of FedAvg scales: with the population, the cohort, the prompt's length, and the cores.

    python benchmarks/scale.py --out runs/benchmarks/scale

Every point is a process of its own, so that its peak memory is its own too. A population is a table
that is tokenized into the cache when it is first asked for.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from table import made_with

import fedprofit
from fedprofit.algorithm import build
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.workers import peak_private_bytes
from fedprofit.data.settings import LexiconSource
from fedprofit.data.sources import read_source
from fedprofit.files import cache_folder, write_json
from fedprofit.server.cohort import draw_cohort
from fedprofit.study.bench import prepare
from fedprofit.study.train import client_work

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
    """Write the table of a population, once: questions of the lexicon, told apart by a number."""
    path, each = cache_folder() / f"scale-{clients}-{train}.parquet", train + 2
    if not path.exists():
        pool = read_source(LexiconSource(kind="lexicon", instances=50), 0).to_pylist()
        rows = [pool[n % len(pool)] for n in range(each * clients)]
        columns = {
            "client": [f"client-{n // each:07d}" for n in range(each * clients)],
            # All three are named: of a table without validation rows, a fifth of the train rows becomes it.
            "split": [*["train"] * train, "validation", "test"] * clients,
            "input": [f"{row['input']} ({n})" for n, row in enumerate(rows)],
            "target": [row["targets"][0] for row in rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return path


def run_point(point: Mapping[str, int], rounds: int, model: str, token_budget: int) -> dict[str, Any]:
    """Time rounds at one point; the first, which warms up, is not counted."""
    torch.set_num_threads(point["threads"])
    names = {name: name for name in ("client", "input", "target", "split")}
    algorithm = {"kind": "fedavg", "name": "fedavg", "steps": 1, "batch_size": point["rows"]}
    config = fedprofit.from_mapping(
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
    begin = time.perf_counter()
    bench = prepare(config)
    opened = time.perf_counter() - begin
    method = build(bench.engine, config.training.algorithms[0])
    state, seconds, tokens = method.init(bench.start), [], 0
    for number in range(1, rounds + 2):
        begin = time.perf_counter()
        cohort = draw_cohort(bench.dataset.clients("train"), point["cohort"], 0, number)
        work = [client_work(bench, method, client, number) for client in cohort]
        state, report = method.round(state, work)
        seconds.append(time.perf_counter() - begin)
        tokens = report.tokens
    # Each process's own peak, though they need not fall together: the sum is at least what was held at once.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak += sum(peak_private_bytes(worker) for worker in bench.engine.processes())
    dtype = str(bench.engine.backbone.dtype).removeprefix("torch.")
    found = {"dtype": dtype, "opened": opened, "seconds": seconds[1:], "tokens": tokens, "peak_bytes": peak}
    return {**point, **found}


def measure(axis: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure an axis at all its values, turn by turn, each time in a new process."""
    # Once to fill the cache, so that making a population's files is in no measured process.
    for value in AXES[axis]:
        _in_process(axis, value, 0, args)
    taken: list[list[dict[str, Any]]] = [[] for _ in AXES[axis]]
    for _ in range(args.turns):
        for value, points in zip(AXES[axis], taken, strict=True):
            points.append(point := _in_process(axis, value, args.rounds, args))
            print(
                axis,
                value,
                f"{statistics.median(point['seconds']):.2f} s",
                f"{point['peak_bytes'] / 2**20:.0f} MiB",
            )
    return [_together(points) for points in taken]


def _in_process(axis: str, value: int, rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    wanted = {**BASE, axis: value}
    if axis == "population":
        wanted["rows"] = 1  # a million clients' tables are written and tokenized in minutes
    # A cohort larger than the base population needs one of its own size.
    wanted["population"] = max(wanted["population"], wanted["cohort"] + 1)
    command = [sys.executable, __file__, "--point", json.dumps(wanted), "--rounds", str(rounds)]
    command += ["--model", args.model, "--token-budget", str(args.token_budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{axis} {value} failed:\n{done.stderr[-2000:]}")
    point: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return point


def _together(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the turns of one point together: all seconds, the median start, the largest peak."""
    return {
        **turns[0],
        "opened": statistics.median(turn["opened"] for turn in turns),
        "seconds": [seconds for turn in turns for seconds in turn["seconds"]],
        "peak_bytes": max(turn["peak_bytes"] for turn in turns),
    }


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], machine: str, path: Path) -> None:
    """Draw seconds a client and peak memory over each axis, and say on which machine."""
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.6 * len(found), 5.6), layout="constrained", squeeze=False
    )
    for column, (axis, points) in enumerate(found.items()):
        x = [point[axis] for point in points]
        each = [statistics.median(p["seconds"]) / p["cohort"] for p in points]
        memory = [point["peak_bytes"] / 2**20 for point in points]
        for row, (values, label) in enumerate(
            ((each, "seconds a client and step"), (memory, "peak memory in MiB"))
        ):
            place = axes[row][column]
            place.plot(x, values, marker="o", color="#0072b2")
            place.set(xlabel=LABELS[axis], ylabel=label, ylim=(0, 1.15 * max(values)))
            if axis in ("population", "cohort"):
                place.set_xscale("log")
            if axis == "threads":
                place.set_xticks(x)
            place.grid(alpha=0.3)
    dtypes = {str(point["dtype"]) for points in found.values() for point in points}
    figure.text(0, -0.01, f"{machine}, {' and '.join(sorted(dtypes))}", va="top", fontsize=8, color="0.35")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Measure the axes asked for, or, in a process of its own, one point."""
    parser = argparse.ArgumentParser(description="Scaling of a round of FedAvg.")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1, help="new processes for each point, turn by turn")
    parser.add_argument("--model", default="smollm2-135m-q4", help="a named backbone, a folder or a hub id")
    parser.add_argument("--token-budget", type=int, default=Engine.token_budget)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/scale"))
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        point = run_point(json.loads(args.point), args.rounds, args.model, args.token_budget)
        print(json.dumps(point))
        return
    found = {axis: measure(axis, args) for axis in args.axes}
    made = made_with()
    write_json(args.out / "scale.json", {**made, "base": BASE, "points": found})
    draw(found, f"{made['machine']['processor']}, {made['machine']['cores']} cores", args.out / "scale.png")


if __name__ == "__main__":
    main()
