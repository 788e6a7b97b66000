"""Test packed forward passes against peft's PromptTuning and plain concatenation, in float32."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import peft
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone, tiny_model

from fedprofit.backbone import packing
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import (
    Row,
    count_tokens,
    pack,
    packed_losses,
    plain_losses,
    share_beginnings,
)
from fedprofit.backbone.fused import fuse
from fedprofit.backbone.segments import LONGEST, rounded, row_cuts

FAMILIES = ["llama", "gpt2", "qwen2"]
PATHS = [*((family, False) for family in FAMILIES), ("llama", True), ("qwen2", True)]


def backbone_of(family: str, fused: bool):
    backbone = tiny_backbone(family)
    assert not fused or fuse(backbone.model)
    return backbone


def rows_of(clients: int) -> list[Row]:
    return [Row(k, e) for k in range(clients) for e in ragged_batch(k, 4)]


def prompts_of(backbone, clients: int, length: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clients, length, backbone.width, generator=generator) * 0.3


@pytest.fixture(params=[False, True], ids=["together", "cut"])
def cut(request, monkeypatch):
    """Keep the rows of a prefix together, or cut them wherever that saves a (query, key) pair."""
    if request.param:
        monkeypatch.setattr(packing, "CALL_PAIRS", 0)
    return request.param


@pytest.mark.parametrize(("family", "fused"), PATHS)
@pytest.mark.parametrize("length", [0, 1, 5])
def test_packed_losses_match_plain(family, fused, length, cut):
    backbone = backbone_of(family, fused)
    rows = rows_of(3)
    results = []
    for losses in (partial(packed_losses, fused=fused), plain_losses):
        prompts = prompts_of(backbone, 3, length).requires_grad_()
        values = losses(backbone, prompts, rows)
        values.sum().backward()
        results.append((values.detach(), prompts.grad))
    (packed, packed_grad), (plain, plain_grad) = results
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    if length:
        torch.testing.assert_close(packed_grad, plain_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "fused"), PATHS)
def test_packed_losses_match_peft(family, fused):
    """Run peft one row at a time, because it pads batches differently."""
    backbone = backbone_of(family, fused)
    rows = rows_of(1)
    start = prompts_of(backbone, 1, 4)
    prompts = start.clone().requires_grad_()
    ours = packed_losses(backbone, prompts, rows, fused)
    ours.sum().backward()

    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    wrapped = peft.get_peft_model(tiny_model(family).eval(), settings)
    embedding = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        embedding.copy_(start[0])
    theirs = []
    for row in rows:
        example = row.example
        context = [*example.prefix, *example.source]
        ids = torch.tensor([[*context, *example.target]])
        labels = torch.tensor([[-100] * len(context) + list(example.target)])
        loss = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        theirs.append(loss * len(example.target))
    torch.stack(theirs).sum().backward()
    torch.testing.assert_close(ours.detach(), torch.stack(theirs).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prompts.grad[0], embedding.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_packed_losses_match_plain_with_sliding_window(fused, cut):
    backbone = backbone_of("mistral", fused)
    assert backbone.model.config.sliding_window < 16
    prompts = prompts_of(backbone, 3, 6)
    rows = rows_of(3)
    packed = packed_losses(backbone, prompts, rows, fused)
    torch.testing.assert_close(packed, plain_losses(backbone, prompts, rows), rtol=1e-5, atol=1e-5)


def test_pack_cuts_rows_when_cheaper_than_call(cut):
    backbone = tiny_backbone("llama")
    blocks = pack(rows_of(3), 3, backbone.device).layout.blocks
    rows = [block for block in blocks if not block.prefixes]
    assert len(rows) > len(blocks) / 2 if cut else len(rows) == len(blocks) / 2
    tokens = sum(int(block.valid.sum()) for block in blocks)
    assert tokens == count_tokens(rows_of(3), 3), "each token once"


@pytest.mark.parametrize("count", [1, 3])
def test_row_cuts_minimize_cost(count):
    lengths, prefix, call = [260, 149, 100, 61, 60, 24, 20, 9, 8], 50, 900

    def cost(cuts):
        return sum(call + count * (stop - first) * n * (prefix + n) for first, stop, n in cuts)

    found = row_cuts(lengths, count, prefix, call)
    rows = range(1, len(lengths))
    all_edges = [[0, *inner, len(lengths)] for r in range(len(lengths)) for inner in combinations(rows, r)]
    costs = [cost((i, j, rounded(lengths[i], LONGEST)) for i, j in pairwise(edges)) for edges in all_edges]
    assert [first for first, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
    assert cost(found) == min(costs) < costs[0], "costs[0] is the cost without cuts"
    assert row_cuts(lengths, count, prefix, None) == [(0, len(lengths), 264)]


def test_packed_losses_do_not_depend_on_other_rows():
    backbone = tiny_backbone("llama")
    prompts, rows = prompts_of(backbone, 3), rows_of(3)
    packed = packed_losses(backbone, prompts, rows)
    single = torch.cat([packed_losses(backbone, prompts, [row]) for row in rows])
    torch.testing.assert_close(packed, single, rtol=1e-5, atol=1e-5)


def with_common_beginning(rows: list[Row], count: int) -> list[Row]:
    """Prepend the same `count` tokens to the sources of each prefix."""
    begin = np.arange(3, 3 + count, dtype=np.int32)
    sources = [np.concatenate([begin + len(row.example.prefix), row.example.source]) for row in rows]
    return [
        replace(row, example=replace(row.example, source=source))
        for row, source in zip(rows, sources, strict=True)
    ]


def context(row: Row) -> list[int]:
    return [*row.example.prefix, *row.example.source]


def test_share_beginnings_moves_common_tokens_to_prefix():
    rows = with_common_beginning(rows_of(3), 4)
    shared = share_beginnings(rows)
    assert [context(row) for row in shared] == [context(row) for row in rows]
    assert [row.owner for row in shared] == [row.owner for row in rows]
    prefixes = Counter((row.owner, row.example.prefix.tobytes()) for row in rows)
    unchanged = [row for row, other in zip(rows, shared, strict=True) if row is other]
    assert len(unchanged) == list(prefixes.values()).count(1) > 0, "the only row of a prefix is unchanged"
    assert count_tokens(shared, 5) <= count_tokens(rows, 5) - 4 * (len(rows) - len(prefixes))


def test_share_beginnings_leaves_one_token_in_equal_sources():
    row = rows_of(1)[0]
    shared = share_beginnings([row, row])
    assert [len(one.example.source) for one in shared] == [1, 1]
    assert [context(one) for one in shared] == [context(row)] * 2


@pytest.mark.parametrize(("family", "fused"), PATHS)
def test_engine_matches_eager_with_shared_beginnings(family, fused):
    backbone, rows = backbone_of(family, fused), with_common_beginning(rows_of(3), 4)
    prompts, weights = prompts_of(backbone, 3), torch.linspace(0.1, 1, len(rows))
    fast, plain = (Engine(backbone, path) for path in ("fused" if fused else "packed", "eager"))
    for found, expected in zip(
        fast.gradients(prompts, rows, weights), plain.gradients(prompts, rows, weights), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.score(prompts, rows), plain.score(prompts, rows), rtol=1e-5, atol=1e-5)
    assert fast.answer(prompts, rows, 8)[1] == plain.answer(prompts, rows, 8)[1]


def test_plain_losses_accept_models_returning_all_logits(monkeypatch):
    backbone = tiny_backbone("gpt2")
    prompts, rows = prompts_of(backbone, 2), rows_of(2)
    expected, forward = plain_losses(backbone, prompts, rows), backbone.model.forward
    monkeypatch.setattr(backbone.model, "forward", lambda logits_to_keep=0, **given: forward(**given))
    torch.testing.assert_close(plain_losses(backbone, prompts, rows), expected)
