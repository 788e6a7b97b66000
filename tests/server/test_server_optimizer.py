"""Server optimizers, compared with a plain version of Algorithm 2 of Reddi et al. 2021, and torch."""

import math

import pytest
import torch

from fedprofit.server.optimizer import AdagradServer, MomentumServer, PlainServer, ServerOptimizerSettings

SHAPES = {"prompt": (3, 2), "other": (4,)}
ROUNDS = 6


def of_kind(kind, **settings):
    return ServerOptimizerSettings.model_validate({"kind": kind, **settings})


def draws(scale=1.0):
    generator = torch.Generator().manual_seed(3)

    def one(size=1.0):
        return {k: torch.randn(s, generator=generator, dtype=torch.float64) * size for k, s in SHAPES.items()}

    return one(), [one(scale) for _ in range(ROUNDS)]


def run(settings, start, deltas):
    server = settings.build()
    state = server.init(start)
    for delta in deltas:
        state = server.apply(state, delta)
    return state


def algorithm_2(kind, x, deltas, eta, beta1, beta2, tau):
    """One coordinate of Algorithm 2: v starts at tau squared, m at zero, no bias correction."""
    m, v = 0.0, tau**2
    for d in deltas:
        m = beta1 * m + (1 - beta1) * d
        if kind == "adagrad":
            v = v + d**2
        elif kind == "yogi":
            sign = (v > d**2) - (v < d**2)
            v = v - (1 - beta2) * d**2 * sign
        else:
            v = beta2 * v + (1 - beta2) * d**2
        x = x + eta * m / (math.sqrt(v) + tau)
    return x


# The paper runs FedAdagrad with beta1 = 0; so does this package.
@pytest.mark.parametrize(("kind", "beta1"), [("adagrad", 0.0), ("adam", 0.9), ("adam", 0.0), ("yogi", 0.9)])
@pytest.mark.parametrize("tau", [1e-3, 0.5])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_adaptive_optimizers_are_algorithm_2(kind, beta1, tau, scale):
    start, deltas = draws(scale)
    betas = {} if kind == "adagrad" else {"beta1": beta1, "beta2": 0.95}
    settings = of_kind(kind, rate=0.3, tau=tau, **betas)
    state = run(settings, start, deltas)
    assert state.round == ROUNDS
    for key in SHAPES:
        for i, x in enumerate(start[key].flatten().tolist()):
            series = [delta[key].flatten()[i].item() for delta in deltas]
            expected = algorithm_2(kind, x, series, 0.3, beta1, 0.95, tau)
            assert state.params[key].flatten()[i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (PlainServer(rate=0.7), lambda p: torch.optim.SGD(p, lr=0.7)),
        (
            MomentumServer(rate=0.7, momentum=0.8),
            lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.8),
        ),
        (
            AdagradServer(rate=0.7, tau=0.01),
            lambda p: torch.optim.Adagrad(p, lr=0.7, eps=0.01, initial_accumulator_value=0.01**2),
        ),
    ],
    ids=["sgd", "momentum", "adagrad"],
)
def test_negative_delta_is_a_gradient(settings, theirs):
    start, deltas = draws()
    parameters = {key: value.clone().requires_grad_() for key, value in start.items()}
    optimizer = theirs(list(parameters.values()))
    for delta in deltas:
        for key, parameter in parameters.items():
            parameter.grad = -delta[key]
        optimizer.step()
    state = run(settings, start, deltas)
    for key, parameter in parameters.items():
        torch.testing.assert_close(state.params[key], parameter.detach(), rtol=1e-12, atol=1e-12)


def test_plain_averaging_is_the_default():
    start, deltas = draws()
    state = run(PlainServer(), start, deltas[:1])
    for key in SHAPES:
        assert torch.equal(state.params[key], start[key] + deltas[0][key])
    assert state.optimizer == {}


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "yogi", "adagrad"])
def test_state_is_explicit(kind):
    """Applying changes no argument, and resuming from any state is bit-identical."""
    start, deltas = draws()
    settings = of_kind(kind, rate=0.1)
    kept = {key: value.clone() for key, value in start.items()}
    complete = run(settings, start, deltas)
    half = run(settings, start, deltas[:3])
    server = settings.build()
    for delta in deltas[3:]:
        half = server.apply(half, delta)
    for key in SHAPES:
        assert torch.equal(start[key], kept[key])
        assert torch.equal(half.params[key], complete.params[key])
        for name in complete.optimizer:
            assert torch.equal(half.optimizer[name][key], complete.optimizer[name][key])


@pytest.mark.parametrize("kind", ["sgd", "adam", "yogi", "adagrad"])
def test_zero_delta_changes_no_parameters(kind):
    start, _ = draws()
    nothing = {key: torch.zeros_like(value) for key, value in start.items()}
    state = run(of_kind(kind), start, [nothing])
    for key in SHAPES:
        assert torch.equal(state.params[key], start[key])
