"""How many examples a second are scored: each of some prompts on a set that all share, answers and losses.

    python benchmarks/generation.py --out runs/benchmarks

The engine gives the losses of the targets and the greedy answers; peft's `generate` the answers alone. In
float32 the engine's answers must be those of peft's `generate` one row at a time, token by token. peft's
batches, which it pads on the left, are timed too, and the table says how many of their answers agree; and the
engine where the losses alone are asked for, which must be those that come with its answers.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from command import measure_tables, start
from peers.peft_loop import peft_model, prompt_of
from table import Measurement, take_turns, timed
from work import ADAM, Settings, Work, check_losses, prepare

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.local.solver import solve
from fedprofit.tuner.prompt import KEY

Answers = list[list[int]]
# method -> library
NEEDS = {"engine": "torch", "engine-losses": "torch", "peft": "peft", "peft-batched": "peft"}
SIZES = {
    "clients": (4, "clients whose prompts are scored"),
    "rows": (8, "examples of each client in the set that all prompts are scored on"),
    "steps": (1, "steps each prompt is trained first"),
    "new_tokens": (16, "tokens generated at most"),
    "batch": (16, "rows of a batch of peft-batched"),
    "repetitions": (5, "timed runs of each method"),
    "threads": (torch.get_num_threads(), "threads of torch"),
}


def trained_prompts(engine: Engine, work: Work) -> torch.Tensor:
    """Train each client's prompt a little, so that they answer differently: `[clients, length, width]`."""
    stacked = {KEY: work.start.expand(len(work.clients), -1, -1)}
    return solve(engine, stacked, work.clients, ADAM)[0].params[KEY]


def rows_of(work: Work, most: int) -> list[Row]:
    """Return every prompt on every client's examples."""
    shared = [example for client in work.clients for batch in client.batches for example in batch]
    return [Row(owner, example) for owner in range(len(work.clients)) for example in shared[:most]]


def peft_answers(
    work: Work, model: Any, prompts: torch.Tensor, rows: Sequence[Row], batch: int, most: int
) -> Answers:
    """Generate with peft, a prompt at a time and `batch` rows at a time, shorter rows padded on the left."""
    backbone = work.backbone
    backbone.model.set_attn_implementation("sdpa")
    stop = backbone.eos_token_ids
    answers: Answers = [[] for _ in rows]
    for owner in range(len(prompts)):
        prompt_of(model).data.copy_(prompts[owner])
        own = [number for number, row in enumerate(rows) if row.owner == owner]
        for numbers in (own[at : at + batch] for at in range(0, len(own), batch)):
            texts = [[*rows[n].example.prefix.tolist(), *rows[n].example.source.tolist()] for n in numbers]
            longest = max(map(len, texts))
            ids = torch.tensor([[stop[0]] * (longest - len(text)) + text for text in texts])
            mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
            with torch.no_grad():
                whole = model.generate(
                    input_ids=ids.to(backbone.device),
                    attention_mask=mask.to(backbone.device),
                    do_sample=False,
                    max_new_tokens=most,
                    pad_token_id=stop[0],
                )
            for number, new in zip(numbers, whole[:, longest:].tolist(), strict=True):
                end = next((i for i, token in enumerate(new) if token in stop), len(new))
                answers[number] = new[:end]
    return answers


def measure(settings: Settings, args: argparse.Namespace) -> Measurement:
    """Compare the answers, which also warms the methods up, then time them."""
    work = prepare(settings)
    engine = work.engine
    prompts = trained_prompts(engine, work)
    rows = rows_of(work, args.rows * args.clients)
    model = peft_model(work)
    answering: dict[str, Callable[[], Answers]] = {
        "engine": lambda: engine.answer(prompts, rows, args.new_tokens)[1],
        "peft": lambda: peft_answers(work, model, prompts, rows, 1, args.new_tokens),
        "peft-batched": lambda: peft_answers(work, model, prompts, rows, args.batch, args.new_tokens),
    }
    methods: dict[str, Callable[[], object]] = {
        **answering,
        "engine-losses": lambda: engine.score(prompts, rows),
    }
    methods = {name: methods[name] for name in args.methods}
    if "engine-losses" in methods:
        check_losses_alone(engine, prompts, rows, settings.tolerance)
    answers = {name: method() for name, method in answering.items() if name in methods}
    agree = {name: agreement(found, answers["engine"]) for name, found in answers.items()}
    if settings.dtype == "float32" and agree.get("peft", 1.0) < 1:
        raise SystemExit(f"only {agree['peft']:.0%} of the engine's answers are peft's, one row at a time")
    tokens = sum(
        len(work.start) + len(row.example.prefix) + len(row.example.source) + len(answer)
        for row, answer in zip(rows, answers["engine"], strict=True)
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in agree.items() if name != "engine")
    title = (
        f"{work.backbone.name}, {settings.dtype}, {work.backbone.device.type}, {settings.threads} threads; "
        f"{len(prompts)} prompts of {settings.length} x {len(rows) // len(prompts)} rows, "
        f"{args.new_tokens} new tokens; answers as the engine's: {shares}"
    )
    facts = {"dtype": settings.dtype, "length": settings.length, "agreement": agree}
    timers = {name: timed(method, work.backbone.device) for name, method in methods.items()}
    return Measurement(title, len(rows), tokens, facts, take_turns(timers, args.repetitions))


def check_losses_alone(engine: Engine, prompts: torch.Tensor, rows: list[Row], tolerance: float) -> None:
    """Hold the mean of the losses without answers to that of those that come with one, which warms it up."""
    found = {"with answers": engine.answer(prompts, rows, 1)[0], "alone": engine.score(prompts, rows)}
    means = {name: [[float(losses.mean())]] for name, losses in found.items()}
    check_losses(means, "with answers", tolerance, "all rows")


def agreement(answers: Answers, others: Answers) -> float:
    """Return the share of equal answers."""
    return sum(one == other for one, other in zip(answers, others, strict=True)) / len(answers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the scoring of many prompts on one set."""
    description = "Generation: many prompts on one set, engine and peft."
    measure_tables("generation", description, NEEDS, SIZES, measure, arguments)


if __name__ == "__main__":
    start(main)
