"""Checks of every personalization, built in or an example plug-in.

Registered personalizations are in the table automatically.
"""

import inspect
from pathlib import Path

import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone, tiny_model

from fedprofit import plugins
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.load import Backbone
from fedprofit.catalogue import field_texts
from fedprofit.config.component import FAMILIES, all_families
from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.core import yaml_text
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import Vectorized
from fedprofit.personalization.base import PersonalizationSettings, personalize

PLUGINS = sorted((Path(__file__).parents[2] / "examples" / "plugins").glob("*.py"))
CLIENTS = ["ann", "bob", "cid"]  # with seven examples, three and none
DATA = {"ann": ragged_batch(1, 7), "bob": ragged_batch(2, 3), "cid": []}
POISON = 299  # a token whose embedding is NaN in one test


def collected() -> dict[str, type[PersonalizationSettings]]:
    """Return all personalizations by kind, and leave the registry as it was."""
    before = {family.name: dict(family.kinds) for family in all_families()}
    plugins.load_files(PLUGINS)
    found = dict(FAMILIES["personalization"].kinds)
    for name, kinds in before.items():
        ADDED[name] = {k: c for k, c in FAMILIES[name].kinds.items() if k not in kinds}
        FAMILIES[name].kinds = kinds
    return found


ADDED: dict[str, dict] = {}
ALL = collected()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register the plug-ins' components for one test."""
    for name, kinds in ADDED.items():
        monkeypatch.setattr(FAMILIES[name], "kinds", FAMILIES[name].kinds | kinds)


@pytest.fixture(params=ALL.values(), ids=ALL)
def component(request):
    """Each personalization in turn."""
    return request.param


@pytest.fixture
def settings(component):
    """A short training with it."""
    wanted = {"steps": 3, "batch_size": 2, "evaluate_at": (1,)}
    return component(**{name: value for name, value in wanted.items() if name in component.model_fields})


def start_of(backbone):
    generator = torch.Generator().manual_seed(7)
    return {"prompt": torch.randn(6, backbone.width, generator=generator) * 0.3}


def assert_alike(one, other):
    assert one.clients == other.clients
    assert one.points.keys() == other.points.keys()
    for step, params in one.points.items():
        torch.testing.assert_close(params, other.points[step], rtol=1e-4, atol=1e-4)
    assert (one.result.steps, one.result.stopped) == (other.result.steps, other.result.stopped)
    assert one.result.tokens == other.result.tokens


def test_personalization_matches_reference_for_ragged_clients(settings):
    backbone = tiny_backbone()
    solvers = (
        Sequential(backbone),
        Vectorized(Engine(backbone, "packed")),
        Vectorized(Engine(backbone, "packed", 40)),
    )
    expected, *found = (
        personalize(settings, solver, start_of(backbone), CLIENTS, DATA.__getitem__, 0) for solver in solvers
    )
    for done in found:
        assert_alike(done, expected)
    last = expected.points[max(expected.points)]["prompt"]
    start = start_of(backbone)["prompt"]
    assert torch.equal(last[2], start), "a client without data stays"
    assert not torch.equal(last[0], start)


def test_personalization_stops_the_client_with_nan_only(settings):
    model = tiny_model("llama").requires_grad_(False).eval()
    model.get_input_embeddings().weight[POISON] = float("nan")
    own = tiny_backbone()
    poisoned = Backbone("poisoned", model, own.tokenizer, own.device, own.dtype, "poisoned")
    data = {**DATA, "bob": ragged_batch(2, 3)}
    for example in data["bob"]:
        example.source[0] = POISON
    clean = {"ann": [e for e in DATA["ann"] if POISON not in [*e.prefix, *e.source, *e.target]], "cid": []}
    start = start_of(own)
    expected = personalize(settings, Sequential(poisoned), start, CLIENTS, (data | clean).__getitem__, 0)
    assert list(expected.result.stopped) == ["bob"]
    done = personalize(
        settings, Vectorized(Engine(poisoned, "packed")), start, CLIENTS, (data | clean).__getitem__, 0
    )
    assert_alike(done, expected)
    assert torch.equal(done.points[max(done.points)]["prompt"][1], start["prompt"])


def test_personalization_gives_the_same_bits_twice(settings):
    backbone = tiny_backbone()
    solver, start = Vectorized(Engine(backbone, "packed")), start_of(backbone)
    one, other = (personalize(settings, solver, start, CLIENTS, DATA.__getitem__, 0) for _ in range(2))
    for step, params in one.points.items():
        assert torch.equal(params["prompt"], other.points[step]["prompt"])
    assert torch.equal(start["prompt"], start_of(backbone)["prompt"]), "the start is not changed"


def test_personalization_accepts_no_clients_and_no_examples(settings):
    backbone = tiny_backbone()
    for solver in (Sequential(backbone), Vectorized(Engine(backbone, "packed"))):
        done = personalize(settings, solver, start_of(backbone), ["cid"], DATA.__getitem__, 0)
        assert torch.equal(done.points[max(done.points)]["prompt"][0], start_of(backbone)["prompt"])


def test_personalization_round_trips_through_yaml(settings):
    config = from_mapping(
        {
            "name": "demo",
            "data": {"source": {"kind": "lexicon"}},
            "training": {"algorithms": [{"kind": "fedavg", "steps": 1}]},
            "personalization": [settings.model_dump(mode="json")],
        }
    )
    assert config.personalization == (settings,)
    assert from_mapping(yaml_text.load(to_yaml(config))) == config


def test_personalization_is_documented(component):
    assert inspect.cleandoc(component.__doc__).partition("\n")[0].endswith(".")
    undocumented = component.model_fields.keys() - field_texts(component).keys()
    assert not undocumented
