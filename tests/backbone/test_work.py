"""Test the computational cost of the engine by counting kernels, tokens and FLOPs instead of time."""

from collections import Counter
from functools import partial

import numpy as np
import torch
from tiny import tiny_backbone
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fedprofit.backbone import generate
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, count_tokens, pack, packed_losses, plain_losses
from fedprofit.backbone.fused import fuse
from fedprofit.core.types import Example

LENGTH = 4


class Calls(TorchDispatchMode):
    """Count calls of kernels by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def clients_rows(clients, rows=4, definition=40, source=9, target=3):
    """Return rows of equal shape, one definition per client."""
    draw = np.random.default_rng(0)

    def tokens(count):
        return draw.integers(3, 300, count).astype(np.int32)

    found = []
    for client in range(clients):
        shared = tokens(definition)
        found += [
            Row(client, Example(shared, tokens(source), tokens(target), "task", ("",))) for _ in range(rows)
        ]
    return found


def prompts_of(backbone, clients):
    return torch.zeros(clients, LENGTH, backbone.width, requires_grad=True)


def step(backbone, clients, losses=packed_losses):
    losses(backbone, prompts_of(backbone, clients), clients_rows(clients)).sum().backward()


def test_packed_step_needs_constant_number_of_kernels():
    backbone, counts = tiny_backbone("llama"), []
    for clients in (2, 16):
        step(backbone, clients)  # warm up: fill caches
        with Calls() as calls:
            step(backbone, clients)
        counts.append(calls.counts)
    # The layout costs per row, the computation per layer.
    for kernel in ("mm", "bmm", "_softmax", "index_select", "silu", "_softmax_backward_data"):
        assert counts[0][kernel] == counts[1][kernel] > 0, kernel
    layers = backbone.model.config.num_hidden_layers
    assert counts[1]["mm"] <= layers * 14 + 2, "seven linear layers, forward and backward, and the head"
    assert counts[1]["bmm"] <= layers * 18, "six products of attention, each with two gradients"


def test_fused_step_needs_constant_number_of_kernels():
    backbone, counts = tiny_backbone("llama"), []
    assert fuse(backbone.model)
    for clients in (2, 16):
        step(backbone, clients, partial(packed_losses, fused=True))
        with Calls() as calls:
            step(backbone, clients, partial(packed_losses, fused=True))
        counts.append(calls.counts)
    for kernel in ("mm", "bmm", "index_select", "add"):
        assert counts[0][kernel] == counts[1][kernel] > 0, kernel
    layers = backbone.model.config.num_hidden_layers
    assert counts[1]["mm"] <= layers * 8 + 2, "four products, forward and backward, and the head"
    assert counts[1]["bmm"] <= layers * 18, "six products of attention, each with two gradients"
    for kernel in ("_softmax", "silu", "scatter_add", "index_add"):
        assert not counts[1][kernel], f"{kernel} must be a compiled kernel or a gather"


def test_pack_adds_little_padding_to_counted_tokens():
    backbone, rows = tiny_backbone("llama"), clients_rows(8)
    packed = pack(rows, LENGTH, backbone.device)
    counted = count_tokens(rows, LENGTH)
    assert counted == 8 * (LENGTH + 40 + 4 * (9 + 3 - 1)), "prompt and definition once, no last target token"
    assert counted <= packed.layout.length < counted + 16


def test_shared_prefixes_reduce_flops_in_proportion_to_tokens():
    backbone = tiny_backbone("llama")
    flops = []
    for losses in (packed_losses, plain_losses):
        with FlopCounterMode(display=False) as counter:
            step(backbone, 8, losses)
        flops.append(counter.get_total_flops())
    rows = clients_rows(8)
    tokens = count_tokens(rows, LENGTH)
    unshared = sum(count_tokens([row], LENGTH) for row in rows)
    assert tokens / unshared < 0.45
    # Padding in attention and the rounded length of the flat row reduce the savings slightly.
    assert flops[0] / flops[1] < 1.25 * tokens / unshared


def test_long_row_does_not_pad_short_rows():
    backbone = tiny_backbone("llama")
    rows = [clients_rows(1, 1, source=length)[0] for length in (246, 6, 6, 6, 6, 6, 6, 6)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        packed_losses(backbone, prompts_of(backbone, 1), rows)
    computed = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    config, prefix = backbone.model.config, 48  # 44 tokens plus padding
    pairs = prefix * prefix + 248 * (prefix + 248) + 7 * 8 * (prefix + 8)
    size = config.hidden_size // config.num_attention_heads
    assert computed == 4 * pairs * config.num_hidden_layers * config.num_attention_heads * size


def test_generation_drops_finished_rows(monkeypatch):
    backbone, rows = tiny_backbone("llama"), clients_rows(8, rows=8)
    prompts, batch_sizes = prompts_of(backbone, 8).detach(), []
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", list(range(1, 300, 6)))
    attend = generate.RowCache.attend

    def counting(cache, query, *rest, **named):
        batch_sizes.append(len(query))
        return attend(cache, query, *rest, **named)

    monkeypatch.setattr(generate.RowCache, "attend", counting)
    _, answers = Engine(backbone, "packed").answer(prompts, rows, 24)
    layers = backbone.model.config.num_hidden_layers
    generated = sum(len(answer) for answer in answers)
    assert generated < 24 * len(rows) / 2, "many rows must end early"
    assert sum(batch_sizes) / layers <= generated + 24 * generate.TOGETHER
