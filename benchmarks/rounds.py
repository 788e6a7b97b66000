"""Run rounds of FedAvg with one method; whole_process.py starts this script as a process and times it.

    python benchmarks/rounds.py METHOD ROUNDS SETTINGS LOSSES

SETTINGS is a `Settings` as JSON. The mean loss of each round is written to the file LOSSES. The process of
the engine starts and ends like the command line.
"""

import json
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedprofit.core.processes import end_quickly
from fedprofit.runs.libraries import load_libraries

if __name__ == "__main__" and sys.argv[1] == "engine":
    end_quickly()
    load_libraries()

import torch
from work import ADAM, Settings, prepare

from fedprofit.algorithm.base import Context
from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.local.solver import Vectorized
from fedprofit.tuner.prompt import KEY


def engine_rounds(settings: Settings, rounds: int) -> list[float]:
    """Run rounds of this package's FedAvg; return the mean loss of each."""
    work = prepare(settings)
    with ThreadPoolExecutor(1) as executor:  # like the start of a run
        future = executor.submit(lambda: work.engine)
        clients, engine = work.clients, future.result()
    parts = {"steps": settings.steps, "batch_size": settings.rows, "client": ADAM}
    context = Context(Vectorized(engine))
    algorithm = FedAvg(**parts).build(context)
    state, losses = algorithm.init({KEY: work.start}), []
    for _ in range(rounds):
        state, report = algorithm.round(state, clients, context.at(state.round + 1))
        losses.append(report.loss)
    return losses


def main(method: str, rounds: str, settings_text: str, losses: str) -> None:
    """Run one method and write its losses to a file."""
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    settings = Settings(**json.loads(settings_text))
    torch.set_num_threads(settings.threads)
    run = engine_rounds
    # Import only the libraries of this method, because imports are timed.
    if method == "pfl":
        from peers.pfl_simulation import pfl_rounds as run
    elif method == "flower":
        from peers.flower_simulation import flower_rounds as run
    found = run(settings, int(rounds))
    if int(os.environ.get("RANK", "0")) == 0:
        Path(losses).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
