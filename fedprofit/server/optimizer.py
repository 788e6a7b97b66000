"""Server optimizers over the averaged client delta (Reddi et al. 2021, Adaptive Federated Optimization).

The delta d is the averaged step of the clients, so it is added:

    sgd       x += rate * d
    momentum  m = momentum * m + d;                            x += rate * m
    adam      m = b1 m + (1 - b1) d;  v = b2 v + (1 - b2) d^2;          x += rate * m / (sqrt(v) + tau)
    yogi      m as adam;  v = v - (1 - b2) d^2 sign(v - d^2);           x += rate * m / (sqrt(v) + tau)
    adagrad   v = v + d^2;                                             x += rate * d / (sqrt(v) + tau)

The moments start at m = 0, v = tau^2, without bias correction, as in the paper's Algorithm 2. Adagrad
has no first moment (beta1 = 0).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.base import Beta, Fraction, Rate
from fedprofit.config.component import Component
from fedprofit.core.types import Params, ServerState

if TYPE_CHECKING:
    from torch import Tensor

    Moments = dict[str, Tensor]

FEDAVGM = "Hsu, Qi and Brown 2019, arXiv 1909.06335"
PAPER = "Reddi et al. 2021, arXiv 2003.00295"


@dataclass(frozen=True)
class ServerOptimizer:
    """`init(params) -> state` and `apply(state, delta) -> state`, which also ends the round."""

    init: Callable[[Params], ServerState]
    apply: Callable[[ServerState, Params], ServerState]


class ServerOptimizerSettings(
    Component, family="server optimizer", package="fedprofit.server.optimizer", default="sgd"
):
    """The server's optimizer over the averaged client deltas."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("step", "build"),)

    rate: Rate = 1.0
    """The learning rate."""

    def start(self) -> dict[str, float]:
        """Return the initial value of each moment, by name."""
        return {}

    def step(self, delta: "Tensor", moments: "Moments") -> "tuple[Tensor, Moments]":
        """Return the step, before multiplication by the rate, and the next moments."""
        raise NotImplementedError

    def build(self) -> ServerOptimizer:
        """Make the optimizer.

        >>> import torch
        >>> server = PlainServer().build()
        >>> state = server.apply(server.init({"x": torch.zeros(1)}), {"x": torch.ones(1)})
        >>> state.params["x"].item(), state.round
        (1.0, 1)
        """
        import torch

        start = self.start()

        def init(params: Params) -> ServerState:
            moments = {n: {k: torch.full_like(p, v) for k, p in params.items()} for n, v in start.items()}
            return ServerState(params=dict(params), optimizer=moments)

        def apply(state: ServerState, delta: Params) -> ServerState:
            params: Params = {}
            moments: dict[str, Params] = {name: {} for name in start}
            for key, parameter in state.params.items():
                step, after = self.step(delta[key], {name: state.optimizer[name][key] for name in start})
                params[key] = parameter + self.rate * step
                for name in start:
                    moments[name][key] = after[name]
            return replace(state, params=params, optimizer=moments, round=state.round + 1)

        return ServerOptimizer(init, apply)


class PlainServer(ServerOptimizerSettings, kind="sgd"):
    """Add the averaged delta; rate 1 is plain averaging."""

    def step(self, delta: "Tensor", moments: "Moments") -> "tuple[Tensor, Moments]":
        """Return the delta."""
        return delta, moments


class MomentumServer(ServerOptimizerSettings, kind="momentum", paper=FEDAVGM):
    """Add the averaged delta with momentum (FedAvgM)."""

    momentum: Fraction = 0.9
    """The share of the velocity that is kept at each round."""

    def start(self) -> dict[str, float]:
        """Return the initial velocity."""
        return {"first": 0.0}

    def step(self, delta: "Tensor", moments: "Moments") -> "tuple[Tensor, Moments]":
        """Return the velocity."""
        first = self.momentum * moments["first"] + delta
        return first, {"first": first}


class AdagradServer(ServerOptimizerSettings, kind="adagrad", paper=PAPER):
    """FedAdagrad."""

    tau: Rate = 1e-3
    """The degree of adaptivity: added to the root of the second moment."""

    def start(self) -> dict[str, float]:
        """Return the second moment before the first round."""
        return {"second": self.tau**2}

    def step(self, delta: "Tensor", moments: "Moments") -> "tuple[Tensor, Moments]":
        """Divide by the root of the sum of squares."""
        second = moments["second"] + delta.square()
        return delta / (second.sqrt() + self.tau), {"second": second}


class AdamServer(ServerOptimizerSettings, kind="adam", paper=PAPER):
    """FedAdam."""

    beta1: Beta = 0.9
    """Decay of the first moment."""
    beta2: Beta = 0.99
    """Decay of the second moment."""
    tau: Rate = 1e-3
    """The degree of adaptivity: added to the root of the second moment."""

    def start(self) -> dict[str, float]:
        """Return the moments before the first round."""
        return {"first": 0.0, "second": self.tau**2}

    def step(self, delta: "Tensor", moments: "Moments") -> "tuple[Tensor, Moments]":
        """Divide the first moment by the root of the second."""
        first = self.beta1 * moments["first"] + (1 - self.beta1) * delta
        second = self.next_second(moments["second"], delta.square())
        return first / (second.sqrt() + self.tau), {"first": first, "second": second}

    def next_second(self, second: "Tensor", square: "Tensor") -> "Tensor":
        """Return the next second moment."""
        return self.beta2 * second + (1 - self.beta2) * square


class YogiServer(AdamServer, kind="yogi", paper=PAPER):
    """FedYogi."""

    def next_second(self, second: "Tensor", square: "Tensor") -> "Tensor":
        """Return the next second moment, which moves by a bounded step."""
        import torch

        return second - (1 - self.beta2) * square * torch.sign(second - square)
