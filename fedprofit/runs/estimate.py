"""How fast this machine reads tokens, measured: what estimates of time are made from."""

import time

from fedprofit.core.types import Batch
from fedprofit.local.solver import gradients
from fedprofit.runs.bench import Bench
from fedprofit.runs.cost import measure

MOST_ROWS = 4  # of a client, in the steps that the speed is measured by


def reading_speed(bench: Bench) -> float:
    """Measure tokens read per second, from training steps by a cohort of the first train clients.

    The steps are as large as the first algorithm's, if those are small: small ones are slower by the token.
    """
    work, training = measure(bench), bench.config.training
    rows = int(training.algorithms[0].per_client(MOST_ROWS)[1])
    cohort = bench.dataset.clients("train")[: training.cohort]
    batches: list[Batch] = [bench.dataset.examples(client, "train")[:rows] for client in cohort]
    start = {key: tensor.expand(len(batches), *tensor.shape) for key, tensor in bench.start.items()}
    gradients(bench.engine, start, batches, bench.tuner)  # the first pass pays for allocations
    began = time.monotonic()
    for _ in range(2):
        gradients(bench.engine, start, batches, bench.tuner)
    done = work.trained(len(batches), 2, sum(map(len, batches)) / len(batches))
    return done / (time.monotonic() - began)
