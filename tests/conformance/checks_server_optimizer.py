"""Checks of every server optimizer."""

import torch

from fedprofit.runs.checkpoint import load_state, save_state

ROUNDS = 3


def delta(round):
    generator = torch.Generator().manual_seed(round)
    return {"prompt": torch.randn(2, 3, generator=generator), "scale": torch.randn((), generator=generator)}


def rounds(component, state=None, upto=ROUNDS):
    server = component.build()
    state = state or server.init({key: torch.zeros_like(tensor) for key, tensor in delta(0).items()})
    for number in range(state.round + 1, upto + 1):
        state = server.apply(state, delta(number))
    return state


def assert_same(one, other):
    assert one.round == other.round
    assert one.optimizer.keys() == other.optimizer.keys()
    moments = [(one.optimizer[name], other.optimizer[name]) for name in one.optimizer]
    for ours, theirs in [(one.params, other.params), *moments]:
        assert list(ours) == list(theirs), "tensors in another order"
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def check_first_step_follows_the_delta(component):
    state = rounds(component, upto=1)
    for key, tensor in delta(1).items():
        assert (state.params[key].sign() == tensor.sign()).all()
        assert state.params[key].shape == tensor.shape


def check_same_bits_twice(component):
    assert_same(rounds(component), rounds(component))


def check_tensors_do_not_mix(component):
    """Each tensor is updated independently of the others."""
    server = component.build()
    for key in delta(0):
        state = server.init({key: torch.zeros_like(delta(0)[key])})
        for number in range(1, ROUNDS + 1):
            state = server.apply(state, {key: delta(number)[key]})
        assert torch.equal(state.params[key], rounds(component).params[key])


def check_state_survives_save_and_load(component, folder):
    state = None
    for number in range(1, ROUNDS + 1):
        state = rounds(component, state, number)
        save_state(folder / "s.safetensors", state, state.params, {})
        state, _, _ = load_state(folder / "s.safetensors", torch.device("cpu"))
    assert_same(state, rounds(component))


def check_inputs_are_unchanged(component):
    server, given = component.build(), delta(1)
    state = server.init({key: torch.zeros_like(tensor) for key, tensor in given.items()})
    server.apply(state, given)
    assert all(torch.equal(tensor, delta(1)[key]) for key, tensor in given.items())
    assert not any(tensor.any() for tensor in state.params.values())
