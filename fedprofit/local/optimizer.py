"""Client optimizers: SGD, SGD with momentum, Adam and AdamW, each for many clients at once.

A client optimizer is a settings class whose `step` updates one stacked tensor, `[clients, ...]`.
`stacked.py` turns that into a `ClientOptimizer`: each client has its own state and step count. A client's
slice equals the result of `torch.optim` for this client (tested).
"""

from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.base import Beta, Fraction, Rate, Weight
from fedprofit.config.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fedprofit.local.stacked import ClientOptimizer

    Moved = tuple[Tensor, dict[str, Tensor]]  # the next parameters and moments


class ClientOptimizerSettings(
    Component, family="client optimizer", package="fedprofit.local.optimizer", default="adam"
):
    """A client's optimizer. Its state starts fresh every time a client trains."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("step", "build"),)

    moments: ClassVar[tuple[str, ...]] = ()  # names of the tensors kept beside each parameter; zero at first

    rate: Rate = 0.03
    """The learning rate."""

    def step(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        """Return the next parameters and moments.

        Args:
            parameter: `[clients, ...]`.
            gradient: of the same shape.
            moments: by the names of `moments`, each of the parameter's shape.
            steps: each client's steps, including this one, `[clients, 1, ...]`.
        """
        raise NotImplementedError

    def build(self) -> "ClientOptimizer":
        """Make the optimizer of stacked parameters.

        >>> import torch
        >>> optimizer = Sgd(rate=0.5).build()
        >>> ones = {"x": torch.ones(2, 1)}
        >>> state = optimizer.init(ones)
        >>> params, state = optimizer.update(ones, ones, state, active=torch.tensor([True, False]))
        >>> params["x"].flatten().tolist(), state.steps.tolist()
        ([0.5, 1.0], [1, 0])
        """
        from fedprofit.local.stacked import stacked_optimizer

        return stacked_optimizer(self.moments, self.step)

    def in_torch(self, parameters: "list[torch.Tensor]") -> "torch.optim.Optimizer | None":
        """Return the optimizer of `torch.optim` that computes the same for one client; None if there is none.

        The sequential reference uses it. Without one, it uses this optimizer on a stack of one client.
        """
        return None


class Sgd(ClientOptimizerSettings, kind="sgd"):
    """Stochastic gradient descent."""

    weight_decay: Weight = 0.0
    """The weight of the L2 penalty on the parameters."""

    def step(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        """Step against the gradient."""
        return parameter - self.rate * (gradient + self.weight_decay * parameter), {}

    def in_torch(self, parameters: "list[torch.Tensor]") -> "torch.optim.Optimizer | None":
        """Return `torch.optim.SGD`."""
        import torch

        return torch.optim.SGD(parameters, lr=self.rate, weight_decay=self.weight_decay)


class Momentum(ClientOptimizerSettings, kind="momentum"):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` defines it."""

    moments: ClassVar[tuple[str, ...]] = ("momentum",)

    momentum: Fraction = 0.9
    """The share of the velocity that is kept at each step."""
    weight_decay: Weight = 0.0
    """The weight of the L2 penalty on the parameters."""

    def step(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        """Step along the velocity."""
        velocity = self.momentum * moments["momentum"] + gradient + self.weight_decay * parameter
        return parameter - self.rate * velocity, {"momentum": velocity}

    def in_torch(self, parameters: "list[torch.Tensor]") -> "torch.optim.Optimizer | None":
        """Return `torch.optim.SGD` with momentum."""
        import torch

        return torch.optim.SGD(
            parameters, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay
        )


class Adam(ClientOptimizerSettings, kind="adam", paper="Kingma and Ba 2015, arXiv 1412.6980"):
    """Adam; weight decay is added to the gradient."""

    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    beta1: Beta = 0.9
    """Decay of the first moment."""
    beta2: Beta = 0.999
    """Decay of the second moment."""
    epsilon: Rate = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Weight = 0.0
    """The weight of the L2 penalty on the parameters."""

    def step(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        """Step by the bias-corrected moments (algorithm 1 of the paper)."""
        return self._adapted(parameter, gradient + self.weight_decay * parameter, moments, steps)

    def _adapted(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        first = self.beta1 * moments["first"] + (1 - self.beta1) * gradient
        second = self.beta2 * moments["second"] + (1 - self.beta2) * gradient * gradient
        # A client that has not stepped yet is masked out; the clamp only keeps its division finite.
        # In float64, since 1 - 0.999 loses four digits in float32.
        clock = steps.clamp(min=1).double()
        corrected = first / (1 - self.beta1**clock).to(parameter.dtype)
        scale = (second / (1 - self.beta2**clock).to(parameter.dtype)).sqrt() + self.epsilon
        return parameter - self.rate * corrected / scale, {"first": first, "second": second}

    def in_torch(self, parameters: "list[torch.Tensor]") -> "torch.optim.Optimizer | None":
        """Return `torch.optim.Adam`."""
        import torch

        return torch.optim.Adam(
            parameters,
            lr=self.rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
        )


class AdamW(Adam, kind="adamw", paper="Loshchilov and Hutter 2019, arXiv 1711.05101"):
    """Adam with decoupled weight decay."""

    def step(
        self, parameter: "Tensor", gradient: "Tensor", moments: "dict[str, Tensor]", steps: "Tensor"
    ) -> "Moved":
        """Shrink the parameters, then step by the bias-corrected moments (algorithm 2 of the paper)."""
        return self._adapted(parameter * (1 - self.rate * self.weight_decay), gradient, moments, steps)

    def in_torch(self, parameters: "list[torch.Tensor]") -> "torch.optim.Optimizer | None":
        """Return `torch.optim.AdamW`."""
        import torch

        return torch.optim.AdamW(
            parameters,
            lr=self.rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
        )
