"""Every registered tuner: one table of checks."""

import pytest
import torch
from ragged import ragged_cohort
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.catalogue import field_texts, summary
from fedprofit.config.component import FAMILIES
from fedprofit.core.errors import UserError
from fedprofit.local.optimizer import Adam
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import solve
from fedprofit.runs.checkpoint import load_tensors, save_tensors
from fedprofit.tuner.base import TunerSettings

# Settings other than the defaults, so that a round trip can lose something.
EXAMPLES = {"prompt": {"length": 3, "init": "text", "text": "a house"}}
KINDS = list(FAMILIES["tuner"].all_kinds().items())


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(params=KINDS, ids=[kind for kind, _ in KINDS])
def settings(request):
    kind, component = request.param
    return component(**EXAMPLES.get(kind, {}))


def stacked(params, clients):
    return {key: torch.stack([tensor + 0.01 * k for k in range(clients)]) for key, tensor in params.items()}


def test_settings_round_trip_and_are_documented(settings):
    from fedprofit.config.run import Config

    field = Config.model_fields["tuner"]
    assert issubclass(field.annotation, TunerSettings)
    assert type(settings).model_validate(settings.model_dump(mode="json")) == settings
    assert summary(type(settings))
    assert set(field_texts(type(settings))) == set(type(settings).model_fields)


def test_init_gives_same_bits_and_expected_numbers(settings, backbone):
    tuner = settings.build()
    first, again = tuner.init(backbone, 3), tuner.init(backbone, 3)
    assert set(first) == set(tuner.dimensions)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert sum(tensor.numel() for tensor in first.values()) == settings.expected_numbers(backbone.width)
    assert tuner.apply_one(first).shape == (settings.tokens, backbone.width)
    tuner.check(first, "init")
    tuner.check(stacked(first, 2), "stacked", like=first)


def test_empty_is_the_base_model(settings, backbone):
    tuner = settings.build()
    assert tuner.apply_one(tuner.empty(backbone)).shape == (0, backbone.width)


def test_mix_ends_at_its_two_sides(settings, backbone):
    tuner = settings.build()
    a, b = stacked(tuner.init(backbone, 0), 2), tuner.init(backbone, 1)
    for alpha, end in ((1.0, a), (0.0, b)):
        mixed = tuner.mix(a, b, alpha)
        assert all(torch.equal(mixed[key], end[key].expand_as(mixed[key])) for key in a)


def test_save_and_load_round_trip(settings, backbone, tmp_path):
    tuner, path = settings.build(), tmp_path / "points.safetensors"
    points = {f"step-{n}": stacked(tuner.init(backbone, n), 2) for n in (1, 12)}
    save_tensors(path, tuner.save(points), {})
    found = tuner.load(load_tensors(path)[0], path)
    assert found.keys() == points.keys()
    for label, params in points.items():
        assert all(torch.equal(found[label][key], params[key]) for key in params)


def test_load_names_file_and_tensor_that_it_lacks(settings, backbone, tmp_path):
    tuner, path = settings.build(), tmp_path / "points.safetensors"
    tensors = tuner.save({"last": tuner.init(backbone, 0)})
    name = next(iter(tensors))
    with pytest.raises(UserError, match=r"points.safetensors: holds the tensor 'last.odd'"):
        tuner.load({**tensors, "last.odd": tensors[name]}, path)
    if len(tensors) > 1:
        del tensors[name]
        with pytest.raises(UserError, match=rf"points.safetensors: lacks the tensor '{name}'"):
            tuner.load(tensors, path)


def test_solver_trains_clients_as_the_reference_does(settings, backbone):
    tuner, cohort = settings.build(), ragged_cohort(0)
    start = stacked(tuner.init(backbone, 0), len(cohort))
    result, _ = solve(Engine(backbone, "packed"), start, cohort, Adam(rate=0.01), tuner=tuner)
    expected, _ = Sequential(backbone, tuner=tuner).solve(start, cohort, Adam(rate=0.01))
    for key in start:
        torch.testing.assert_close(result.params[key], expected.params[key], rtol=1e-4, atol=1e-5)
