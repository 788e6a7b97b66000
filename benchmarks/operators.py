"""Profile a training step: seconds by operator, and the FLOP/s of its matrix products.

    python benchmarks/operators.py --length 20 --dtype bfloat16 --threads 1 --out runs/benchmarks

The step is that of throughput.py, run under torch's profiler. The rate of a product is its FLOPs, including
padding, divided by its time. "of peak" compares it with the fastest square products of the same run
(flops.py). The last line is the utilization: FLOPs that the step needs, divided by its total time. The line
before it is an upper bound: the utilization if all other operators took no time.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from command import add_options, check_options, settings_of, start
from flops import matmul_peak, training_flops
from rich.console import Console
from rich.table import Table
from table import made_with, markdown
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from work import ADAM, Settings, prepare

from fedprofit.backbone.engine import make_engine
from fedprofit.core.files import write_json, write_text
from fedprofit.local.solver import solve
from fedprofit.tuner.prompt import KEY

PRODUCTS = ("mm", "bmm", "baddbmm_")
HEADER = ["operator", "calls", "seconds", "share", "TFLOP/s", "of peak"]
WARM = 3  # warm-up steps: the first ones also allocate memory
SIZES = {
    "clients": (8, "clients, trained in one batch"),
    "rows": (4, "examples in a client's batch"),
    "repetitions": (3, "profiled steps; the median is shown"),
    "threads": (torch.get_num_threads(), "threads of torch"),
}


class Arithmetic(TorchDispatchMode):
    """Count the FLOPs of matrix products, two per multiply-add, by operator name."""

    def __init__(self) -> None:
        """Start with empty counts."""
        super().__init__()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in PRODUCTS:
            self.flops[name] += 2 * found.numel() * args[-1].shape[-2]
        return found


def profiled(step: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Return the calls and the seconds of each operator, excluding the operators it calls."""
    with profile() as found:
        step()
    return {
        event.key.removeprefix("aten::"): (event.count, event.self_cpu_time_total / 1e6)
        for event in found.key_averages()
    }


def measure(settings: Settings, repetitions: int) -> dict[str, Any]:
    """Profile the step, count the FLOPs of its products, and measure the peak before and after."""
    work = prepare(settings)
    backbone = work.backbone
    engine = make_engine(backbone, token_budget=settings.token_budget, workers=1)
    stacked = {KEY: work.start.expand(len(work.clients), -1, -1)}

    def step() -> object:
        return solve(engine, stacked, work.clients, ADAM)

    with Arithmetic() as counted:
        step()
    before = matmul_peak(engine)
    for _ in range(WARM):
        step()
    runs = sorted((profiled(step) for _ in range(repetitions)), key=_total)
    return {
        "title": f"{backbone.name}, {settings.dtype}, {settings.threads} threads, engine {engine.attention}: "
        f"{settings.clients} clients x {settings.rows} rows, one step, prompt {settings.length}",
        "peak": max(before, matmul_peak(engine)),
        "needed": training_flops(backbone, work.clients, settings.length),
        "flops": dict(counted.flops),
        "operators": runs[len(runs) // 2],
    }


def _total(operators: dict[str, tuple[int, float]]) -> float:
    return sum(seconds for _, seconds in operators.values())


def table_rows(found: dict[str, Any], least: float = 0.01) -> list[list[str]]:
    """Return table rows: operators with a share of at least `least`, all products, and the step."""
    operators, flops = found["operators"], found["flops"]
    total = _total(operators)

    def row(name: str, calls: str, seconds: float, arithmetic: float) -> list[str]:
        rate = arithmetic / seconds
        rates = [f"{rate / 1e12:.2f}", f"{rate / found['peak']:.0%}"] if arithmetic else ["", ""]
        return [name, calls, f"{seconds:.2f}", f"{seconds / total:.0%}", *rates]

    longest = sorted(operators.items(), key=lambda item: -item[1][1])
    products = sum(operators[name][1] for name in flops)
    return [
        *(row(name, str(n), s, flops.get(name, 0)) for name, (n, s) in longest if s >= least * total),
        row("all products", "", products, sum(flops.values())),
        row("needed FLOPs / product time", "", products, found["needed"]),
        row("needed FLOPs / step time", "", total, found["needed"]),
    ]


def show(found: dict[str, Any]) -> str:
    """Print a table of at most 80 columns and return it as Markdown."""
    rows = table_rows(found)
    table = Table(*HEADER, title=found["title"], title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=80).print(table)
    return markdown(found["title"], HEADER, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile a step of every requested dtype and length; print and write the tables."""
    parser = argparse.ArgumentParser(description="Time of a training step by operator.")
    add_options(parser, SIZES)
    parser.add_argument("--out", type=Path, help="folder for operators.json and operators.md")
    args = parser.parse_args(arguments)
    check_options(parser, args, list(SIZES))
    args.steps = 1
    torch.set_num_threads(args.threads)
    measured, tables = [], []
    for dtype in args.dtype:
        for length in args.length:
            measured.append(measure(settings_of(args, dtype, length), args.repetitions))
            tables.append(show(measured[-1]))
    if args.out:
        write_text(args.out / "operators.md", "\n\n".join(tables) + "\n")
        write_json(args.out / "operators.json", {**made_with(), "measurements": measured})


if __name__ == "__main__":
    start(main)
