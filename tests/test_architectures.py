"""The sweep over architectures: it tells exact, refused and wrong ones apart, and fills all parameters."""

import architectures
import pytest
import torch
from architectures import Finding, counts, examine, page
from tiny_architectures import names, tiny_architecture

from fedprofit.backbone.engine import Engine


@pytest.mark.parametrize(
    ("name", "result", "path", "why"),
    [
        ("mistral", "exact", "fused", ""),
        ("xlnet (one direction)", "exact", "single", "packed: losses differ"),  # max positions is -1
        ("gemma3n_text", "refused", "", "hidden_size_per_layer_input is 8"),
        ("reformer", "refused", "", "cannot be trained by transformers"),
    ],
)
def test_examine_finds_result_and_path(name, result, path, why):
    finding = examine(name)
    assert (finding.result, finding.path) == (result, path)
    assert why in finding.why


def test_examine_reports_a_wrong_path(monkeypatch):
    monkeypatch.setattr(architectures, "make_engine", lambda backbone, **_: Engine(backbone, "packed"))
    finding = examine("phi3")
    assert finding.result == "WRONG"
    assert finding.difference > 100 * architectures.EXACT


def test_examine_reports_a_traceback(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no")

    monkeypatch.setattr(architectures, "make_engine", broken)
    assert examine("llama") == Finding("llama", "TRACEBACK", why="ZeroDivisionError: no")


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt2", "deepseek_v3"])
def test_tiny_architecture_has_no_constant_parameter(name):
    model = tiny_architecture(name)
    constant = [key for key, value in model.state_dict().items() if value.numel() > 1 and value.std() < 0.03]
    assert constant == []
    again = tiny_architecture(name).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_names_lists_each_causal_model_type_once():
    assert len(names()) == len(set(names())) > 60


def test_page_counts_findings_and_escapes_text():
    findings = [Finding("a", "exact", "fused", 1e-6), Finding("b", "refused", why="x | <y>")]
    assert counts(findings).startswith("0 WRONG, 0 TRACEBACK, 1 exact by a fast path, 1 refused")
    text = page(findings)
    assert "| a | fused | 1e-06 |" in text
    assert "| b | x \\| &lt;y> |" in text
