"""Server optimizers over the averaged client delta (Reddi et al. 2021, Adaptive Federated Optimization).

The delta d points where the clients want to go, so it is added:

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

import torch
from torch import Tensor

from fedprofit.config import ServerOptimizer as Settings
from fedprofit.types import Params, ServerState

Moments = dict[str, Tensor]
Rule = Callable[[Tensor, Moments], tuple[Tensor, Moments]]  # (delta, moments) -> (step, moments)


@dataclass(frozen=True)
class ServerOptimizer:
    """`init(params) -> state` and `apply(state, delta) -> state`, which also ends the round."""

    init: Callable[[Params], ServerState]
    apply: Callable[[ServerState, Params], ServerState]


def server_optimizer(settings: Settings) -> ServerOptimizer:
    """Make the server optimizer that the settings name.

    >>> server = server_optimizer(Settings())
    >>> state = server.apply(server.init({"prompt": torch.zeros(1)}), {"prompt": torch.ones(1)})
    >>> state.params["prompt"].item(), state.round
    (1.0, 1)
    """
    choices: dict[str, tuple[dict[str, float], Rule]] = {
        "sgd": ({}, _plain),
        "momentum": ({"first": 0.0}, _momentum(settings)),
        "adam": ({"first": 0.0, "second": settings.tau**2}, _adaptive(settings, _adam_second(settings))),
        "yogi": ({"first": 0.0, "second": settings.tau**2}, _adaptive(settings, _yogi_second(settings))),
        "adagrad": ({"second": settings.tau**2}, _adagrad(settings)),
    }
    start, rule = choices[settings.optimizer]

    def init(params: Params) -> ServerState:
        moments = {n: {k: torch.full_like(p, v) for k, p in params.items()} for n, v in start.items()}
        return ServerState(params=dict(params), optimizer=moments)

    def apply(state: ServerState, delta: Params) -> ServerState:
        params: Params = {}
        moments: dict[str, Params] = {name: {} for name in start}
        for key, parameter in state.params.items():
            step, after = rule(delta[key], {name: state.optimizer[name][key] for name in start})
            params[key] = parameter + settings.rate * step
            for name in start:
                moments[name][key] = after[name]
        return replace(state, params=params, optimizer=moments, round=state.round + 1)

    return ServerOptimizer(init, apply)


def _plain(delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
    return delta, moments


def _momentum(settings: Settings) -> Rule:
    def rule(delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        first = settings.momentum * moments["first"] + delta
        return first, {"first": first}

    return rule


def _adagrad(settings: Settings) -> Rule:
    def rule(delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        second = moments["second"] + delta.square()
        return delta / (second.sqrt() + settings.tau), {"second": second}

    return rule


def _adaptive(settings: Settings, next_second: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def rule(delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        first = settings.beta1 * moments["first"] + (1 - settings.beta1) * delta
        second = next_second(moments["second"], delta.square())
        return first / (second.sqrt() + settings.tau), {"first": first, "second": second}

    return rule


def _adam_second(settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda second, square: settings.beta2 * second + (1 - settings.beta2) * square


def _yogi_second(settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda second, square: second - (1 - settings.beta2) * square * torch.sign(second - square)
