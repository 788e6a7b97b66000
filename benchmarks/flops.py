"""How much of the machine's arithmetic is used: floating-point operations that a step needs, over its peak.

Only what the result needs counts: a prompt, a definition and what inputs have in common once for all rows
behind them, no padding, what follows the last attention at targets alone, and of the backward pass only what
leads to the prompts, as the weights are frozen.
"""

import time
from collections.abc import Sequence

import torch

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, by_segment, count_tokens, share_beginnings
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.workers import shared_workers
from fedprofit.core.types import ClientWork


def training_flops(backbone: Backbone, clients: Sequence[ClientWork], length: int) -> int:
    """Count the operations, two a multiply-add, of one pass over all batches and back to the prompts."""
    total = 0
    for client in clients:
        for batch in client.batches:
            rows = share_beginnings([Row(0, example) for example in batch])
            linear, head, attention = forward_flops(backbone, rows, length)
            # Back through a frozen product is one product; through one of two activations it is two.
            total += 2 * (linear + head) + 3 * attention
    return total


def forward_flops(backbone: Backbone, rows: Sequence[Row], length: int) -> tuple[int, int, int]:
    """Count what a forward pass through layers of Llama's shape needs: in them, at the head, in attention."""
    model, config = backbone.model, backbone.model.config
    head = model.get_output_embeddings()
    layers = model.base_model.layers
    late = _weights(layers[-1].self_attn.o_proj) + _weights(layers[-1].mlp)
    targets = sum(len(row.example.target) for row in rows)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wide = config.num_hidden_layers * config.num_attention_heads * size
    return (
        2 * (count_tokens(rows, length) * (_weights(layers) - late) + targets * late),
        2 * targets * head.weight.numel(),
        2 * 2 * wide * visible_pairs(rows, length),
    )


def _weights(module: torch.nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, torch.nn.Linear))


def visible_pairs(rows: Sequence[Row], length: int) -> int:
    """Count the pairs of a query and a key that it sees."""
    pairs = 0
    for members in by_segment(rows).values():
        prefix = length + len(rows[members[0]].example.prefix)
        pairs += prefix * (prefix + 1) // 2
        pairs += sum(n * prefix + n * (n + 1) // 2 for n in (rows[number].tokens for number in members))
    return pairs


PEAK_SECONDS = 3.0  # for which the fastest products are looked for


def matmul_peak(engine: Engine) -> float:
    """Measure the most operations a second of square matrix products.

    That of one process with the threads now in use, or of the engine's workers side by side, with a thread
    each: some libraries spread a product badly over threads, and what workers reach is within reach.
    """
    backbone = engine.backbone
    (together,) = products_rate(backbone)
    if engine.workers == 1:
        return together
    workers = shared_workers(backbone, engine.workers)
    return max(together, sum(rate for (rate,) in workers.map(products_rate, [()] * engine.workers)))


def products_rate(backbone: Backbone) -> tuple[float]:
    """Measure the most operations a second of square products in this process, in the backbone's type.

    Returned as the one value of a tuple, as workers return what they compute.
    """
    device, dtype = backbone.device, backbone.dtype
    size = 8192 if device.type == "cuda" else 2048  # so much that what lies between products is nothing
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(4):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - begin) / 4)
    return (2 * size**3 / best,)
