"""Make an optimizer of stacked parameters from a rule for one tensor.

An optimizer is a pair of pure functions over `Params` stacked as `[clients, ...]`. A mask selects the
clients that step. The parameters and state of all others are unchanged, as are those of a client whose next
parameters would not be finite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.core.types import Params


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


# A rule updates one tensor: (parameter, gradient, moments, steps) -> (parameter, moments).
Rule = Callable[[Tensor, Tensor, dict[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]]


def stacked_optimizer(names: Sequence[str], rule: Rule) -> ClientOptimizer:
    """Apply a rule to every tensor of the clients that step; see `ClientOptimizerSettings.step`.

    Args:
        names: the moments that the rule keeps.
        rule: from a parameter, its gradient, moments and step counts to the next parameter and moments.
    """

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
    """Return which clients' parameters (or gradients) are all finite, `[clients]`."""
    return torch.stack([torch.isfinite(tensor.flatten(1)).all(1) for tensor in params.values()]).all(0)


def finite_clients(losses: Tensor, gradients: Params) -> Tensor:
    """Return which clients' loss and complete gradient are finite, `[clients]`."""
    return torch.isfinite(losses) & finite_slices(gradients)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
