"""The paper's studies as they stand in `studies/paper`: what each compares is asked of the files, not run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from fedprofit.config.file import from_mapping
from fedprofit.config.legacy import upgraded
from fedprofit.core.reading import read_json
from fedprofit.data.partition import partition
from fedprofit.data.sources import read_source
from fedprofit.report.studies import write_claims
from fedprofit.runs.identity import identity
from fedprofit.studies.spec import load_study

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "studies" / "paper"
RESULTS = ROOT / "docs" / "results" / "paper"
COMMITTED = {"cpu": "paper", "long": "paper-long"}
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
    for entry in config.baseline_trials["central"]:
        examples.add(entry.steps * entry.batch_size)
    assert all(len(config.baseline_trials[name]) == 3 for name in ("local", "central"))
    assert len(examples) == 1


@pytest.mark.parametrize("name", SIZES)
def test_the_tasks_suffice_for_the_clients_of_every_level(name, shared_data):
    table = f"data.source.path={shared_data / 'sni' / 'sni_english.parquet'}"
    _, planned = load_study(PAPER / f"{name}.yaml", [table], ["seed=0"])
    settings = [run.config.data for run in planned]
    pool = read_source(settings[0].source, 0)
    for data in settings:
        asked = data.clients.train + data.clients.validation + data.clients.test
        assert len(partition(pool, data, 0).clients) == asked


def test_a_night_on_two_cores_holds_the_nine_runs():
    """By the committed seconds of the runs that one machine with bfloat16 computed, one on each core."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    there = [("task", 0), ("tasks", 0), ("tasks", 1), ("iid", 1)]
    times = pl.read_parquet(RESULTS / "times.parquet")
    times = times.group_by("heterogeneity", "seed").agg(pl.sum("seconds"))
    hours = {(mix, seed): seconds / 3600 for mix, seed, seconds in times.rows() if (mix, seed) in there}
    slowest = {mix: max(took for (own, _), took in hours.items() if own == mix) for mix, _ in there}
    assert len(slowest) == 3
    by_mix, at_most = 3 * sum(slowest.values()) / 2, 9 * max(slowest.values()) / 2
    assert by_mix < at_most < 8
    for total in (by_mix, at_most):
        assert f"{int(total)} h {round(60 * (total % 1))} min" in " ".join(page.split())


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_study_has_all_runs_of_its_file(name):
    """By what they compute, with the keys that the configurations had then."""
    _, planned = load_study(PAPER / f"{name}.yaml", ["data.source.path=elsewhere/sni_english.parquet"])
    kept = read_json(ROOT / "docs" / "results" / COMMITTED[name] / "configurations.json", "")
    # A grid names its entries by the keys that it multiplies, and one of these had another name.
    renamed = json.loads(json.dumps(kept).replace("pulled-pull", "pulled-proximal"))
    # Where the configuration leaves the dtype to the machine, the first run's counts for all: bfloat16.
    found = {identity(from_mapping(upgraded(one)).in_type("bfloat16")) for one in renamed.values()}
    assert found == {identity(run.config.in_type("bfloat16")) for run in planned}


@pytest.mark.parametrize("folder", COMMITTED.values())
def test_the_committed_claims_are_what_the_tables_say(folder, tmp_path):
    committed, copy = ROOT / "docs" / "results" / folder, tmp_path / folder
    copy.mkdir()
    for name in ("results.parquet", "trials.parquet", "study.json"):
        shutil.copy(committed / name, copy)
    write_claims(copy, Console(quiet=True))
    for name, last_digit in (("claims.md", 0.011), ("claims.json", 1e-9)):
        words, numbers = apart((copy / name).read_text("utf-8"))
        committed_words, committed_numbers = apart((committed / name).read_text("utf-8"))
        assert words == committed_words, name
        # The last digits of a sum depend on the processor; what is printed is rounded.
        np.testing.assert_allclose(numbers, committed_numbers, rtol=1e-6, atol=last_digit)


def apart(text: str) -> tuple[str, list[float]]:
    """Part a text from the numbers with decimals in it."""
    number = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
    return number.sub("#", text), [float(found) for found in number.findall(text)]
