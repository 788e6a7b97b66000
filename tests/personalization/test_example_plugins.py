"""Example personalizations through YAML: trained, scored, resumed; and errors of broken ones."""

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config

import fedprofit
from fedprofit import plugins
from fedprofit.config.component import all_families
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.runs.checkpoint import load_tensors
from fedprofit.runs.folder import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"

BROKEN = '''
from fedprofit.personalization.finetune import FineTune


class Broken(FineTune, kind="broken"):
    """Returns NaN for one client."""

    def build(self, solver):
        inner = super().build(solver)

        def tune(start, clients, examples, seed):
            done = inner(start, clients, examples, seed)
            done.points[2]["prompt"][1] = float("nan")
            return done

        return tune
'''


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Remove components that a test registers."""
    for family in all_families():
        monkeypatch.setattr(family, "kinds", dict(family.kinds))
    monkeypatch.setattr(plugins, "_files", {})


def small_run(folder, *personalization):
    """Write a run of one round without baselines, and read it."""
    config = tiny_config(folder, personalization=list(personalization))
    config["training"] |= {"rounds": 1, "algorithms": config["training"]["algorithms"][1:]}
    config["baselines"] = {"local": None, "central": None}
    config["evaluation"] |= {"metrics": ["loss"], "unseen_examples": 0}
    path = folder / "run.yaml"
    path.write_text(yaml_text.dump(config), encoding="utf-8")
    return fedprofit.load_config(path)


def prompts(folder, name):
    tensors, _ = load_tensors(RunFolder(folder).prompts(name), torch.device("cpu"))
    return tensors


def test_example_plugins_run_through_yaml(tmp_path):
    plugins.load_files([EXAMPLES / "kl_anchor.py", EXAMPLES / "shared_rows.py"])
    client = {"kind": "adam", "rate": 0.05}
    config = small_run(
        tmp_path,
        {"kind": "finetune", "steps": 4, "client": client},
        {"kind": "kl_anchor", "steps": 4, "client": client, "weight": 0.0, "name": "free"},
        {"kind": "kl_anchor", "steps": 4, "client": client, "weight": 100.0, "evaluate_at": [2]},
        {"kind": "private_rows", "steps": 4, "client": client, "private": 1},
    )
    folder = fedprofit.run(config, tmp_path / "out").path
    start = prompts(folder, "federated-sgd")["last.prompt"]
    names = ("finetune", "free", "kl_anchor", "private_rows")
    tuned, free, near, private = (prompts(folder, f"personalized-sgd-{n}")["step-4.prompt"] for n in names)
    torch.testing.assert_close(free, tuned)
    assert torch.equal(private[:, :-1], start[:-1].expand(2, -1, -1))
    assert not torch.equal(private[:, -1], start[-1].expand(2, -1))
    assert not torch.equal(near, tuned)
    scores = fedprofit.read_results(folder)
    assert set(scores.filter(setting="kl_anchor")["step"]) == {2, 4}
    recorded = read_json(folder / "environment.json", "", [])
    assert "personalization kl_anchor" in str(recorded)
    prompt = RunFolder(folder).prompts("personalized-sgd-kl_anchor")
    for path in (prompt, RunFolder(folder).part("personalized-sgd-kl_anchor"), RunFolder(folder).results):
        path.unlink()
    again = fedprofit.run(config, tmp_path / "out", resume=True).path
    assert torch.equal(prompts(again, "personalized-sgd-kl_anchor")["step-4.prompt"], near)
    assert fedprofit.read_results(again).equals(scores)


def test_broken_personalization_leaves_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(BROKEN, encoding="utf-8")
    plugins.load_files([path])
    config = small_run(tmp_path, {"kind": "broken", "steps": 2})
    said = r"mine.py:5: the personalization 'broken' \(broken\): returned parameters that are not finite"
    with pytest.raises(UserError, match=said):
        fedprofit.run(config, tmp_path / "out")
    folder = RunFolder(tmp_path / "out")
    assert not folder.results.exists()
    assert not folder.part("personalized-sgd-broken").exists()
    assert not folder.prompts("personalized-sgd-broken").exists()
