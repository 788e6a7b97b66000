"""Checks of every client optimizer."""

import torch
from federation import cohort_of, engine, sequential, start

from fedprofit.local.solver import solve


def many(clients=4):
    return {"prompt": start()["prompt"].repeat(clients, 1, 1)}


def check_vectorized_equals_sequential(component):
    cohort = cohort_of(1)
    result, _ = solve(engine(), many(), cohort, component)
    expected, _ = sequential().solve(many(), cohort, component)
    torch.testing.assert_close(result.params, expected.params, rtol=1e-4, atol=1e-5)
    assert not torch.equal(result.params["prompt"][0], start()["prompt"]), "nothing was trained"
    assert torch.equal(result.params["prompt"][2], start()["prompt"]), "a client without data moved"


def check_client_with_nan_stops_and_others_continue(component):
    clean, _ = solve(engine(), many(), cohort_of(1), component)
    result, _ = solve(engine(broken=True), many(), cohort_of(1, broken=("c0",)), component)
    assert list(result.stopped) == ["c0"]
    assert torch.equal(result.params["prompt"][0], start()["prompt"])
    torch.testing.assert_close(result.params["prompt"][1:], clean.params["prompt"][1:], rtol=1e-5, atol=1e-6)


def check_same_bits_twice(component):
    first, _ = solve(engine(), many(), cohort_of(1), component)
    second, _ = solve(engine(), many(), cohort_of(1), component)
    assert torch.equal(first.params["prompt"], second.params["prompt"])


def check_inactive_client_keeps_parameters_and_state(component):
    optimizer = component.build()
    params = {"p": torch.randn(2, 3, generator=torch.Generator().manual_seed(0))}
    state, slope = optimizer.init(params), {"p": torch.ones(2, 3)}
    for _ in range(2):
        moved, state = optimizer.update(params, slope, state, torch.tensor([True, False]))
    assert torch.equal(moved["p"][1], params["p"][1])
    assert state.steps.tolist() == [2, 0]
    assert all(not moment["p"][1].any() for moment in state.moments.values())


def check_one_step_goes_downhill(component):
    optimizer = component.build()
    params = {"p": torch.zeros(1, 3)}
    moved, _ = optimizer.update(
        params, {"p": torch.tensor([[1.0, -2.0, 0.5]])}, optimizer.init(params), torch.tensor([True])
    )
    assert (moved["p"].sign() == torch.tensor([[-1.0, 1.0, -1.0]])).all()
