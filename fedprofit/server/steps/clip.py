"""Clipping of each client's update by its norm."""

from dataclasses import replace

from fedprofit.config.base import Rate
from fedprofit.core.types import Params
from fedprofit.server.steps.base import AggregationStep, Sent, StepContext


class Clip(AggregationStep, kind="clip", paper="McMahan et al. 2018, arXiv 1710.06963"):
    """Scale down each client's update to at most this L2 norm, over all its tensors together."""

    norm: Rate = 1.0
    """The largest norm."""

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Multiply each client's tensors by min(1, norm / its norm)."""
        squares = [
            tensor.double().reshape(len(tensor), -1).square().sum(1) for tensor in sent.params.values()
        ]
        norms = sum(squares[1:], squares[0]).sqrt()
        factor = (self.norm / norms).clamp(max=1.0)  # a norm of 0 gives infinity, so 1
        scaled = {
            key: tensor * factor.to(tensor.dtype).reshape(-1, *[1] * (tensor.dim() - 1))
            for key, tensor in sent.params.items()
        }
        return replace(sent, params=scaled), state
