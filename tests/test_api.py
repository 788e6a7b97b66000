"""The functions of the Python API, on a tiny model and rows in memory."""

import json

import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from tiny import tiny_folder
from tiny_run import write_table
from transformers import AutoModelForCausalLM, AutoTokenizer

import fedprofit as fp
from fedprofit.config.run import DEFAULT_BASELINES
from fedprofit.core.errors import UserError

COLUMNS = {"client": "who", "input": "ask", "target": "want", "task": "job"}
SMALL = {
    "evaluation": {"max_new_tokens": 4, "global_examples": 6, "unseen_examples": 0},
    "clients": {"train": 3, "validation": 1, "test": 2},
    "tuner": fp.SoftPrompt(length=3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def rows(folder):
    return [json.loads(line) for line in write_table(folder / "table.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def bench(folder, rows):
    place = tiny_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    pair = (model, AutoTokenizer.from_pretrained(place))
    return fp.open_bench(rows, pair, columns=COLUMNS, **SMALL)


@pytest.fixture(scope="module")
def federated(bench):
    return fp.train(bench, fp.FedAvg(steps=2), rounds=2, cohort=2, progress=False)


@pytest.fixture(scope="module")
def personal(bench, federated):
    return fp.personalize(bench, federated, fp.FineTune(steps=3, evaluate_at=[1], interpolation=[0.5]))


def test_api_scores_equal_those_of_a_run(folder, rows, bench, federated, personal):
    scores = fp.score(bench, federated, personal)
    config = fp.from_mapping(
        {
            "name": "same",
            "backbone": {"name": str(tiny_folder(folder)), "dtype": "float32"},
            "data": {"source": fp.dataset(rows, COLUMNS), "clients": SMALL["clients"]},
            "tuner": {"length": 3},
            "training": {"rounds": 2, "cohort": 2, "algorithms": [{"kind": "fedavg", "steps": 2}]},
            "personalization": [{"steps": 3, "evaluate_at": [1], "interpolation": [0.5]}],
            "baselines": dict.fromkeys(DEFAULT_BASELINES),
            "evaluation": SMALL["evaluation"],
        }
    )
    run = fp.read_results(fp.run(config, folder / "run").path)
    keys = [name for name in scores.columns if name not in ("value", "setting_id")]
    same = scores.join(run, on=keys, how="full", nulls_equal=True, suffix="_run")
    assert len(same) == len(scores) == len(run)
    assert same["value"].to_list() == pytest.approx(same["value_run"].to_list(), abs=1e-5)


def test_model_in_memory_equals_its_folder(folder, rows, bench, federated):
    other = fp.open_bench(rows, tiny_folder(folder), columns=COLUMNS, backbone={"dtype": "float32"}, **SMALL)
    again = fp.train(other, fp.FedAvg(steps=2), rounds=2, cohort=2, progress=False)
    torch.testing.assert_close(again.last, federated.last, rtol=1e-5, atol=1e-5)


def test_training_resumes_in_a_folder(tmp_path, bench, federated):
    fp.train(bench, fp.FedAvg(steps=2), rounds=1, cohort=2, folder=tmp_path, progress=False)
    stored = fp.train(bench, fp.FedAvg(steps=2), rounds=2, cohort=2, folder=tmp_path, progress=False)
    assert stored.rounds == 2
    assert all(torch.equal(stored.last[key], federated.last[key]) for key in federated.last)


def test_answers_are_those_of_the_parameters(bench, federated, personal):
    client = personal.tuned.clients[1]
    asked = ["red blue green", "sand rose lime"]
    for what, name in ((None, None), (federated, None), (personal, client)):
        found = fp.answer(bench, what, asked, client=name, max_new_tokens=3)
        assert len(found) == 2
        assert all(isinstance(one, str) for one in found)
    with pytest.raises(UserError, match=r"client None has no personal parameters \(clients: c"):
        fp.answer(bench, personal, asked)


def test_scores_are_averaged_and_drawn(bench, federated, personal):
    scores = fp.score(bench, federated, personal)
    means = fp.summarize(scores).filter(pl.col("metric") == "loss")
    assert {"base", "federated", "personalized"} == set(means["condition"])
    figure = fp.plot(scores)
    assert isinstance(figure, Figure)
    assert len(figure.axes) >= 1
    assert figure._repr_png_().startswith(b"\x89PNG"), "notebooks show it inline"


def test_algorithm_with_client_state_is_trained(bench):
    from fedprofit import plugins

    plugins.load_files(["examples/plugins/ditto.py"])
    from fedprofit.config.component import FAMILIES

    ditto = FAMILIES["algorithm"].find("ditto")
    found = fp.train(bench, ditto(steps=1), rounds=1, cohort=2, progress=False)
    assert found.personal is not None
    assert next(iter(found.personal(list(bench.sets.clients)).values())).shape[0] == 2


def test_wrong_model_is_named(rows):
    with pytest.raises(UserError, match=r"model: found int. Give a name"):
        fp.open_bench(rows, 3, columns=COLUMNS)


def test_public_names_are_listed_and_defined():
    listed = [name for name in dir(fp) if not name.startswith("_")]
    assert {"FedAvg", "FineTune", "open_bench", "run", "score", "study", "train"} <= set(listed)
    assert all(getattr(fp, name) is not None for name in listed)
    assert all(getattr(fp, name).__doc__ for name in listed)
