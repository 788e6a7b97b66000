"""Every registered predictor and gate rule: one table of checks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.catalogue import field_texts, summary
from fedprofit.config.component import FAMILIES
from fedprofit.predict.base import PredictorContext, PredictorSettings, build_predictor
from fedprofit.predict.gate import Gate
from fedprofit.runs.checkpoint import load_tensors, save_tensors
from fedprofit.tuner.prompt import SoftPrompt

CLIENTS = ["ann", "bob", "cid"]
TUNER = SoftPrompt(length=2).build()
# Settings other than the defaults, so that a round trip can lose something.
EXAMPLES = {"interpolated": {"alpha": 0.25}, "ensemble": {"weight": 0.7}, "likelihood": {"margin": 0.01}}
PREDICTORS = [
    component(**EXAMPLES.get(kind, {}))
    for kind, component in FAMILIES["predictor"].all_kinds().items()
    if component is not Gate
]
GATES = [
    Gate(rule=rule(**EXAMPLES.get(kind, {}))) for kind, rule in FAMILIES["gate rule"].all_kinds().items()
]
ALL = PREDICTORS + GATES


def name_of(settings):
    return f"gate-{settings.rule.kind}" if isinstance(settings, Gate) else settings.kind


def context(engine, clients=CLIENTS):
    draw = torch.Generator().manual_seed(1)
    width = engine.backbone.width
    personal = torch.randn(len(CLIENTS), 2, width, generator=draw) * 0.3
    federated = torch.randn(2, width, generator=draw) * 0.3
    chosen = [CLIENTS.index(client) for client in clients]

    def examples(client):
        return ragged_batch(50 + CLIENTS.index(client), CLIENTS.index(client))  # ann has none

    return PredictorContext(
        engine, TUNER, {"prompt": personal[chosen]}, {"prompt": federated}, clients, examples
    )


def rows_of(clients=CLIENTS):
    return [
        Row(place, example)
        for place, client in enumerate(clients)
        for example in ragged_batch(CLIENTS.index(client), 4)
    ]


@pytest.fixture(params=ALL, ids=map(name_of, ALL))
def settings(request):
    return request.param


@pytest.fixture(params=["llama", "gpt2"])
def engine(request):
    return Engine(tiny_backbone(request.param), "packed")


def test_settings_round_trip_and_are_documented(settings):
    assert isinstance(settings, PredictorSettings)
    for one in [settings, *([settings.rule] if isinstance(settings, Gate) else [])]:
        assert type(one).model_validate(one.model_dump(mode="json")) == one
        assert summary(type(one))
        assert set(field_texts(type(one))) == set(type(one).model_fields)


def test_cost_counts_passes_tokens_and_numbers(settings):
    cost = settings.cost(tokens=2, parameters=64, width=32, examples=5)
    assert cost.passes >= 1
    assert cost.tokens == 2 * cost.passes
    assert cost.numbers >= 64


def test_same_predictor_gives_same_bits(settings, engine):
    results = [build_predictor(settings, context(engine)).answer(rows_of(), 3) for _ in range(2)]
    (first, answers), (again, repeated) = results
    assert torch.equal(first, again)
    assert answers == repeated


def test_clients_together_equal_single_clients(settings, engine):
    together = build_predictor(settings, context(engine))
    assert len(together) == len(CLIENTS)
    losses, answers = together.answer(rows_of(), 3)
    torch.testing.assert_close(together.score(rows_of()), losses, rtol=1e-5, atol=1e-5)
    single = [
        build_predictor(settings, context(engine, [client])).answer(rows_of([client]), 3)
        for client in CLIENTS
    ]
    torch.testing.assert_close(losses, torch.cat([one for one, _ in single]), rtol=1e-5, atol=1e-5)
    assert answers == [answer for _, found in single for answer in found]


def test_generation_equals_a_manual_loop_over_losses(settings, engine, monkeypatch):
    """The greedy token is the one that lengthens the target at the least loss."""
    backbone = engine.backbone
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", list(range(1, 300, 12)))
    predictor, rows = build_predictor(settings, context(engine)), rows_of()[3:6]
    _, answers = predictor.answer(rows, 3)
    for row, answer in zip(rows, answers, strict=True):
        expected: list[int] = []
        while len(expected) < 3:
            targets = [np.array([*expected, v], dtype=np.int32) for v in range(backbone.vocabulary_size)]
            longer = [Row(row.owner, replace(row.example, target=target)) for target in targets]
            best = int(predictor.score(longer).argmin())
            if best in backbone.eos_token_ids:
                break
            expected.append(best)
        assert answer == expected


def test_saved_parameters_predict_the_same_bits(settings, engine, tmp_path):
    before, path = context(engine), tmp_path / "points.safetensors"
    save_tensors(path, TUNER.save({"personal": before.personal, "federated": before.federated}), {})
    after = replace(before, **TUNER.load(load_tensors(path)[0], path))
    losses = [build_predictor(settings, one).score(rows_of()) for one in (before, after)]
    assert torch.equal(*losses)


def test_client_with_nan_does_not_affect_others(settings, engine):
    clean = context(engine)
    broken = replace(clean, personal={key: tensor.clone() for key, tensor in clean.personal.items()})
    broken.personal["prompt"][1] = torch.nan
    expected = build_predictor(settings, clean).score(rows_of())
    found = build_predictor(settings, broken, finite=False).score(rows_of())
    others = [number for number, row in enumerate(rows_of()) if row.owner != 1]
    torch.testing.assert_close(found[others], expected[others], rtol=1e-5, atol=1e-5)
