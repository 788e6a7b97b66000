"""Runs of methods with client state through YAML: stopped and resumed, scored, in both regimes."""

import json

import polars as pl
import pytest
from examples_plugins import plugin_options
from tiny_run import call, tiny_config, write_config

import fedprofit
from fedprofit.core.errors import UserError
from fedprofit.runs import train as training
from fedprofit.runs.checkpoint import load_tensors

ALGORITHMS = [
    {"kind": "scaffold", "steps": 2, "rate": 0.1},
    {"kind": "ditto", "steps": 2},
    {
        "kind": "fedavg",
        "name": "sparse",
        "steps": 2,
        "aggregate": [{"kind": "top_k", "share": 0.1}, {"kind": "quantize"}, {"kind": "my_trimmed_mean"}],
    },
]
STATES = ("scaffold", "ditto", "sparse")


def changes(**more):
    return {
        "training": {"rounds": 3, "cohort": 2, "evaluate_every": 1, "algorithms": ALGORITHMS},
        "baselines": {"local": None, "central": None},
        **more,
    }


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    config = write_config(folder, **changes())
    options = plugin_options("scaffold", "ditto", "trimmed_mean")
    done = call("run", config, "--out", folder / "run", "--quiet", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return config, folder / "run"


def test_plugins_are_trained_scored_and_recorded(complete):
    _, run = complete
    results = pl.read_parquet(run / "results.parquet")
    found = results.filter(condition="federated")["algorithm"].unique().to_list()
    assert sorted(found) == sorted(STATES)
    own = results.filter(condition="personal")
    assert own["algorithm"].unique().to_list() == ["ditto"]
    assert own["client"].n_unique() == 2
    assert set(own["scope"]) >= {"local", "global"}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["regime"] == "new"
    assert set(environment["plugins"]) == {
        "algorithm scaffold",
        "algorithm ditto",
        "aggregation step my_trimmed_mean",
    }
    assert all((run / "client-states" / name).is_dir() for name in STATES)
    budget = json.loads((run / "summary.json").read_text())["budget"]
    assert budget["scaffold"]["bytes_up"] == 2 * budget["ditto"]["bytes_up"]
    assert budget["sparse"]["bytes_up"] < budget["ditto"]["bytes_up"] / 5


@pytest.mark.parametrize("saves", [2, 5, 8])
def test_run_stopped_before_checkpoint_resumes_to_same_bits(complete, tmp_path, monkeypatch, saves):
    """At the worst moment: a round's client states are written, but not the server's."""
    from examples_plugins import load_examples

    load_examples()
    config, reference = complete
    left = [saves]

    def stop(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        save(*arguments)

    save = training.save_state
    monkeypatch.setattr(training, "save_state", stop)
    loaded = fedprofit.load_config(config)
    with pytest.raises(KeyboardInterrupt):
        fedprofit.run(loaded, tmp_path / "run")
    monkeypatch.undo()
    fedprofit.run(loaded, tmp_path / "run", resume=True)
    for name in ("results.parquet", "summary.json"):
        assert (tmp_path / "run" / name).read_bytes() == (reference / name).read_bytes(), name


def test_participating_regime_scores_train_clients(tmp_path):
    from examples_plugins import load_examples

    load_examples()
    evaluation = {**tiny_config(tmp_path)["evaluation"], "regime": "participating", "metrics": ["loss"]}
    ditto = {"rounds": 2, "cohort": 3, "evaluate_every": 1, "algorithms": [ALGORITHMS[1]]}
    given = tiny_config(tmp_path, **changes(evaluation=evaluation, training=ditto, personalization=[]))
    given["data"]["clients"] = {"train": 3, "validation": 1, "test": 0}
    config = fedprofit.from_mapping(given)
    folder = fedprofit.run(config, tmp_path / "run")
    results = pl.read_parquet(folder.results)
    clients = pl.read_parquet(folder.clients)
    train = clients.filter(group="train")["client"].unique().sort().to_list()
    assert results["client"].unique().sort().to_list() == train
    assert folder.read_environment()["regime"] == folder.read_summary()["regime"] == "participating"
    kept, _ = load_tensors(folder.prompts("personal-ditto"))
    state = training.ClientFiles(folder.client_states("ditto"), "ditto", 2, checkpoint_facts(folder), "")
    rows = [state.read("personal", client)["prompt"] for client in train]
    assert [row.tolist() for row in rows] == kept["step-2.prompt"].tolist()


def checkpoint_facts(folder):
    _, facts = load_tensors(folder.checkpoint("ditto"))
    return facts


def test_damaged_client_states_are_named_on_resuming(complete, tmp_path):
    import shutil

    from examples_plugins import load_examples

    load_examples()
    config, reference = complete
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    file = max((tmp_path / "run" / "client-states" / "ditto").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        fedprofit.run(fedprofit.load_config(config), tmp_path / "run", resume=True)
    assert str(file) in str(caught.value)
    checkpoint = tmp_path / "run" / "checkpoints" / "ditto.safetensors"
    assert f"Delete {checkpoint} to train 'ditto' again" in str(caught.value)
