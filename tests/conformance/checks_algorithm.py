"""Checks of every algorithm, on a small federation of ragged clients."""

from dataclasses import replace

import torch
from federation import ROUNDS, cohort_of, run, sequential, start

from fedprofit.core.types import ClientBatches
from fedprofit.runs.checkpoint import load_state, save_state
from fedprofit.runs.client_files import ClientFiles
from fedprofit.server.store import ClientStore


def check_vectorized_equals_sequential(component):
    _, _, ours, reports = run(component)
    _, _, theirs, expected = run(component, sequential())
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-3, atol=1e-4)
    assert (ours.params["prompt"] - start()["prompt"]).norm() > 1e-3, "nothing was trained"
    for one, other in zip(reports, expected, strict=True):
        assert abs(one.loss - other.loss) < 1e-3
        assert (one.steps, one.bytes_up, one.bytes_down) == (other.steps, other.bytes_up, other.bytes_down)


def check_same_bits_twice(component):
    (_, _, first, reports), (_, _, second, others) = run(component), run(component)
    assert_same(first, second)
    assert reports == others


def check_client_without_data_changes_nothing(component):
    def without(number):
        return [one for one in cohort_of(number) if one.batches]

    (_, _, ours, reports), (_, _, theirs, others) = run(component), run(component, assign=without)
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-5, atol=1e-6)
    assert [one.bytes_up for one in reports] == [one.bytes_up for one in others]


def check_round_without_data_changes_nothing(component):
    idle = [ClientBatches("a", (), 0), ClientBatches("b", (), 0)]
    _, context, state, reports = run(component, assign=lambda _: idle)
    assert torch.equal(state.params["prompt"], start()["prompt"])
    assert state.round == ROUNDS
    assert all((one.steps, one.tokens, one.bytes_up) == (0, 0, 0) for one in reports)
    assert not getattr(context.clients.backing, "rows", {}), "an idle client has state"


def check_client_with_nan_is_excluded_and_named(component):
    def without(number):
        return [one for one in cohort_of(number) if one.client != "c0"]

    _, context, ours, reports = run(component, broken=("c0",))
    _, _, theirs, _ = run(component, assign=without)
    assert torch.isfinite(ours.params["prompt"]).all()
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-5, atol=1e-6)
    assert all(list(one.stopped) == ["c0"] and "not finite" in one.stopped["c0"] for one in reports)
    rows = context.clients.backing.rows
    assert not [key for key in rows if key[1] == "c0"], "a stopped client has state"


def check_round_changes_neither_state_nor_cohort(component):
    algorithm, context, state, _ = run(component)
    before = {key: tensor.clone() for key, tensor in state.params.items()}
    first, _ = algorithm.round(state, cohort_of(4), context.at(4))
    assert torch.equal(state.params["prompt"], before["prompt"])
    assert first.round == state.round + 1 == 4


def check_state_survives_save_and_load(component, folder):
    """Stopping after each round and resuming from the files is bit-identical to an uninterrupted run."""
    _, reference, expected, _ = run(component)
    state, facts = None, {}
    for number in range(1, ROUNDS + 1):
        files = ClientFiles(folder / "clients", "a", number - 1, facts, "")
        algorithm, context, _, _ = run(component, state=replace(expected, round=ROUNDS))
        context = replace(context, clients=ClientStore(files))
        state = state or algorithm.init(start())
        state, _ = algorithm.round(state, cohort_of(number), context.at(number))
        files.save(number)
        save_state(folder / "server.safetensors", state, state.params, files.facts)
        files.tidy()
        state, _, facts = load_state(folder / "server.safetensors", torch.device("cpu"))
    assert_same(state, expected)
    for (name, client), row in reference.clients.backing.rows.items():
        kept = files.read(name, client)
        assert kept is not None
        assert all(torch.equal(kept[key], row[key]) for key in row)


def check_personal_parameters_fit(component):
    algorithm, context, state, _ = run(component)
    if algorithm.personal is not None:
        cohort = [*cohort_of(9), ClientBatches("new", cohort_of(9)[0].batches, 5.0)]
        found = algorithm.personal(state, cohort, context)["prompt"]
        assert found.shape == (5, *state.params["prompt"].shape)
        assert torch.isfinite(found).all()
        assert context.clients.has("personal", ["new"]) == [False], "scoring leaves state"


def assert_same(one, other):
    assert one.round == other.round
    for ours, theirs in (
        ({"params": one.params}, {"params": other.params}),
        (one.optimizer, other.optimizer),
        (one.extra, other.extra),
    ):
        assert ours.keys() == theirs.keys()
        for name, tensors in ours.items():
            assert tensors.keys() == theirs[name].keys()
            assert all(torch.equal(tensor, theirs[name][key]) for key, tensor in tensors.items()), name
