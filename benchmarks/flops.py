"""Count the floating-point operations (FLOPs) that a training step needs, and measure the machine's peak.

Only necessary operations count. Prompts, definitions and common beginnings of inputs count once for all
their rows. Padding does not count. After the last attention, only targets count. The backward pass counts
only gradients that lead to the prompts, because the weights are frozen.
"""

import time
from collections.abc import Sequence

import torch

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, by_segment, count_tokens, share_beginnings
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.workers import shared_workers
from fedprofit.core.types import ClientBatches


def training_flops(backbone: Backbone, clients: Sequence[ClientBatches], length: int) -> int:
    """Count the FLOPs, two per multiply-add, of forward and backward passes over all batches."""
    total = 0
    for client in clients:
        for batch in client.batches:
            rows = share_beginnings([Row(0, example) for example in batch])
            linear, head, attention = forward_flops(backbone, rows, length)
            # The backward pass of a product with a frozen factor is one product, else two.
            total += 2 * (linear + head) + 3 * attention
    return total


def forward_flops(backbone: Backbone, rows: Sequence[Row], length: int) -> tuple[int, int, int]:
    """Count the FLOPs of a forward pass of a Llama-like model: in linear layers, head and attention."""
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
    """Count the pairs of a query and a visible key."""
    pairs = 0
    for members in by_segment(rows).values():
        prefix = length + len(rows[members[0]].example.prefix)
        pairs += prefix * (prefix + 1) // 2
        pairs += sum(n * prefix + n * (n + 1) // 2 for n in (rows[number].tokens for number in members))
    return pairs


PEAK_SECONDS = 3.0  # duration of the peak measurement


def matmul_peak(engine: Engine) -> float:
    """Measure the peak FLOP/s of square matrix products.

    This is the larger of two rates: one process with all threads, and the engine's workers in parallel with
    one thread each. Some libraries parallelize a product inefficiently over threads.
    """
    backbone = engine.backbone
    (single,) = products_rate(backbone)
    if engine.workers == 1:
        return single
    workers = shared_workers(backbone, engine.workers)
    return max(single, sum(rate for (rate,) in workers.map(products_rate, [()] * engine.workers)))


def products_rate(backbone: Backbone) -> tuple[float]:
    """Measure the peak FLOP/s of square products in this process, in the dtype of the backbone.

    Returns a tuple, because workers return tuples.
    """
    device, dtype = backbone.device, backbone.dtype
    size = 8192 if device.type == "cuda" else 2048  # large enough to make call overhead negligible
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
