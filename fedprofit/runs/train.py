"""Federated training of one algorithm: rounds, validation, a checkpoint after each."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedprofit.algorithm.base import Algorithm, AlgorithmSettings, Context, stacked
from fedprofit.config.component import located
from fedprofit.core.errors import UserError
from fedprofit.core.sealed import write_record
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientBatches, ClientId, Params, RoundReport, ServerState
from fedprofit.evaluate.clients import mean_loss
from fedprofit.runs.bench import Bench
from fedprofit.runs.checkpoint import load_state, save_state, save_tensors
from fedprofit.runs.client_files import FACT, ClientFiles
from fedprofit.runs.folder import RunFolder, Stopwatch
from fedprofit.runs.progress import Reporter
from fedprofit.server.check import check_tensors
from fedprofit.server.cohort import draw_cohort
from fedprofit.server.store import ClientStore
from fedprofit.tuner.base import Tuner


@dataclass(frozen=True)
class Trained:
    """Result of federated training.

    Attributes:
        name: of the algorithm.
        last: the parameters after the last round.
        best: the parameters after the round with the lowest validation loss.
        rounds: number of rounds.
        best_round: number of the best round, from 1.
        personal: function from clients to their personal parameters after the last round, stacked; None for
            methods without personal parameters.
    """

    name: str
    last: Params
    best: Params
    rounds: int
    best_round: int
    personal: Callable[[Sequence[ClientId]], Params] | None = None


def train(
    bench: Bench,
    method: AlgorithmSettings,
    folder: RunFolder,
    report: Reporter,
    round_cost: float,
    watch: Stopwatch,
) -> Trained:
    """Train from the common initialization, or resume from the folder's checkpoint.

    After every round, the state of server and clients and the seconds that it took are written. A run killed
    at any moment repeats at most one round, with bit-identical results: cohort and batches depend only on
    seed, round and client.
    """
    algorithm = method.build(Context(bench.solver))
    path, settings, name = folder.checkpoint(algorithm.name), bench.config.training, algorithm.name
    what = f"{located(method)}algorithm {name!r}"
    if path.exists():
        state, best, facts = load_state(path, bench.engine.backbone.device)
    else:
        state = algorithm.init(bench.start)
        best, facts = state.params, {"history": [], "best_round": 0, "best_loss": None}
    remedy = f"Delete {path} to train {name!r} again from its first round, and resume with --resume."
    files = ClientFiles(folder.client_states(name), name, state.round, facts, remedy)
    clients = bench.dataset.clients("train")
    context = Context(bench.solver, bench.config.seed, len(clients), ClientStore(files))
    report.skip(round_cost * state.round)
    while state.round < settings.rounds:
        number = state.round + 1
        cohort = draw_cohort(clients, settings.cohort, bench.config.seed, number)
        began = time.monotonic()
        with named_errors(f"{what}: round {number}"):
            drawn = [client_batches(bench, algorithm, client, number) for client in cohort]
            state, done = checked_round(algorithm, state, drawn, context.at(number))
        row: dict[str, Any] = {"round": number, **done.to_mapping(), "loss": _known(done.loss)}
        if number % settings.evaluate_every == 0 or number == settings.rounds:
            row["validation_loss"] = _known(
                mean_loss(bench.engine, bench.tuner.apply_one(state.params), bench.validation)
            )
            if _better(row["validation_loss"], facts["best_loss"]):
                best = state.params
                facts |= {"best_round": number, "best_loss": row["validation_loss"]}
        facts["history"] = [*facts["history"], row]
        files.save(number)  # first: the checkpoint defines up to which round client states are valid
        save_state(path, state, best, {**facts, FACT: None, **files.facts})
        files.tidy()
        watch.lap()
        for client, reason in done.stopped.items():
            report.log(f"round {number}: client {client} stopped: {reason}")
        speed = done.tokens / (time.monotonic() - began)
        figures = f"round {number}/{settings.rounds}, loss {done.loss:.3f}, {speed:.0f} tokens/s"
        report.advance(round_cost, figures)
    write_record(folder.history(name), facts["history"])
    if not facts["best_round"]:
        # Without validation clients the rounds cannot be compared: use the last one.
        best, facts["best_round"] = state.params, state.round
    found = partial(_personal, bench, what, algorithm, state, context.at(state.round))
    personal = found if algorithm.personal else None
    return Trained(name, state.params, best, state.round, facts["best_round"], personal)


def _personal(
    bench: Bench,
    what: str,
    algorithm: Algorithm,
    state: ServerState,
    context: Context,
    clients: Sequence[ClientId],
) -> Params:
    """Return the clients' personal parameters, checked; a new client gets the batches of one more round."""
    assert algorithm.personal is not None
    with named_errors(f"{what}: personal parameters"):
        drawn = [client_batches(bench, algorithm, client, context.round + 1) for client in clients]
        params = algorithm.personal(state, drawn, context)
        check_tensors("after the last round", params, stacked(state.params, len(drawn)), clients)
    return params


def checked_round(
    algorithm: Algorithm, state: ServerState, cohort: Sequence[ClientBatches], context: Context
) -> tuple[ServerState, RoundReport]:
    """Compute a round. Raise UserError if it returns other shapes, or numbers that are not finite."""
    after, done = algorithm.round(state, cohort, context)
    check_tensors("parameters", after.params, state.params)
    for what, groups in (("optimizer", after.optimizer), ("extra", after.extra)):
        for name, tensors in groups.items():
            if "/" in name:
                raise UserError(f"{what} {name!r}: has a slash. Choose a name without one.")
            check_tensors(f"{what} {name!r}", tensors, (getattr(state, what)).get(name))
    if after.round != context.round:
        raise UserError(f"returned the state of round {after.round}. Add 1 to the round, once.")
    return after, done


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Prefix a UserError's message with component and round."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def save_trained(path: Path, trained: Trained, tuner: Tuner) -> None:
    """Write the prompts of the last round and of the round with the lowest validation loss."""
    tensors = tuner.save({"last": trained.last, "best": trained.best})
    rounds = {"last": trained.rounds, "best": trained.best_round}
    save_tensors(path, tensors, {"algorithm": trained.name, "rounds": rounds})


def client_batches(bench: Bench, algorithm: Algorithm, client: ClientId, round: int) -> ClientBatches:
    """Draw a client's batches of one round and read their examples."""
    examples = bench.dataset.examples(client, "train")
    positions = algorithm.plan(len(examples), numpy_generator(bench.config.seed, "train", round, client))
    return ClientBatches(client, [examples.take(batch) for batch in positions], float(len(examples)))


def _known(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _better(loss: float | None, best: float | None) -> bool:
    return loss is not None and (best is None or loss < best)
