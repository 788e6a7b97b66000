"""Predictors, compared with their definitions, and errors."""

import textwrap
from dataclasses import replace

import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit import plugins
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.config.component import FAMILIES
from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.predict.base import PredictorContext, Prompted, build_predictor
from fedprofit.predict.ensemble import Ensemble
from fedprofit.predict.gate import Gate
from fedprofit.predict.interpolated import Interpolated
from fedprofit.predict.rule import GateRule, Likelihood
from fedprofit.predict.single import Single
from fedprofit.tuner.prompt import SoftPrompt

ROWS = [Row(owner, example) for owner in range(2) for example in ragged_batch(owner, 6)]


@pytest.fixture
def context():
    engine, draw = Engine(tiny_backbone("llama"), "packed"), torch.Generator().manual_seed(1)
    personal = torch.randn(2, 3, 32, generator=draw) * 0.3
    federated = torch.randn(3, 32, generator=draw) * 0.3
    tuner = SoftPrompt(length=3).build()
    return PredictorContext(
        engine, tuner, {"prompt": personal}, {"prompt": federated}, ["ann", "bob"], lambda _: []
    )


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Remove components that a test registers."""
    for name in ("predictor", "gate rule"):
        FAMILIES[name].all_kinds()
        monkeypatch.setattr(FAMILIES[name], "kinds", dict(FAMILIES[name].kinds))
    monkeypatch.setattr(plugins, "_files", {})


def federated(context):
    prompt = context.federated["prompt"].expand(2, -1, -1)
    return Prompted(context.engine, prompt).answer(ROWS, 3)


def test_ends_of_weights_are_single_and_federated(context):
    single = build_predictor(Single(), context).answer(ROWS, 3)
    for settings, (losses, answers) in (
        (Interpolated(alpha=1.0), single),
        (Interpolated(alpha=0.0), federated(context)),
        (Ensemble(weight=1.0), single),
        (Ensemble(weight=0.0), federated(context)),
    ):
        found, tokens = build_predictor(settings, context).answer(ROWS, 3)
        torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-5)
        assert tokens == answers


def test_gate_answers_each_row_by_one_side(context):
    gate = build_predictor(Gate(rule=Likelihood()), context)
    chosen = Likelihood().build(context)(ROWS)
    assert 0 < int(chosen.sum()) < len(ROWS), "some rows of either kind"
    own, tokens = build_predictor(Single(), context).answer(ROWS, 3)
    shared, others = federated(context)
    losses, answers = gate.answer(ROWS, 3)
    torch.testing.assert_close(losses, own.where(chosen, shared), rtol=1e-6, atol=1e-6)
    assert answers == [a if c else b for a, b, c in zip(tokens, others, chosen, strict=True)]
    never = build_predictor(Gate(rule=Likelihood(margin=1e6)), context)
    torch.testing.assert_close(never.score(ROWS), shared, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"personal": {"lora": torch.zeros(2, 3, 32)}},
            "personal parameters: the tuner 'prompt' has the tensors",
        ),
        (
            {"federated": {"prompt": torch.zeros(3)}},
            r"federated parameters: the tensor 'prompt' .* shape \[3\]",
        ),
        ({"personal": {"prompt": torch.zeros(2, 4, 32)}}, r"has the shape \[2, 4, 32\]; give \[3, 32\]"),
        ({"personal": {"prompt": torch.zeros(3, 3, 32)}}, r"one set for each of 2 clients \(found 3\)"),
        ({"personal": {"prompt": torch.full((2, 3, 32), torch.nan)}}, "holds NaN or infinity"),
    ],
)
def test_wrong_parameters_are_refused_by_name(context, changes, said):
    with pytest.raises(UserError, match=rf"^predictor 'single', .*{said}"):
        build_predictor(Single(), replace(context, **changes))


PREDICTOR = '''
import torch
from fedprofit.predict.base import PredictorSettings

class Odd(PredictorSettings, kind="odd"):
    """A predictor that goes wrong."""

    def build(self, context):
        return self.Made()

    class Made:
        def __len__(self):
            return {clients}

        def score(self, rows):
            return {losses}

        def answer(self, rows, max_new_tokens):
            return torch.zeros(len(rows)), {answers}
'''


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": "5"}, "answers for 5 clients; there are 2"),
        ({"losses": "torch.zeros(1)"}, r"`score` returned losses of shape \[1\] for 12 rows"),
        ({"losses": "torch.full((len(rows),), torch.nan)"}, "`score` returned NaN as a loss"),
        ({"answers": "[]"}, "`answer` returned 0 answers for 12 rows"),
    ],
)
def test_faulty_plugin_predictor_is_named_with_file(context, tmp_path, changes, said):
    values = {"clients": "2", "losses": "torch.zeros(len(rows))", "answers": "[[]] * len(rows)"}
    path = tmp_path / "odd.py"
    path.write_text(PREDICTOR.format(**values | changes), encoding="utf-8")
    plugins.load_files([path])
    settings = FAMILIES["predictor"].find("odd")()
    with pytest.raises(UserError, match=rf"^{path}:5: .*predictor 'odd'.*{said}"):
        _scored_and_answered(settings, context)


def _scored_and_answered(settings, context):
    predictor = build_predictor(settings, context)
    return predictor.score(ROWS), predictor.answer(ROWS, 3)


RULE = '''
import torch
from fedprofit.predict.rule import GateRule

class Odd(GateRule, kind="odd"):
    """A rule that goes wrong."""

    def build(self, context):
        return lambda rows: {chosen}
'''


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("torch.zeros(2, dtype=torch.bool)", r"returned torch.bool \[2\] for 12 rows"),
        ("torch.full((len(rows),), torch.nan)", r"returned torch.float32 \[12\]"),
        ("[True] * len(rows)", "returned <class 'list'>"),
    ],
)
def test_faulty_gate_rule_is_named_with_file(context, tmp_path, chosen, said):
    path = tmp_path / "odd.py"
    path.write_text(textwrap.dedent(RULE.format(chosen=chosen)), encoding="utf-8")
    plugins.load_files([path])
    gate = build_predictor(Gate(rule=GateRule.family.find("odd")()), context)
    with pytest.raises(UserError, match=rf"^{path}:5: gate rule 'odd': {said}"):
        gate.score(ROWS)


@pytest.mark.parametrize(
    ("predictors", "said"),
    [
        ([{"kind": "gate"}, {"kind": "gate"}], "predictors: two entries have the same name"),
        ([{"kind": "gates"}], r"'personalization.0.predictors.0.*there is no predictor 'gates'.*'gate'"),
        ([{"kind": "interpolated", "alpha": 2}], r"'personalization.0.predictors.0.alpha': should be less"),
        (
            [{"kind": "gate", "rule": {"kind": "likelihood", "margin": "x"}}],
            r"'personalization.0.predictors.0.rule.margin': should be a number",
        ),
    ],
)
def test_mistyped_predictors_are_named_in_yaml(predictors, said):
    configuration = {
        "name": "demo",
        "data": {"source": {"kind": "lexicon"}},
        "training": {"algorithms": [{"kind": "fedavg", "steps": 1}]},
        "personalization": [{"kind": "finetune", "steps": 1, "predictors": predictors}],
    }
    with pytest.raises(UserError, match=said):
        from_mapping(configuration)
