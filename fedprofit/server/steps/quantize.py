"""Stochastic rounding of each client's update to 8 bits."""

from dataclasses import replace
from typing import TYPE_CHECKING

from fedprofit.core.types import Params
from fedprofit.server.steps.base import AggregationStep, Sent, StepContext

if TYPE_CHECKING:
    import torch

LEVELS = 127  # of each sign
SCALE_BYTES = 4


class Quantize(AggregationStep, kind="quantize", paper="Alistarh et al. 2017, arXiv 1610.02132"):
    """Round each number to one of 255 levels at random, so that its expectation is unchanged.

    The levels are integer multiples of 1/127 of the largest magnitude of a client's tensor. A client
    sends one byte per number and one scale per tensor. Zero stays zero.
    """

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Round what each client sends."""
        import torch

        rounded = {
            key: torch.stack(
                [
                    _round(row, context.generator(client, key))
                    for client, row in zip(sent.clients, tensor, strict=True)
                ]
            )
            for key, tensor in sent.params.items()
        }
        encodings = {
            key: replace(one, number_bytes=1, extra_bytes=one.extra_bytes + SCALE_BYTES)
            for key, one in sent.encodings.items()
        }
        return replace(sent, params=rounded, encodings=encodings), state


def _round(row: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    import torch

    scale = row.abs().max() / LEVELS
    if not scale > 0:
        return torch.zeros_like(row)
    draw = torch.rand(row.shape, generator=generator).to(row.device)
    levels = (row / scale + draw).floor().clamp(-LEVELS, LEVELS)
    return (levels * scale).to(row.dtype)
