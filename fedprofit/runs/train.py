"""Federated training of one algorithm: rounds, validation, a checkpoint after each."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedprofit.algorithm.base import Algorithm
from fedprofit.core.sealed import write_record
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientId, ClientWork, Params
from fedprofit.evaluate.clients import mean_loss
from fedprofit.runs.bench import Bench
from fedprofit.runs.checkpoint import load_state, save_state, save_tensors
from fedprofit.runs.folder import RunFolder, Stopwatch
from fedprofit.runs.progress import Reporter
from fedprofit.server.cohort import draw_cohort
from fedprofit.tuner.base import Tuner


@dataclass(frozen=True)
class Trained:
    """What federated training leaves: the prompts of the last and the best-on-validation round."""

    name: str
    last: Params
    best: Params
    rounds: int
    best_round: int


def train(
    bench: Bench,
    algorithm: Algorithm,
    folder: RunFolder,
    report: Reporter,
    work_a_round: float,
    watch: Stopwatch,
) -> Trained:
    """Train from the common initialization, or go on from the folder's checkpoint.

    After every round the server's state is on disk, and the seconds it took, so that a run killed at any
    moment repeats at most one round, to the same bits: cohort and batches depend on seed, round and client
    alone.
    """
    path, settings = folder.checkpoint(algorithm.name), bench.config.training
    if path.exists():
        state, best, facts = load_state(path, bench.engine.backbone.device)
    else:
        state = algorithm.init(bench.start)
        best, facts = state.params, {"history": [], "best_round": 0, "best_loss": None}
    report.skip(work_a_round * state.round)
    while state.round < settings.rounds:
        number = state.round + 1
        cohort = draw_cohort(bench.dataset.clients("train"), settings.cohort, bench.config.seed, number)
        began = time.monotonic()
        state, done = algorithm.round(
            state, [client_work(bench, algorithm, client, number) for client in cohort]
        )
        row: dict[str, Any] = {"round": number, **done.to_mapping(), "loss": _known(done.loss)}
        if number % settings.evaluate_every == 0 or number == settings.rounds:
            row["validation_loss"] = _known(
                mean_loss(bench.engine, bench.tuner.apply_one(state.params), bench.validation)
            )
            if _better(row["validation_loss"], facts["best_loss"]):
                best = state.params
                facts |= {"best_round": number, "best_loss": row["validation_loss"]}
        facts["history"] = [*facts["history"], row]
        save_state(path, state, best, facts)
        watch.lap()
        for client, reason in done.stopped.items():
            report.log(f"round {number}: client {client} stopped: {reason}")
        speed = done.tokens / (time.monotonic() - began)
        figures = f"round {number}/{settings.rounds}, loss {done.loss:.3f}, {speed:.0f} tokens/s"
        report.advance(work_a_round, figures)
    write_record(folder.history(algorithm.name), facts["history"])
    if not facts["best_round"]:
        # No validation clients, so nothing tells one round from another: the last one stands.
        best, facts["best_round"] = state.params, state.round
    return Trained(algorithm.name, state.params, best, state.round, facts["best_round"])


def save_trained(path: Path, trained: Trained, tuner: Tuner) -> None:
    """Keep the prompts of the last and the best-on-validation round."""
    tensors = tuner.save({"last": trained.last, "best": trained.best})
    rounds = {"last": trained.rounds, "best": trained.best_round}
    save_tensors(path, tensors, {"algorithm": trained.name, "rounds": rounds})


def client_work(bench: Bench, algorithm: Algorithm, client: ClientId, round: int) -> ClientWork:
    """Draw a client's batches of one round and read their examples."""
    examples = bench.dataset.examples(client, "train")
    positions = algorithm.plan(len(examples), numpy_generator(bench.config.seed, "train", round, client))
    return ClientWork(client, [examples.take(batch) for batch in positions], float(len(examples)))


def _known(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _better(loss: float | None, best: float | None) -> bool:
    return loss is not None and (best is None or loss < best)
