"""Benchmark scoring: examples per second for several prompts on a shared set of examples.

    python benchmarks/generation.py --out runs/benchmarks

The engine computes target losses and greedy answers; peft's `generate` computes only answers. In float32, the
answers of the engine must equal those of peft's `generate`, run one row at a time, token by token. The script
also times left-padded batches of peft, and reports their share of equal answers. It also times the engine
with losses only; these must equal the losses computed with answers.
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
    "rows": (8, "examples per client in the shared set"),
    "steps": (1, "training steps of each prompt before scoring"),
    "new_tokens": (16, "most tokens generated"),
    "batch": (16, "rows per batch of peft-batched"),
    "repetitions": (5, "timed runs of each method"),
    "threads": (torch.get_num_threads(), "threads of torch"),
}


def trained_prompts(engine: Engine, work: Work) -> torch.Tensor:
    """Return a briefly trained prompt per client, `[clients, length, width]`, so that answers differ."""
    stacked = {KEY: work.start.expand(len(work.clients), -1, -1)}
    return solve(engine, stacked, work.clients, ADAM)[0].params[KEY]


def rows_of(work: Work, limit: int) -> list[Row]:
    """Return rows that combine every prompt with the first `limit` examples of all clients."""
    shared = [example for client in work.clients for batch in client.batches for example in batch]
    return [Row(owner, example) for owner in range(len(work.clients)) for example in shared[:limit]]


def peft_answers(
    work: Work, model: Any, prompts: torch.Tensor, rows: Sequence[Row], batch: int, new_tokens: int
) -> Answers:
    """Generate with peft for one prompt at a time, in left-padded batches of `batch` rows."""
    backbone = work.backbone
    backbone.model.set_attn_implementation("sdpa")
    stop = backbone.eos_token_ids
    answers: Answers = [[] for _ in rows]
    for owner in range(len(prompts)):
        prompt_of(model).data.copy_(prompts[owner])
        owned = [number for number, row in enumerate(rows) if row.owner == owner]
        for numbers in (owned[at : at + batch] for at in range(0, len(owned), batch)):
            texts = [[*rows[n].example.prefix.tolist(), *rows[n].example.source.tolist()] for n in numbers]
            longest = max(map(len, texts))
            ids = torch.tensor([[stop[0]] * (longest - len(text)) + text for text in texts])
            mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
            with torch.no_grad():
                generated = model.generate(
                    input_ids=ids.to(backbone.device),
                    attention_mask=mask.to(backbone.device),
                    do_sample=False,
                    max_new_tokens=new_tokens,
                    pad_token_id=stop[0],
                )
            for number, new in zip(numbers, generated[:, longest:].tolist(), strict=True):
                end = next((i for i, token in enumerate(new) if token in stop), len(new))
                answers[number] = new[:end]
    return answers


def measure(settings: Settings, args: argparse.Namespace) -> Measurement:
    """Compare the answers, which also warms up the methods; then time them."""
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
        check_losses_only(engine, prompts, rows, settings.tolerance)
    answers = {name: method() for name, method in answering.items() if name in methods}
    agree = {name: agreement(found, answers["engine"]) for name, found in answers.items()}
    if settings.dtype == "float32" and agree.get("peft", 1.0) < 1:
        raise SystemExit(f"only {agree['peft']:.0%} of the engine's answers equal those of peft")
    tokens = sum(
        len(work.start) + len(row.example.prefix) + len(row.example.source) + len(answer)
        for row, answer in zip(rows, answers["engine"], strict=True)
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in agree.items() if name != "engine")
    title = (
        f"{work.backbone.name}, {settings.dtype}, {work.backbone.device.type}, {settings.threads} threads; "
        f"{len(prompts)} prompts of {settings.length} x {len(rows) // len(prompts)} rows, "
        f"{args.new_tokens} new tokens; answers equal to the engine: {shares}"
    )
    facts = {"dtype": settings.dtype, "length": settings.length, "agreement": agree}
    timers = {name: timed(method, work.backbone.device) for name, method in methods.items()}
    return Measurement(title, len(rows), tokens, facts, take_turns(timers, args.repetitions))


def check_losses_only(engine: Engine, prompts: torch.Tensor, rows: list[Row], tolerance: float) -> None:
    """Compare the mean loss computed without answers with that computed with answers; warms up."""
    found = {"with answers": engine.answer(prompts, rows, 1)[0], "losses only": engine.score(prompts, rows)}
    means = {name: [[float(losses.mean())]] for name, losses in found.items()}
    check_losses(means, "with answers", tolerance, "all rows")


def agreement(answers: Answers, others: Answers) -> float:
    """Return the share of equal answers."""
    return sum(one == other for one, other in zip(answers, others, strict=True)) / len(answers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the scoring of many prompts on a shared set."""
    description = "Generation: many prompts on one set, engine and peft."
    measure_tables("generation", description, NEEDS, SIZES, measure, arguments)


if __name__ == "__main__":
    start(main)
