"""The paper's studies as they stand in `studies/paper`: what each compares is asked of the files, not run."""

from pathlib import Path

import pytest

from fedprofit.study.spec import load_study

PAPER = Path(__file__).parents[2] / "studies" / "paper"
SIZES = {"cpu": (9, 12, 96, 3), "long": (9, 12, 96, 3), "gpu": (15, 20, 300, 5), "8b": (15, 20, 300, 5)}


@pytest.mark.parametrize("name", SIZES)
def test_each_size_compares_what_the_claims_need(name):
    runs, clients, examples, rates = SIZES[name]
    _, planned = load_study(PAPER / f"{name}.yaml")
    assert len(planned) == runs
    assert {run.axes["heterogeneity"] for run in planned} == {"task", "tasks", "iid"}
    assert {run.config.data.partition.kind for run in planned} == {"task", "tasks", "iid"}
    for config in (run.config for run in planned):
        tuned = [entry for entry in config.personalization if entry.name.startswith("tune")]
        spread = sorted(entry.client.rate for entry in tuned)
        assert len(spread) >= rates
        assert spread[-1] / spread[0] >= 100
        assert all(len(entry.evaluate_at) >= 2 for entry in tuned)
        few = next(entry for entry in config.personalization if entry.name == "few")
        pulled = [entry for entry in config.personalization if entry.pull]
        assert len(few.interpolation) >= 2
        assert len(pulled) >= 2
        assert all((one.steps, one.client) == (few.steps, few.client) for one in pulled)
        assert few.steps < min(entry.steps for entry in tuned)
        assert list(config.training.methods) == ["fedavg-adam", "fedavg-sgd", "fedsgd"]
        assert set(config.baselines.trials) == {"local", "central"}
        assert config.data.clients.test >= clients
        assert config.evaluation.global_examples >= examples
        assert set(config.evaluation.metrics) == {"loss", "rouge_l", "exact_match"}


@pytest.mark.parametrize("name", SIZES)
def test_methods_take_equal_budgets_and_trials(name):
    """There are three trials of each method and baseline; all but local train on as many examples."""
    _, planned = load_study(PAPER / f"{name}.yaml")
    config = planned[0].config
    examples = set()
    for trials in config.training.methods.values():
        assert len(trials) == 3
        for entry in trials:
            steps = 1 if entry.kind == "fedsgd" else entry.steps
            examples.add(config.training.rounds * config.training.cohort * steps * entry.batch_size)
    for entry in config.baselines.trials["central"]:
        examples.add(entry.steps * entry.batch_size)
    assert all(len(trials) == 3 for trials in config.baselines.trials.values())
    assert len(examples) == 1
