"""Trials of a method are selected on validation clients, which are personalized if requested."""

import json
from statistics import fmean

import polars as pl
import pytest
from tiny_run import tiny_config

import fedprofit
from fedprofit.algorithm.base import Context
from fedprofit.core.errors import UserError
from fedprofit.evaluate.clients import mean_loss
from fedprofit.evaluate.results import SCHEMA, Condition, Score
from fedprofit.runs.baselines import context_of
from fedprofit.runs.bench import prepare
from fedprofit.runs.checkpoint import load_tensors
from fedprofit.runs.conditions import best_step
from fedprofit.runs.train import client_batches
from fedprofit.studies.grids import expand_grids
from fedprofit.tuner.prompt import KEY

RATES = (0.001, 0.1, 3.0)


def with_trials(place, **changes):
    """FedAvg and FedSGD with three rates each, one of them far too large."""
    config = tiny_config(place, **changes)
    config["training"]["algorithms"] = [
        {"kind": "fedavg", "name": "avg", "steps": 2, "client": {"rate": {"pick": list(RATES)}}},
        {"kind": "fedsgd", "name": "sgd", "server": {"rate": {"pick": list(RATES)}}},
    ]
    for name in ("local", "central"):
        config["baselines"][name]["client"] = {"rate": {"pick": list(RATES)}}
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("trials")
    config = with_trials(place)
    config["data"]["clients"] = {"train": 2, "validation": 2, "test": 2}
    config["evaluation"] |= {"validation": True, "generate": "best"}
    config["personalization"][0] |= {"steps": 4, "evaluate_at": [1, 2], "client": {"rate": 3.0}}
    config["personalization"].append({"name": "few", "steps": 1, "algorithms": ["sgd"]})
    settings = fedprofit.from_mapping(expand_grids(config, "here"))
    return settings, fedprofit.run(settings, out=place / "out")


def test_pick_expands_to_trials_of_one_method(run):
    config, _ = run
    assert [(one.name, one.method) for one in config.training.algorithms] == [
        (f"{method}-rate{rate}", method) for method in ("avg", "sgd") for rate in RATES
    ]
    assert [one.client.rate for one in config.training.methods["avg"]] == list(RATES)


def test_trial_with_lowest_last_validation_loss_is_selected(run):
    config, folder = run
    bench = prepare(config)
    trials = json.loads(folder.summary.read_text())["trials"]
    federated = [one for one in trials if one["method"] in config.training.methods]
    assert [one["trial"] for one in federated] == [one.name for one in config.training.algorithms]
    for method, entries in config.training.methods.items():
        losses = {}
        for entry in entries:
            context = Context(bench.solver)
            algorithm = entry.build(context)
            state = algorithm.init(bench.start)
            for number in (1, 2, 3):
                cohort = bench.dataset.clients("train")
                drawn = [client_batches(bench, algorithm, c, number) for c in cohort]
                state, _ = algorithm.round(state, drawn, context.at(number))
            losses[entry.name] = mean_loss(bench.engine, state.params[KEY], bench.validation)
        own = [one for one in trials if one["method"] == method]
        assert {one["trial"]: one["loss"] for one in own} == pytest.approx(losses, rel=1e-5)
        best = min(losses, key=losses.get)
        assert [one["trial"] for one in own if one["chosen"]] == [best]
        kept, facts = load_tensors(folder.prompts(f"federated-{method}"))
        assert facts["algorithm"] == best
        assert mean_loss(bench.engine, kept[f"last.{KEY}"], bench.validation) == pytest.approx(losses[best])


def test_baselines_are_selected_on_validation_clients(run):
    config, folder = run
    bench = prepare(config)
    trials = json.loads(folder.summary.read_text())["trials"]
    clients, results = bench.dataset.clients("validation"), fedprofit.read_results(folder.path)
    settings = pl.read_parquet(folder.settings)
    for name in ("local", "central"):
        losses, entries = {}, config.baseline_trials[name]
        for entry in entries:
            if name == "central":
                tuned = entry.train(context_of(bench), ["pool"])
                losses[entry.name] = mean_loss(bench.engine, tuned.points[2][KEY][0], bench.validation)
                continue
            by_task = {}
            for client in clients:  # separately
                tuned = entry.train(context_of(bench), [client])
                for example in bench.dataset.examples(client, "validation"):
                    one = mean_loss(bench.engine, tuned.points[2][KEY][0], [example])
                    by_task.setdefault(example.task, []).append(one)
            losses[entry.name] = fmean(map(fmean, by_task.values()))
        assert {one["trial"]: one["loss"] for one in trials if one["method"] == name} == pytest.approx(
            losses, rel=1e-5
        )
        best = min(losses, key=losses.get)
        assert [one["trial"] for one in trials if one["method"] == name and one["chosen"]] == [best]
        own = results.filter(pl.col("condition") == name)
        assert own.select("setting").unique().rows() == [(name,)]
        known = settings.filter(pl.col("setting_id") == own["setting_id"][0])
        assert known["baseline.client.rate"].to_list() == [float(best.partition("-rate")[2])]
        chosen = next(entry for entry in entries if entry.name == best)
        test = bench.sets.clients[0]
        tuned = chosen.train(context_of(bench), [test])
        found = own.filter(client=test, scope="local", metric="loss", step=2)["value"][0]
        wanted = mean_loss(bench.engine, tuned.points[2][KEY][0], bench.sets.local[test])
        assert found == pytest.approx(wanted, rel=1e-5)


def test_results_contain_only_selected_trials(run):
    _, folder = run
    results = fedprofit.read_results(folder.path)
    assert set(results["algorithm"]) == {"", "avg", "sgd"}
    keys = [name for name in SCHEMA if name not in ("value", "count", "note")]
    assert not results.select(keys).is_duplicated().any()


def test_only_named_algorithms_are_personalized(run):
    _, folder = run
    for table in (fedprofit.read_results(folder.path), pl.read_parquet(folder.validation)):
        tuned = table.filter(pl.col("condition") == "personalized").select("algorithm", "setting").unique()
        assert sorted(tuned.rows()) == [("avg", "tune"), ("sgd", "few"), ("sgd", "tune")]


def test_central_prompt_is_from_selected_trial(run):
    config, folder = run
    trials = json.loads(folder.summary.read_text())["trials"]
    (best,) = [one["trial"] for one in trials if one["method"] == "central" and one["chosen"]]
    names = [one.name for one in config.baselines["central"]]
    prompts = {name: folder.prompts(f"try-{name}").read_bytes() for name in names}
    assert len(set(prompts.values())) == len(prompts), "trials differ"
    assert folder.prompts("central").read_bytes() == prompts[best]


def test_validation_table_contains_only_validation_clients(run):
    config, folder = run
    dataset = prepare(config).dataset
    validation, test = pl.read_parquet(folder.validation), fedprofit.read_results(folder.path)
    assert dict(validation.schema) == SCHEMA
    assert set(validation["client"]) == set(dataset.clients("validation"))
    assert set(test["client"]) == set(dataset.clients("test"))
    assert set(validation["condition"]) == {"federated", "personalized"}
    same = ["algorithm", "condition", "setting", "alpha", "step"]
    tuned = test.filter(pl.col("condition").is_in(["federated", "personalized"]))
    ours = validation.filter(pl.col("metric") == "loss").select(same).unique().sort(same)
    assert ours.equals(tuned.filter(pl.col("metric") == "loss").select(same).unique().sort(same))


@pytest.mark.parametrize("scope", ["local", "unseen"])
def test_scope_is_the_mean_over_its_tasks(run, scope):
    results = fedprofit.read_results(run[1].path).filter(
        pl.col("condition") == "personalized", pl.col("metric") != "token_loss"
    )
    keys = ["algorithm", "setting", "step", "alpha", "client", "metric"]
    parts = results.filter(pl.col("scope") == f"{scope}_task")
    added = parts.group_by(keys).agg(total=pl.col("value").mean(), counted=pl.col("count").sum())
    totals = results.filter(pl.col("scope") == scope).join(added, on=keys)
    assert len(totals) == len(added) > 0
    assert totals["total"].to_list() == pytest.approx(totals["value"].to_list())
    assert totals["counted"].to_list() == totals["count"].to_list()


def test_text_is_scored_at_lowest_validation_loss(run):
    results = fedprofit.read_results(run[1].path).filter(
        pl.col("condition") == "personalized", pl.col("setting") == "tune", pl.col("alpha") == 1.0
    )
    early = False
    for (method,), own in results.group_by("algorithm"):
        losses = own.filter(pl.col("scope") == "validation").group_by("step").agg(pl.col("value").mean())
        best = losses.sort("value")["step"][0]
        texts = own.filter(pl.col("metric") == "rouge_l")
        assert set(texts["step"]) == {best, 4}, method
        early |= best != 4
    assert early, "the large rate should overfit"


def test_best_step_has_lowest_mean_loss():
    def score(step, value, alpha=1.0, scope="validation"):
        return Score(Condition("personalized", alpha=alpha, step=step), "c", scope, "loss", value, 1)

    assert best_step([score(1, 2.0), score(2, 1.0), score(2, 4.0), score(3, 2.2)], 3) == 1
    assert best_step([score(1, 2.0), score(2, float("nan")), score(2, 0.1)], 2) == 1
    assert best_step([score(1, 2.0), score(2, 0.1, alpha=0.5), score(2, 0.1, scope="local")], 4) == 1
    assert best_step([], 4) == 4


def test_config_refuses_unequal_numbers_of_trials(tmp_path):
    config = with_trials(tmp_path)
    config["training"]["algorithms"][1]["server"]["rate"]["pick"].pop()
    with pytest.raises(UserError, match=r"same number of trials \(avg 3, sgd 2\)"):
        fedprofit.from_mapping(expand_grids(config, "here"))


@pytest.mark.parametrize("name", ["local", "central"])
def test_run_refuses_baseline_with_fewer_trials(tmp_path, name):
    config = with_trials(tmp_path)
    config["baselines"][name]["client"] = {"rate": 0.1}
    settings = fedprofit.from_mapping(expand_grids(config, "here"))  # valid, to read runs of earlier versions
    with pytest.raises(
        UserError, match=rf"baselines\.{name}: give as many trials as each algorithm has \(3, not 1\)"
    ):
        fedprofit.run(settings, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    config["baselines"][name] = None
    assert name not in fedprofit.from_mapping(expand_grids(config, "here")).baseline_trials


@pytest.mark.parametrize("asked", ["trials", "validation"])
def test_selection_requires_validation_clients(tmp_path, asked):
    config = with_trials(tmp_path) if asked == "trials" else tiny_config(tmp_path)
    config["data"]["clients"]["validation"] = 0
    config["evaluation"]["validation"] = asked == "validation"
    with pytest.raises(UserError, match="validation clients with examples are needed"):
        fedprofit.run(fedprofit.from_mapping(expand_grids(config, "here")), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pick_keeps_name_when_it_has_one_value(tmp_path):
    """So that runs of a smaller study match those of a larger one."""
    config = with_trials(tmp_path)
    avg, sgd = config["training"]["algorithms"]
    local, central = (config["baselines"][name] for name in ("local", "central"))
    for section in (avg["client"], sgd["server"], local["client"], central["client"]):
        section["rate"] = {"pick": [0.1]}
    settings = fedprofit.from_mapping(expand_grids(config, "here"))
    assert {name: [one.name for one in trials] for name, trials in settings.training.methods.items()} == {
        "avg": ["avg"],
        "sgd": ["sgd"],
    }
    for name in ("local", "central"):
        (trial,) = settings.baseline_trials[name]
        assert (trial.name, trial.client.rate) == (name, 0.1)
