"""Measurement of this machine's speed in tokens per second, for time estimates."""

import time

from fedprofit.core.types import Batch
from fedprofit.local.solver import gradients
from fedprofit.runs.bench import Bench
from fedprofit.runs.cost import measure

MOST_ROWS = 4  # maximum examples per client in the measured steps


def reading_speed(bench: Bench) -> float:
    """Measure the tokens read per second, from training steps of a cohort of train clients.

    The steps use the first algorithm's batch size up to a limit: small batches are slower per token.
    """
    sizes, training = measure(bench), bench.config.training
    rows = int(training.algorithms[0].per_client(MOST_ROWS)[1])
    cohort = bench.dataset.clients("train")[: training.cohort]
    batches: list[Batch] = [bench.dataset.examples(client, "train")[:rows] for client in cohort]
    start = {key: tensor.expand(len(batches), *tensor.shape) for key, tensor in bench.start.items()}
    gradients(bench.engine, start, batches, bench.tuner)  # the first pass pays for allocations
    began = time.monotonic()
    for _ in range(2):
        gradients(bench.engine, start, batches, bench.tuner)
    done = sizes.trained(len(batches), 2, sum(map(len, batches)) / len(batches))
    return done / (time.monotonic() - began)
