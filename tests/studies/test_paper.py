"""The study files in `studies`, checked without running them."""

from pathlib import Path

import polars as pl
import pytest

from fedprofit.data.partition import partition
from fedprofit.data.sources import read_source
from fedprofit.studies.spec import load_study

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "studies" / "paper"
SIZES = {"cpu": (9, 12, 96, 3), "long": (9, 12, 96, 3), "gpu": (15, 20, 300, 5), "8b": (15, 20, 300, 5)}


@pytest.mark.parametrize("name", SIZES)
def test_study_has_settings_that_claims_compare(name):
    runs, clients, examples, rates = SIZES[name]
    _, planned = load_study(PAPER / f"{name}.yaml")
    assert len(planned) == runs
    assert {run.axes["heterogeneity"] for run in planned} == {"task", "tasks", "iid"}
    assert {run.config.data.partition.kind for run in planned} == {"task", "tasks", "iid"}
    for config in (run.config for run in planned):
        tuned = [entry for entry in config.personalization if entry.name.startswith("tune")]
        ordered = sorted(entry.client.rate for entry in tuned)
        assert len(ordered) >= rates
        assert ordered[-1] / ordered[0] >= 100
        assert all(len(entry.evaluate_at) >= 2 for entry in tuned)
        few = next(entry for entry in config.personalization if entry.name == "few")
        proximal = [entry for entry in config.personalization if entry.proximal]
        assert len(few.interpolation) >= 2
        assert len(proximal) >= 2
        assert all((one.steps, one.client) == (few.steps, few.client) for one in proximal)
        assert few.steps < min(entry.steps for entry in tuned)
        assert list(config.training.methods) == ["fedavg-adam", "fedavg-sgd", "fedsgd"]
        assert {"local", "central", "majority", "copy_input", "in_context"} == set(config.baseline_trials)
        assert config.data.clients.test >= clients
        assert config.evaluation.global_examples >= examples
        assert {metric.name for metric in config.evaluation.metrics} == {"loss", "rouge_l", "exact_match"}


@pytest.mark.parametrize("name", SIZES)
def test_methods_have_equal_budgets_and_trials(name):
    """Each method and baseline has three trials; all except local train on the same number of examples."""
    _, planned = load_study(PAPER / f"{name}.yaml")
    config = planned[0].config
    examples = set()
    for trials in config.training.methods.values():
        assert len(trials) == 3
        for entry in trials:
            steps = 1 if entry.kind == "fedsgd" else entry.steps
            examples.add(config.training.rounds * config.training.cohort * steps * entry.batch_size)
    for entry in config.baseline_trials["central"]:
        examples.add(entry.steps * entry.batch_size)
    assert all(len(config.baseline_trials[name]) == 3 for name in ("local", "central"))
    assert len(examples) == 1


@pytest.mark.parametrize("name", SIZES)
def test_tasks_suffice_for_clients_of_every_partition(name, shared_data):
    table = f"data.source.path={shared_data / 'sni' / 'sni_english.parquet'}"
    _, planned = load_study(PAPER / f"{name}.yaml", [table], ["seed=0"])
    settings = [run.config.data for run in planned]
    pool = read_source(settings[0].source, 0)
    for data in settings:
        wanted = data.clients.train + data.clients.validation + data.clients.test
        assert len(partition(pool, data, 0).clients) == wanted


def test_lexicon_study_is_as_the_protocol_says():
    _, planned = load_study(ROOT / "studies" / "lexicon" / "main.yaml")
    seeds = {run.axes["seed"] for run in planned}
    assert (len(planned), len(seeds)) == (40, 10)
    for config in (run.config for run in planned):
        assert config.data.clients.test >= 12
        assert len(config.data.unseen_tasks) >= 4
        rates = {entry.client.rate: entry.steps for entry in config.personalization if not entry.proximal}
        assert (min(rates), max(rates), max(rates.values())) == (0.001, 0.3, 60)
        trials = {name: len(found) for name, found in config.training.methods.items()}
        assert set(trials) == {"fedavg-adam", "fedavg-sgd", "fedsgd"}
        assert set(trials.values()) == {4}
        assert {"local", "central", "majority", "copy_input", "in_context"} == set(config.baseline_trials)
        assert config.evaluation.validation
    levels = {run.axes["level"]: run.config.data.partition.kind for run in planned}
    assert levels == {"one-task": "task", "four-tasks": "tasks", "iid": "iid", "one-task-bare": "task"}


def test_lexicon_study_takes_selected_tasks():
    selected = pl.read_parquet(ROOT / "docs" / "results" / "lexicon" / "tasks.parquet").filter("enters")
    _, planned = load_study(ROOT / "studies" / "lexicon" / "main.yaml", only=["seed=0"])
    assert set(planned[0].config.data.source.tasks) <= set(selected["task"])
