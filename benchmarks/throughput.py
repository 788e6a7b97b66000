"""Benchmark training in one process: examples per second of this engine, its reference, and its peers.

    python benchmarks/throughput.py --out runs/benchmarks

All methods train the same soft prompts on the same batches of the same model, with the same dtype and
threads. Their losses are compared first. The methods then take turns, so that other load on the machine
affects all of them; ratios are computed per turn. The last column is the FLOP/s that the result needs,
relative to the fastest matrix products measured before and after (flops.py).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from command import measure_tables, start
from flops import matmul_peak, training_flops
from table import Measurement, take_turns, timed
from work import (
    ADAM,
    CLIENT_TOLERANCE,
    Method,
    Settings,
    Work,
    check_losses,
    count_tokens,
    in_float32,
    mean_by_step,
    prepare,
)

from fedprofit.backbone.engine import Engine
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import solve
from fedprofit.tuner.prompt import KEY

# method -> library
NEEDS = {"engine": "torch", "sequential": "torch", "peft": "peft", "pfl": "pfl", "peft-float32": "peft"}
SIZES = {
    "clients": (8, "clients, trained in one batch by the engine"),
    "rows": (4, "examples in a client's batch"),
    "steps": (2, "local steps"),
    "repetitions": (5, "timed runs of each method"),
    "threads": (torch.get_num_threads(), "threads of torch"),
}


def make_methods(engine: Engine, work: Work, names: Sequence[str]) -> dict[str, Method]:
    """Build the methods; each is a function that trains all clients and returns their losses."""
    reference = Sequential(work.backbone, "eager")
    stacked = {KEY: work.start.expand(len(work.clients), -1, -1)}
    methods: dict[str, Method] = {}
    for name in names:
        if name == "engine":
            methods[name] = lambda: solve(engine, stacked, work.clients, ADAM)[0].losses
        elif name == "sequential":
            methods[name] = lambda: reference.solve(stacked, work.clients, ADAM)[0].losses
        elif name.startswith("peft"):
            from peers.peft_loop import peft_loop

            methods[name] = peft_loop(in_float32(work) if name == "peft-float32" else work)
        else:
            from peers.pfl_simulation import pfl_simulation

            methods[name] = pfl_simulation(work)
    return methods


def measure(settings: Settings, args: argparse.Namespace) -> Measurement:
    """Measure all methods on real batches of a real model."""
    data = f"{Path(settings.data).name}{'' if settings.definitions else ' without definitions'}"
    # In a float32 table, peft-float32 is the same as peft.
    names = [name for name in args.methods if name != f"peft-{settings.dtype}"]
    return measure_work(prepare(settings), names, args.repetitions, data)


def measure_work(work: Work, names: Sequence[str], repetitions: int, data: str) -> Measurement:
    """Check that all methods give the same losses, which also warms them up; then time them."""
    settings, backbone, engine = work.settings, work.backbone, work.engine
    # At least two steps: equal losses in step 2 show that step 1 updated the prompts equally.
    checked = replace(work, settings=replace(settings, steps=max(2, settings.steps)))
    reference = "sequential" if "sequential" in names else "engine"
    losses = {name: method() for name, method in make_methods(engine, checked, names).items()}
    check_losses(losses, reference, CLIENT_TOLERANCE[settings.dtype], "client {0} at step {1}")
    means = {name: mean_by_step(found) for name, found in losses.items()}
    check_losses(means, reference, settings.tolerance, "all clients at step {1}")
    methods, tokens = make_methods(engine, work, names), count_tokens(work)
    facts = {
        "dtype": settings.dtype,
        "length": settings.length,
        "device": backbone.device.type,
        "attention": engine.attention,
        "fingerprint": backbone.fingerprint,
    }
    title = (
        f"{backbone.name}, {settings.dtype}, {backbone.device.type}, {settings.threads} threads, "
        f"engine {engine.attention}; {data}: "
        f"{settings.clients} clients x {settings.rows} rows x {settings.steps} steps, "
        f"prompt {settings.length}, {tokens / settings.examples:.0f} tokens a row"
    )
    timers = {name: timed(method, backbone.device) for name, method in methods.items()}
    before = matmul_peak(engine)
    results = take_turns(timers, repetitions)
    facts["peak"] = max(before, matmul_peak(engine))
    facts["flops"] = training_flops(backbone, work.clients, settings.length)
    return Measurement(title, settings.examples, tokens, facts, results)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the methods in this process."""
    description = "Training throughput in one process: engine and peers."
    measure_tables("throughput", description, NEEDS, SIZES, measure, arguments)


if __name__ == "__main__":
    start(main)
