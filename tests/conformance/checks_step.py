"""Checks of every aggregation step, in a chain that ends with a mean unless the step reduces."""

import torch

from fedprofit.runs.client_files import ClientFiles
from fedprofit.server.steps.base import Reducer
from fedprofit.server.steps.mean import Mean
from fedprofit.server.store import ClientStore
from fedprofit.server.update import Chain, checked_chain

NAMES, EXAMPLES = ["ann", "bob", "cat", "dan"], [4.0, 1.0, 0.0, 2.0]  # cat returned nothing


def chain_of(component):
    reduces = isinstance(component, Reducer)
    steps = {"client": (component, Mean()), "reduce": (component,), "server": (Mean(), component)}
    assert (component.stage == "reduce") == reduces
    return Chain(checked_chain(steps[component.stage]))


def updates(round):
    generator = torch.Generator().manual_seed(round)
    return {
        "prompt": torch.randn(4, 3, 5, generator=generator),
        "scale": torch.randn(4, generator=generator),
    }


def rounds(component, store=None, params=updates, names=NAMES, examples=EXAMPLES, count=3):
    chain = chain_of(component)
    states = chain.init({key: tensor[0] for key, tensor in updates(0).items()})
    store, found = store or ClientStore(), []
    for number in range(1, count + 1):
        one = chain.update(params(number), names, examples, states, 5, number, store)
        states = one.states
        found.append(one)
    return found


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.bytes_up == other.bytes_up
        assert all(torch.equal(tensor, other.delta[key]) for key, tensor in one.delta.items())


def check_shapes_and_types_are_those_of_one_client(component):
    for one in rounds(component):
        assert {k: (t.shape, t.dtype) for k, t in one.delta.items()} == {
            k: (t.shape[1:], t.dtype) for k, t in updates(0).items()
        }
        assert all(torch.isfinite(tensor).all() for tensor in one.delta.values())


def check_same_bits_twice(component):
    assert_same(rounds(component), rounds(component))


def check_client_that_returned_nothing_does_not_count(component):
    """Independent of its numbers, NaN included, and of whether it is in the cohort."""

    def broken(number):
        return {
            key: tensor.index_fill(0, torch.tensor([2]), torch.nan) for key, tensor in updates(number).items()
        }

    def without(number):
        return {key: tensor[[0, 1, 3]] for key, tensor in updates(number).items()}

    found, backing = rounds(component), ClientStore()
    assert_same(rounds(component, backing, broken), found)
    assert not [key for key in backing.backing.rows if key[1] == "cat"]
    fewer = rounds(component, None, without, ["ann", "bob", "dan"], [4.0, 1.0, 2.0])
    for one, other in zip(fewer, found, strict=True):
        assert one.bytes_up == other.bytes_up
        torch.testing.assert_close(one.delta, other.delta, rtol=1e-6, atol=1e-7)


def check_single_client_is_its_own_aggregate_or_less(component):
    """No step enlarges the update of a single client, beyond rounding to 8 bits."""
    params = {key: tensor[:1] for key, tensor in updates(1).items()}
    (one,) = rounds(component, None, lambda _: params, ["ann"], [3.0], 1)
    for key, tensor in one.delta.items():
        sent = params[key][0]
        assert (tensor.abs() <= sent.abs() + sent.abs().max() / 127).all()
        assert ((tensor * sent >= 0) | (tensor.abs() < 1e-6)).all()


def check_inputs_are_unchanged(component):
    given = updates(1)
    rounds(component, None, lambda _: given, count=1)
    assert all(torch.equal(tensor, updates(1)[key]) for key, tensor in given.items())


def check_client_state_survives_save_and_load(component, folder):
    expected = rounds(component)
    chain, states, facts = chain_of(component), {}, {}
    states = chain.init({key: tensor[0] for key, tensor in updates(0).items()})
    for number, other in enumerate(expected, 1):
        files = ClientFiles(folder / "clients", "a", number - 1, facts, "")
        one = chain.update(updates(number), NAMES, EXAMPLES, states, 5, number, ClientStore(files))
        states = one.states
        files.save(number)
        facts = files.facts
        files.tidy()
        assert_same([one], [other])
