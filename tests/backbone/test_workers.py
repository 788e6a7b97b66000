"""Test that workers give the same results as one process and end with their parent."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit.backbone.batches import PASS_TOKENS
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.backbone.workers import Workers, peak_private_bytes, worker_count

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked only on Linux")


def rows_of(clients=5):
    return [Row(k, example) for k in range(clients) for example in ragged_batch(k, 9)]


def engines(workers=2):
    """Return an engine in one process, an engine with workers, and prompts."""
    backbone = tiny_backbone("llama")
    prompts = torch.randn(5, 4, backbone.width, generator=torch.Generator().manual_seed(3)) * 0.3
    return Engine(backbone, "packed", 2048), Engine(backbone, "packed", 512, workers), prompts


@linux
def test_workers_match_one_process():
    single, shared, prompts = engines()
    rows = rows_of()
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(4))
    assert len(shared.batches(prompts, rows)) > 1, "one batch would not test sharing"
    found, expected = (engine.gradients(prompts, rows, weights) for engine in (shared, single))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    scores = (engine.score(prompts, rows) for engine in (shared, single))
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)
    assert shared.answer(prompts, rows, 12)[1] == single.answer(prompts, rows, 12)[1]


def allocate(backbone, mebibytes):
    array = np.ones(mebibytes * 2**20, dtype=np.uint8)
    return (int(array[-1]),)


@linux
def test_peak_private_bytes_counts_freed_but_not_shared():
    inherited = np.ones(512 * 2**20, dtype=np.uint8)
    workers = Workers(tiny_backbone("llama"), 2)

    def peaks(mebibytes):
        list(workers.map(allocate, [(mebibytes,)] * 8))  # enough tasks for each worker
        return [peak_private_bytes(process) / 2**20 for process in workers.processes()]

    small, large = peaks(1), peaks(256)
    assert inherited[-1] == 1
    assert max(small) < 128, "memory of the parent is not counted"
    assert all(256 <= size < 512 for size in large)


def score_often(engine, prompts, rows):
    for _ in range(100):  # a pool detects a killed worker with a delay
        engine.score(prompts, rows)


@linux
@pytest.mark.parametrize("seconds", [0, 1], ids=["during the call", "before the call"])
def test_workers_restart_after_killed_worker_raised_memory_error(seconds):
    _, shared, prompts = engines()
    rows = rows_of()
    expected = shared.score(prompts, rows)
    for process in shared.processes():
        os.kill(process, signal.SIGKILL)
    time.sleep(seconds)
    with pytest.raises(MemoryError, match="killed"):
        score_often(shared, prompts, rows)
    assert torch.equal(shared.score(prompts, rows), expected)


PARENT = """
import time
from test_workers import engines, rows_of
_, shared, prompts = engines()
shared.score(prompts, rows_of())
print(*shared.processes(), flush=True)
time.sleep(600)
"""


@linux
def test_workers_end_when_parent_is_killed():
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert parent.stdout is not None
    processes = [int(number) for number in parent.stdout.readline().split()]
    assert len(processes) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(_alive(process) for process in processes):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


def _alive(process):
    """Return whether a process runs; zombies do not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_worker_count_depends_on_system_budget_and_device(monkeypatch):
    backbone = tiny_backbone("llama")
    assert worker_count(3, backbone, 10) == (3 if sys.platform == "linux" else 1)
    assert worker_count("auto", backbone, 10) == 1, "too few tokens for a second worker"
    assert worker_count("auto", backbone, 10**6) in (1, torch.get_num_threads())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    most = 4 if sys.platform == "linux" else 1
    assert worker_count("auto", backbone, 10**6) == most, "one per core"
    assert worker_count("auto", backbone, 2 * PASS_TOKENS) == min(2, most)
    gpu = dataclasses.replace(backbone, device=torch.device("cuda"))
    assert worker_count(3, gpu, 10**6) == 1, "a GPU has one worker"
