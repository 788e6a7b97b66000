"""Benchmark complete federated runs, from process start to exit: this engine and its peers.

    python benchmarks/whole_process.py --out runs/benchmarks

Every run is a new process with `--threads` cores. It loads the model, reads the data, trains rounds of FedAvg
over all clients, and exits. The mean losses of the first rounds must agree. The methods take turns as in
throughput.py. The engine uses the cores by default; pfl has one process and Flower one actor per core, with
one thread each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from command import measure_tables, start
from table import Measurement, take_turns
from work import Losses, Settings, check_losses, count_tokens, prepare

ROUNDS = Path(__file__).resolve().parent / "rounds.py"
NEEDS = {"engine": "torch", "pfl": "pfl", "flower": "flwr"}  # method -> library
# Rounds whose losses are compared; the second shows that the averages are equal too. Later losses are only
# recorded: Adam's first step is the sign of the gradient, which amplifies rounding errors.
COMPARED = 2
SIZES = {
    "clients": (8, "clients, all in every round"),
    "rows": (4, "examples in a client's batch"),
    "steps": (2, "local steps"),
    "rounds": (5, "rounds of FedAvg"),
    "repetitions": (5, "timed runs of each method"),
    "threads": (torch.get_num_threads(), "cores for each method"),
}


def command(method: str, settings: Settings, rounds: int, losses: Path) -> list[str]:
    """Return the command that runs one method and writes its losses."""
    start = [sys.executable]
    if method == "pfl":
        # pfl's guide to fast simulations recommends this for PyTorch models. If the number of processes does
        # not divide the number of clients, pfl draws some clients twice in a round and others not at all.
        processes = max(n for n in range(1, settings.threads + 1) if settings.clients % n == 0)
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        settings = replace(settings, threads=settings.threads // processes)
    return [*start, str(ROUNDS), method, str(rounds), json.dumps(vars(settings)), str(losses)]


def run(method: str, settings: Settings, rounds: int) -> tuple[float, Losses]:
    """Run one method in a new process; return its seconds and its losses by round."""
    with tempfile.TemporaryDirectory() as folder:
        losses, log = Path(folder) / "losses.json", Path(folder) / "log"
        with log.open("w") as stream:
            begin = time.perf_counter()
            done = subprocess.run(
                command(method, settings, rounds, losses),
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment(),
            )
            seconds = time.perf_counter() - begin
        if done.returncode or not losses.is_file():
            raise SystemExit(f"{method} failed (exit status {done.returncode}):\n{log.read_text()[-4000:]}")
        return seconds, [json.loads(losses.read_text())]


def environment() -> dict[str, str]:
    """Return the environment without OMP_NUM_THREADS: each method sets its number of threads."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def measure(settings: Settings, args: argparse.Namespace) -> Measurement:
    """Run the methods in turns and check the losses of every run."""
    rounds: int = args.rounds
    found: dict[str, Losses] = {}

    def timer(name: str) -> Callable[[], float]:
        def seconds() -> float:
            taken, found[name] = run(name, settings, rounds)
            if "engine" in found:
                first = {other: [losses[0][:COMPARED]] for other, losses in found.items()}
                check_losses(first, "engine", settings.tolerance, "round {1}")
            return taken

        return seconds

    results = take_turns({name: timer(name) for name in args.methods}, args.repetitions)
    work, data = prepare(settings), Path(settings.data).name
    title = (
        f"{work.backbone.name}, {settings.dtype}, {work.backbone.device.type}, {settings.threads} cores; "
        f"{data}{'' if settings.definitions else ' without definitions'}: {rounds} rounds x "
        f"{settings.clients} clients x {settings.rows} rows x {settings.steps} steps, "
        f"prompt {settings.length}, whole process"
    )
    facts = {"dtype": settings.dtype, "length": settings.length, "device": work.backbone.device.type}
    facts |= {"fingerprint": work.backbone.fingerprint, "losses": found}
    return Measurement(title, rounds * settings.examples, rounds * count_tokens(work), facts, results)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time complete processes."""
    description = "Wall time of complete federated runs: engine and peers."
    measure_tables("whole_process", description, NEEDS, SIZES, measure, arguments)


if __name__ == "__main__":
    start(main)
