"""Client optimizers on stacked parameters, each client with its own state and its own clock.

An optimizer is a pair of pure functions over `Params` stacked as `[clients, ...]`. A mask says which
clients step; the others' parameters and state do not move, nor do those of a client whose step would
leave it with parameters that are not finite. Each client's slice equals what torch.optim
computes for it alone (a test).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.config import Optimizer
from fedprofit.types import Params


@dataclass(frozen=True)
class OptimizerState:
    """Moments by name, each stacked like the parameters, and the steps taken, `[clients]`."""

    moments: dict[str, Params]
    steps: Tensor


@dataclass(frozen=True)
class ClientOptimizer:
    """`init(params) -> state` and `update(params, gradients, state, active) -> (params, state)`."""

    init: Callable[[Params], OptimizerState]
    update: Callable[[Params, Params, OptimizerState, Tensor], tuple[Params, OptimizerState]]


# A rule moves one tensor: (parameter, gradient, moments, steps) -> (parameter, moments).
Rule = Callable[[Tensor, Tensor, dict[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]]


def client_optimizer(settings: Optimizer) -> ClientOptimizer:
    """Make SGD, SGD with momentum, Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019).

    >>> optimizer = client_optimizer(Optimizer(optimizer="sgd", rate=0.5))
    >>> ones = {"prompt": torch.ones(2, 1)}
    >>> state = optimizer.init(ones)
    >>> params, state = optimizer.update(ones, ones, state, active=torch.tensor([True, False]))
    >>> params["prompt"].flatten().tolist(), state.steps.tolist()
    ([0.5, 1.0], [1, 0])
    """
    names, rule = {
        "sgd": ((), _sgd(settings)),
        "momentum": (("momentum",), _momentum(settings)),
        "adam": (("first", "second"), _adam(settings, decoupled=False)),
        "adamw": (("first", "second"), _adam(settings, decoupled=True)),
    }[settings.optimizer]

    def init(params: Params) -> OptimizerState:
        clients, device = len(next(iter(params.values()))), next(iter(params.values())).device
        moments = {name: {key: torch.zeros_like(p) for key, p in params.items()} for name in names}
        return OptimizerState(moments, torch.zeros(clients, dtype=torch.long, device=device))

    def update(
        params: Params, gradients: Params, state: OptimizerState, active: Tensor
    ) -> tuple[Params, OptimizerState]:
        found = {}
        for key, parameter in params.items():
            clock = _column(state.steps + active.long(), parameter)
            before = {name: state.moments[name][key] for name in names}
            found[key] = rule(parameter, gradients[key], before, clock)
        active = active & finite_slices({key: new for key, (new, _) in found.items()})
        moved: Params = {}
        moments: dict[str, Params] = {name: {} for name in names}
        for key, (new, after) in found.items():
            mask = _column(active, new)
            moved[key] = torch.where(mask, new, params[key])
            for name in names:
                moments[name][key] = torch.where(mask, after[name], state.moments[name][key])
        return moved, OptimizerState(moments, state.steps + active.long())

    return ClientOptimizer(init, update)


def finite_slices(params: Params) -> Tensor:
    """Tell which clients' parameters (or gradients) are all finite, `[clients]`."""
    return torch.stack([torch.isfinite(tensor.flatten(1)).all(1) for tensor in params.values()]).all(0)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _sgd(settings: Optimizer) -> Rule:
    def rule(p: Tensor, g: Tensor, _: dict[str, Tensor], __: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return p - settings.rate * (g + settings.weight_decay * p), {}

    return rule


def _momentum(settings: Optimizer) -> Rule:
    def rule(p: Tensor, g: Tensor, moments: dict[str, Tensor], _: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        velocity = settings.momentum * moments["momentum"] + g + settings.weight_decay * p
        return p - settings.rate * velocity, {"momentum": velocity}

    return rule


def _adam(settings: Optimizer, decoupled: bool) -> Rule:
    beta1, beta2 = settings.beta1, settings.beta2

    def rule(
        p: Tensor, g: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if decoupled:
            p = p * (1 - settings.rate * settings.weight_decay)
        else:
            g = g + settings.weight_decay * p
        first = beta1 * moments["first"] + (1 - beta1) * g
        second = beta2 * moments["second"] + (1 - beta2) * g * g
        # A client that has not stepped yet is masked out; the clamp only keeps its division finite.
        # In float64, since 1 - 0.999 loses four digits in float32.
        clock = steps.clamp(min=1).double()
        corrected = first / (1 - beta1**clock).to(p.dtype)
        scale = (second / (1 - beta2**clock).to(p.dtype)).sqrt() + settings.epsilon
        return p - settings.rate * corrected / scale, {"first": first, "second": second}

    return rule
