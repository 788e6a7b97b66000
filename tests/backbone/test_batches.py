"""Test that micro-batches contain every row once, fit the budget and rarely repeat prefixes."""

from dataclasses import replace

import numpy as np
import pytest
from ragged import ragged_batch

from fedprofit.backbone.batches import CACHE_PER_TOKEN, GROWTH, PASS_TOKENS, micro_batches, worker_batches
from fedprofit.backbone.forward import Row, count_tokens
from fedprofit.core.types import Example

LENGTH = 3


def ragged_rows(clients=5, each=9):
    return [Row(k, example) for k in range(clients) for example in ragged_batch(k, each)]


def even_rows(clients, rows=4, definition=40, source=9, target=3):
    """Return rows of equal shape, one definition per client: `LENGTH + 40 + 4 * 11` tokens a client."""
    found = []
    for client in range(clients):
        shared = np.full(definition, client, np.int32)
        example = Example(shared, np.zeros(source, np.int32), np.zeros(target, np.int32), "task", ("",))
        found += [Row(client, example)] * rows
    return found


def batch_tokens(rows, batches):
    return [count_tokens([rows[number] for number in batch], LENGTH) for batch in batches]


@pytest.mark.parametrize("new", [0, 5, 40])
@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
def test_micro_batches_contain_every_row_and_fit_budget(budget, new):
    rows = ragged_rows()
    rows += [replace(row, target=False) for row in rows[:7]]
    batches = micro_batches(rows, LENGTH, budget, new)
    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))
    for batch in batches:
        members = [rows[number] for number in batch]
        longest = max(LENGTH + len(row.example.prefix) + row.tokens for row in members)
        cache = len(batch) * (longest + min(new, GROWTH)) / CACHE_PER_TOKEN
        targets = sum(len(row.example.target) if row.target else 1 for row in members)
        memory = max(cache, targets) if new else count_tokens(members, LENGTH)
        assert len(batch) == 1 or memory <= budget
    assert (len(batches) == 1) == (budget == 10_000)


def test_micro_batches_keep_rows_of_prefix_together():
    rows = even_rows(8)
    batches = micro_batches(rows, LENGTH, 250)
    assert sum(batch_tokens(rows, batches)) == count_tokens(rows, LENGTH), "each prefix is computed once"
    assert [len(batch) for batch in batches] == [8, 8, 8, 8], "two clients of 87 tokens per batch"
    assert sum(batch_tokens(rows, micro_batches(rows, LENGTH, 70))) > count_tokens(rows, LENGTH)


def test_micro_batches_combine_large_and_small_clients():
    rows = [*even_rows(2, rows=12), *(replace(row, owner=row.owner + 2) for row in even_rows(2, rows=1))]
    sizes = batch_tokens(rows, micro_batches(rows, LENGTH, 230))
    assert sizes == [175 + 54, 175 + 54]


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("new", [0, 16])
def test_worker_batches_balance_load_and_rarely_repeat_prefixes(workers, new):
    rows = even_rows(11 * workers)
    batches = worker_batches(rows, LENGTH, 1024 * workers, workers, new)
    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))
    sizes = batch_tokens(rows, batches)
    assert len(batches) % workers == 0
    assert max(sizes) <= 1.1 * min(sizes)
    assert sum(sizes) <= 1.1 * count_tokens(rows, LENGTH)


def test_worker_batches_split_client_only_when_large():
    large, small = even_rows(1, rows=64), even_rows(1, rows=2)
    shares = [len(batch) for batch in worker_batches(large, LENGTH, 2048, 2)]
    assert len(shares) == 2
    assert max(shares) <= 36
    assert count_tokens(small, LENGTH) < PASS_TOKENS
    assert len(worker_batches(small, LENGTH, 2048, 2)) == 1


def test_batches_are_empty_without_rows():
    assert worker_batches([], LENGTH, 2048, 2) == micro_batches([], LENGTH, 2048) == []
