"""How many examples a second train: this engine, its sequential reference, and a plain loop with peft.

    python benchmarks/throughput.py --out results

The three train the same soft prompts on the same batches of the same model, with the same type and the
same threads, and are first held to the same losses. They then take turns, so that what else the
machine does meanwhile falls on all of them; the ratios are taken turn by turn.
"""

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import Backbone, load_backbone
from fedprofit.config import LexiconSource, Optimizer, SniSource, TemplateConfig
from fedprofit.data.sources import read_source
from fedprofit.data.template import Instance, Template
from fedprofit.errors import UserError
from fedprofit.files import write_json, write_text
from fedprofit.local.reference import solve_sequentially
from fedprofit.local.solver import solve
from fedprofit.seeding import numpy_generator
from fedprofit.tuner.prompt import KEY, initial_prompt
from fedprofit.types import ClientWork, Example

ADAM = Optimizer(optimizer="adam", rate=0.03)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of losses, relative
MOST_WORDS = 150  # of a definition and of an input; a few of SNI's are ten times as long as the rest

Losses = Sequence[Sequence[float]]  # by client and step, mean per target token
Method = Callable[[], Losses]


def sni_table() -> Path:
    """Say where the shared table of Super-NaturalInstructions would be."""
    root = Path(__file__).resolve().parent.parent
    return root / os.environ.get("FEDPROFIT_DATA", "../shared/data") / "sni" / "sni_english.parquet"


def make_work(args: argparse.Namespace, backbone: Backbone) -> list[ClientWork]:
    """Make each client's batches: one task a client, drawn by seed among those that have enough rows."""
    count = args.rows * args.steps
    if args.data == "lexicon":
        pool = read_source(LexiconSource(kind="lexicon", instances=max(count, 3)), args.seed)
    else:
        path = str(sni_table()) if args.data == "sni" else args.data
        most = {"instances": count, "max_words": MOST_WORDS}
        pool = read_source(SniSource(kind="sni", path=path, min_instances=count, **most), args.seed)
    by_task: dict[str, list[Instance]] = {}
    for row in pool.to_pylist():
        instance = Instance(row["definition"], [], row["input"], row["targets"][0])
        by_task.setdefault(row["task"], []).append(instance)
    tasks = sorted(task for task, instances in by_task.items() if len(instances) >= count)
    if len(tasks) < args.clients:
        raise UserError(
            f"--clients {args.clients}: only {len(tasks)} tasks of {args.data} have the {count} examples of "
            f"--rows {args.rows} times --steps {args.steps}. Lower one of the three."
        )
    chosen = numpy_generator(args.seed, "benchmark").permutation(tasks)[: args.clients].tolist()
    template = Template(
        backbone.tokenizer, TemplateConfig(definition=args.definitions), backbone.eos_token_ids[0]
    )
    work = []
    for task in chosen:
        examples = [Example(*parts, task, ()) for parts in template.encode(by_task[task][:count])]
        batches = [examples[at : at + args.rows] for at in range(0, count, args.rows)]
        work.append(ClientWork(task, batches, count))
    return work


def peft_loop(backbone: Backbone, start: torch.Tensor, work: Sequence[ClientWork]) -> Method:
    """Build the loop that one would write with peft: a client at a time, padded rows, the model's loss."""
    from peft import PromptTuningConfig, get_peft_model

    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(start))
    model: Any = get_peft_model(backbone.model, settings)
    weight = model.prompt_encoder["default"].embedding.weight
    model.eval()

    def run() -> Losses:
        backbone.model.set_attn_implementation("sdpa")
        losses: list[list[float]] = []
        for client in work:
            weight.data.copy_(start)
            optimizer = torch.optim.Adam([weight], lr=ADAM.rate)
            losses.append([])
            for batch in client.batches:
                loss = model(**padded(backbone, batch)).loss
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                losses[-1].append(float(loss.detach()))
        return losses

    return run


def padded(backbone: Backbone, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Make what a language model is trained on: `[rows, longest]`, padded on the right."""
    texts, labels = [], []
    for example in batch:
        context = [*example.prefix.tolist(), *example.source.tolist()]
        texts.append(torch.tensor(context + example.target.tolist()))
        labels.append(torch.tensor([-100] * len(context) + example.target.tolist()))
    pad = torch.nn.utils.rnn.pad_sequence
    made = {
        "input_ids": pad(texts, batch_first=True),
        "attention_mask": pad([torch.ones_like(text) for text in texts], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }
    return {name: tensor.to(backbone.device) for name, tensor in made.items()}


def make_methods(engine: Engine, length: int, seed: int, work: Sequence[ClientWork]) -> dict[str, Method]:
    """Build the three ways to train, each a function that runs all clients and returns their losses."""
    backbone = engine.backbone
    prompt = initial_prompt(backbone, length, seed)[KEY]
    stacked = {KEY: prompt.expand(len(work), -1, -1)}
    return {
        "engine": lambda: solve(engine, stacked, work, ADAM)[0].losses,
        "sequential": lambda: solve_sequentially(backbone, stacked, work, ADAM)[1],
        "peft": peft_loop(backbone, prompt, work),
    }


def check_losses(found: dict[str, Losses], tolerance: float) -> None:
    """Hold all methods to the losses of the sequential reference; SystemExit where one differs."""
    for name, losses in found.items():
        for k, (ours, expected) in enumerate(zip(losses, found["sequential"], strict=True)):
            for step, (one, other) in enumerate(zip(ours, expected, strict=True), 1):
                if not abs(one - other) <= tolerance * abs(other):  # this way round NaN fails too
                    raise SystemExit(
                        f"{name}: the loss of client {k} at step {step} is {one:.6f}, that of the sequential "
                        f"reference {other:.6f}; they may differ by {tolerance:g} of it. Nothing was timed."
                    )


def seconds(method: Method, device: torch.device) -> float:
    """Time one run."""
    begin = time.perf_counter()
    method()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Result:
    """One method's runs. Ratios are the engine's rate over this method's, run by run."""

    method: str
    examples_per_second: list[float]
    tokens_per_second: list[float]
    ratios: list[float]


def measure(
    methods: dict[str, Method], examples: int, tokens: int, repetitions: int, device: torch.device
) -> list[Result]:
    """Let the methods take turns, every other time in reverse order."""
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(repetitions):
        for name in list(methods)[:: -1 if repetition % 2 else 1]:
            taken[name].append(seconds(methods[name], device))
    return [
        Result(
            name,
            [examples / t for t in times],
            [tokens / t for t in times],
            [t / engine for t, engine in zip(times, taken["engine"], strict=True)],
        )
        for name, times in taken.items()
    ]


def cells(result: Result) -> list[str]:
    """Return a result's row of the table."""
    rates, ratio = result.examples_per_second, statistics.median(result.ratios)
    return [
        result.method,
        f"{statistics.median(rates):.2f}",
        f"{min(rates):.2f} to {max(rates):.2f}",
        f"{statistics.median(result.tokens_per_second):.0f}",
        "" if result.method == "engine" else f"{ratio:.2f}",
    ]


HEADER = ["method", "examples/s", "min to max", "tokens/s", "engine / this"]


def show(results: Sequence[Result], title: str) -> None:
    """Print the table, 80 columns wide at most."""
    table = Table(*HEADER, title=title, title_justify="left")
    for result in results:
        table.add_row(*cells(result))
    Console(width=80).print(table)


def write(folder: Path, results: Sequence[Result], title: str, facts: dict[str, Any]) -> None:
    """Write `throughput.json` and `throughput.md`."""
    lines = [f"{title}\n", "| " + " | ".join(HEADER) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    write_text(folder / "throughput.md", "\n".join(lines) + "\n")
    write_json(folder / "throughput.json", {**facts, "results": [vars(result) for result in results]})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Training throughput: engine, sequential reference, peft.")
    parser.add_argument("--model", default="smollm2-135m-q4", help="a named backbone, a folder or a hub id")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument(
        "--data",
        default="sni" if sni_table().is_file() else "lexicon",
        help="lexicon, sni, or a path to SNI's tasks; default sni where the table is there",
    )
    for name, default, text in (
        ("clients", 8, "clients, trained at once by the engine"),
        ("rows", 4, "examples in a client's batch"),
        ("steps", 2, "local steps"),
        ("length", 20, "vectors of the soft prompt"),
        ("repetitions", 5, "timed runs of each method"),
        ("threads", torch.get_num_threads(), "threads of torch"),
        ("seed", 0, "of tasks, rows and prompt"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--definitions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="folder for throughput.json and throughput.md")
    args = parser.parse_args(arguments)
    for name in ("clients", "rows", "steps", "length", "repetitions", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 or more, not {getattr(args, name)}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Check that all methods give the same losses, time them, print and write the table."""
    args = parse(arguments)
    # peft warns at each call that it takes no position ids; none are given.
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    torch.set_num_threads(args.threads)
    backbone = load_backbone(args.model, args.dtype)
    work = make_work(args, backbone)
    engine = make_engine(backbone)
    methods = make_methods(engine, args.length, args.seed, work)
    check_losses({name: method() for name, method in methods.items()}, TOLERANCE[backbone.dtype])
    rows = [example for client in work for batch in client.batches for example in batch]
    # Of the plain concatenation, padding not counted: the same number for all methods.
    tokens = sum(args.length + len(e.prefix) + len(e.source) + len(e.target) - 1 for e in rows)
    results = measure(methods, len(rows), tokens, args.repetitions, backbone.device)
    dtype = str(backbone.dtype).removeprefix("torch.")
    data = Path(args.data).name + ("" if args.definitions else " without definitions")
    title = (
        f"{backbone.name}, {dtype}, {backbone.device.type}, {args.threads} threads, "
        f"engine {engine.attention}; {data}: "
        f"{args.clients} clients x {args.rows} rows x {args.steps} steps, prompt {args.length}, "
        f"{tokens / len(rows):.0f} tokens a row"
    )
    show(results, title)
    if args.out:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "device": backbone.device.type}
        facts: dict[str, Any] = {"settings": settings, "dtype": dtype, "attention": engine.attention}
        facts |= {
            "fingerprint": backbone.fingerprint,
            "examples": len(rows),
            "tokens": tokens,
            "versions": versions,
            "machine": machine,
        }
        write(args.out, results, title, facts)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"throughput.py: {error}", file=sys.stderr)
        sys.exit(2)
