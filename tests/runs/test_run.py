"""A complete run on a tiny model: the folder, the table, the errors; from the command line and Python."""

import json
import math
import os
import re
import shutil
import signal
import sys
import time
from statistics import fmean

import polars as pl
import pytest
from tiny_run import begin, call, tiny_config, write_config

import fedprofit
from fedprofit.analyze.tables import open_tables
from fedprofit.backbone.load import load_backbone
from fedprofit.cli import main
from fedprofit.config.run import DEFAULT_BASELINES
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.evaluate.results import SCHEMA
from fedprofit.runs import bench
from fedprofit.runs.folder import RunFolder, default_folder, read_timing
from fedprofit.runs.progress import Quiet
from fedprofit.runs.run import out_of_memory

MINIMAL = {
    "name": "small",
    "data": {"source": {"kind": "lexicon"}, "clients": {"train": 1, "validation": 1, "test": 1}},
    "training": {"algorithms": [{"kind": "fedsgd", "name": "sgd"}]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    return fedprofit.run(fedprofit.from_mapping(tiny_config(place)), out=place / "out").path


def test_run_writes_its_files(folder):
    for name in (
        "config.yaml",
        "environment.json",
        "results.parquet",
        "summary.json",
        "timing.json",
        "run.log",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert "data: few test examples: 6 of 6 clients" in (folder / "run.log").read_text()
    stages = {
        "federated-avg",
        "federated-sgd",
        "personalized-avg-tune",
        "personalized-sgd-tune",
        "local",
        "central",
    }
    assert {path.stem for path in (folder / "prompts").iterdir()} == stages
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["versions"]["commit"] == "none" or len(environment["versions"]["commit"]) >= 7
    assert environment["model"]["hash"]
    assert environment["data_hash"]
    assert not list(folder.rglob("*.part")), "temporary files remain"


def test_results_have_one_row_per_score(folder):
    results = fedprofit.read_results(folder)
    assert dict(results.schema) == SCHEMA
    keys = [name for name in SCHEMA if name not in ("value", "count", "note")]
    assert not results.select(keys).is_duplicated().any()
    assert results["value"].is_finite().all()
    assert results["client"].n_unique() == 2
    last = results.filter(pl.col("condition") == "personalized", pl.col("step") == 3)
    for _, rows in last.group_by("algorithm", "alpha", "client"):
        scopes = dict(rows.group_by("scope").len().rows())
        # Each client trains on all tasks that are in the global set, so that none has others.
        assert scopes.keys() == {
            "local", "local_task", "global", "global_task", "unseen", "unseen_task", "validation",
        }  # fmt: skip
        assert scopes["local"] == scopes["global"] == scopes["unseen"] == scopes["unseen_task"] == 4
        assert (scopes["local_task"] % 4, scopes["validation"]) == (0, 1)
    first = results.filter(pl.col("condition") == "personalized", pl.col("step") == 1)
    assert set(first["metric"]) == {"loss", "token_loss"}
    baselines = {"local", "central", "majority", "copy_input", "in_context"}
    assert set(results["condition"]) == {"base", "federated", "personalized", *baselines}


def test_settings_hold_every_id_of_the_results(folder):
    results, settings = fedprofit.read_results(folder), pl.read_parquet(folder / "settings.parquet")
    assert results["setting_id"].null_count() == 0
    assert set(results["setting_id"]) <= set(settings["setting_id"])
    names = results.select("setting_id", "condition", "algorithm", "setting", "start").unique()
    assert not names["setting_id"].is_duplicated().any()
    tuned = settings.filter(pl.col("condition") == "personalized")
    assert tuned["personalization.proximal"].to_list() == [0.01, 0.01]
    assert tuned["algorithm.kind"].to_list() == ["fedavg", "fedsgd"]


def test_scores_are_recomputed_from_examples(folder):
    results, examples = fedprofit.read_results(folder), pl.read_parquet(folder / "examples.parquet")
    parts = {f"{scope}_task": scope for scope in ("local", "global", "unseen")}
    records = {}
    for row in examples.iter_rows(named=True):
        key = (row["setting_id"], row["step"], row["alpha"], row["client"], row["scope"])
        records.setdefault(key, []).append(row)
    for row in results.iter_rows(named=True):
        scope = parts.get(row["scope"], row["scope"])
        key = (row["setting_id"], row["step"], row["alpha"])
        found = records.get((*key, row["client"], scope)) or records[*key, "", scope]
        found = [one for one in found if row["task"] in ("", one["task"])]
        if row["metric"] == "token_loss":
            expected = sum(one["loss"] for one in found) / sum(one["tokens"] for one in found)
        else:
            by_task = {}
            for one in found:
                by_task.setdefault(one["task"], []).append(one[f"score.{row['metric']}"])
            expected = fmean(
                fmean(filter_known(values)) for values in by_task.values() if filter_known(values)
            )
        assert row["value"] == pytest.approx(expected, rel=1e-12)


def filter_known(values):
    return [value for value in values if value is not None]


def test_federated_prompt_has_one_global_score(folder):
    shared = fedprofit.read_results(folder).filter(
        pl.col("condition") == "federated", pl.col("scope") == "global"
    )
    per_condition = shared.group_by("algorithm", "setting", "metric").agg(
        pl.col("value").n_unique(), pl.len()
    )
    assert per_condition["value"].to_list() == [1] * len(per_condition)
    assert set(per_condition["len"]) == {2}


def test_summary_contains_budget(folder):
    budget = json.loads((folder / "summary.json").read_text())["budget"]
    assert budget["avg"]["rounds"] == budget["sgd"]["rounds"] == 3
    assert budget["avg"]["steps"] == 3 * 2 * 2
    assert budget["sgd"]["steps"] == 3 * 2
    prompt_bytes = 3 * 32 * 4
    assert budget["avg"]["bytes_up"] == budget["avg"]["bytes_down"] == 3 * 2 * prompt_bytes
    assert budget["avg"]["tokens"] > 0


def test_run_continues_when_a_client_diverges(tmp_path):
    wild = {"name": "wild", "steps": 12, "client": {"kind": "sgd", "rate": 1e6, "weight_decay": 1e6}}
    config = tiny_config(tmp_path, personalization=[wild | {"evaluate_at": [1]}])
    folder = fedprofit.run(fedprofit.from_mapping(config), out=tmp_path / "out").path
    tuned = fedprofit.read_results(folder).filter(pl.col("condition") == "personalized")
    noted = tuned.group_by("step").agg(pl.col("note").str.contains("not finite").any())
    assert dict(noted.rows()) == {1: False, 12: True}, "not yet stopped after one step"
    rows = [r for r in json.loads((folder / "summary.json").read_text())["conditions"] if r["stopped"]]
    assert rows
    assert call("report", folder, cwd=tmp_path).returncode == 0
    assert "stopped: not finite" in (folder / "table.md").read_text()


def test_diverged_central_training_is_noted_for_every_client(tmp_path):
    wild = {"steps": 12, "client": {"kind": "sgd", "rate": 1e6, "weight_decay": 1e6}}
    wild |= {"name": "central", "evaluate_at": [1]}
    config = tiny_config(tmp_path, personalization=[], baselines={"central": wild})
    config["baselines"]["local"] = None
    folder = fedprofit.run(fedprofit.from_mapping(config), out=tmp_path / "out").path
    central = fedprofit.read_results(folder).filter(pl.col("condition") == "central")
    assert central["client"].n_unique() == 2
    stopped = pl.col("step") == 12
    assert central.filter(stopped)["note"].str.contains("not finite").all()
    assert central.filter(~stopped)["note"].unique().to_list() == [""]


def test_resuming_complete_run_changes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    config = fedprofit.load_config(folder / "config.yaml")
    assert fedprofit.run(config, out=folder, resume=True).path == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def test_run_resumes_with_another_token_budget(folder):
    """As users do after running out of memory."""
    config = fedprofit.load_config(folder / "config.yaml", ["backbone.token_budget=99", "backbone.workers=1"])
    assert fedprofit.run(config, out=folder, resume=True).path == folder


def test_report_works_for_archived_run_without_parts(folder, tmp_path):
    archived = tmp_path / "archived"
    shutil.copytree(folder, archived, ignore=shutil.ignore_patterns("parts", "prompts", "clients.parquet"))
    done = call("report", archived, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (archived / "report.html").exists()


def test_report_works_without_loss_metric(tmp_path):
    config = tiny_config(tmp_path)
    config["evaluation"]["metrics"] = ["rouge_l"]
    folder = fedprofit.run(fedprofit.from_mapping(config), out=tmp_path / "out").path
    done = call("report", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Loss" not in (folder / "table.md").read_text()


def test_run_refuses_folder_with_other_content(folder, tmp_path):
    config = fedprofit.load_config(folder / "config.yaml")
    with pytest.raises(UserError, match="--resume"):
        fedprofit.run(config, out=folder)
    other = fedprofit.load_config(folder / "config.yaml", ["seed=1"])
    with pytest.raises(UserError, match="another configuration"):
        fedprofit.run(other, out=folder, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run"):
        fedprofit.run(config, out=tmp_path / "mine", resume=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_run_resumes_in_its_original_dtype(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    del config["backbone"]["dtype"]  # the machine's choice
    auto = fedprofit.from_mapping(config)
    folder = fedprofit.run(auto, out=tmp_path / "out")
    other = {"float32": "bfloat16", "bfloat16": "float32"}[folder.dtype]
    with pytest.raises(UserError, match=f"started in {folder.dtype}, but backbone.dtype is {other}"):
        fedprofit.run(auto.in_type(other), out=folder.path, resume=True)
    assert fedprofit.run(auto.in_type(folder.dtype), out=folder.path, resume=True).path == folder.path
    # As if a machine that selects the other dtype had started the run.
    facts = folder.read_environment()
    facts["model"]["dtype"] = f"torch.{other}"
    shutil.rmtree(folder.path)
    folder.path.mkdir()
    folder.config.write_text(yaml_text.dump(auto.to_mapping()))
    folder.environment.write_text(json.dumps(facts))
    loaded = []
    monkeypatch.setattr(
        bench, "load_backbone", lambda *args: loaded.append(load_backbone(*args)) or loaded[-1]
    )
    fedprofit.run(auto, out=folder.path, resume=True)
    assert [str(backbone.dtype) for backbone in loaded] == [f"torch.{other}"]


def unfinished(config, out):
    """Run, then remove the files that a run writes last."""
    folder = fedprofit.run(config, out=out)
    folder.summary.unlink()
    folder.results.unlink()
    return folder


def test_resuming_with_other_settings_is_recorded(tmp_path):
    config = fedprofit.from_mapping(tiny_config(tmp_path))
    folder = unfinished(config, tmp_path / "out")
    changes = ["backbone.token_budget=99", "backbone.attention=eager"]
    fedprofit.run(fedprofit.load_config(folder.config, changes), out=folder.path, resume=True)
    (change,) = folder.read_environment()["resumed"]
    assert change["computed.token_budget"] == [2048, 99]
    assert change["computed.attention"][1] == "eager"
    assert "resumed with another environment: " in folder.log.read_text()
    assert "computed.token_budget was 2048, is 99" in folder.log.read_text()
    length = len(folder.log.read_text())
    folder.summary.unlink()
    fedprofit.run(fedprofit.load_config(folder.config, changes), out=folder.path, resume=True)
    assert "resumed with" not in folder.log.read_text()[length:], "equal to the last settings"
    assert len(folder.read_environment()["resumed"]) == 1


def test_damaged_config_is_rewritten_when_hash_matches(tmp_path):
    config = fedprofit.from_mapping(tiny_config(tmp_path))
    folder = fedprofit.run(config, out=tmp_path / "out")
    original = folder.config.read_text()
    folder.config.write_text(original.replace("rounds: 3", "rounds: 4"))
    with pytest.raises(UserError, match=r"config\.yaml: is damaged"):
        fedprofit.run(fedprofit.load_config(folder.config), out=folder.path, resume=True)
    with pytest.raises(UserError, match=r"config\.yaml: is damaged"):
        open_tables(folder.path)
    fedprofit.run(config, out=folder.path, resume=True)
    assert folder.config.read_text() == original


@pytest.mark.parametrize("text", ["", "one\ntwo"])
def test_out_of_memory_message_contains_error(text):
    config = fedprofit.from_mapping(MINIMAL)
    reason = text.partition("\n")[0] or "MemoryError"
    assert str(out_of_memory(config, MemoryError(text))).startswith(f"small: out of memory ({reason}). ")


def test_run_refuses_to_resume_with_changed_data(tmp_path):
    config = fedprofit.from_mapping(tiny_config(tmp_path))
    folder = unfinished(config, tmp_path / "out")
    table = tmp_path / "table.jsonl"
    (tmp_path / "elsewhere").mkdir()
    moved = table.rename(tmp_path / "elsewhere" / table.name)
    elsewhere = fedprofit.load_config(folder.config, [f"data.source.path={moved}"])
    assert fedprofit.run(elsewhere, out=folder.path, resume=True).summary.exists(), "the same data"
    moved.write_text(moved.read_text().replace("red", "rot"))
    with pytest.raises(UserError, match=r"is complete, and the data changed since .*--out"):
        fedprofit.run(elsewhere, out=folder.path, resume=True)
    folder.summary.unlink()
    with pytest.raises(UserError, match=r"the data changed since the run was started .*--out"):
        fedprofit.run(elsewhere, out=folder.path, resume=True)
    assert not folder.summary.exists()


def test_run_refuses_to_resume_with_another_model(tmp_path):
    config = fedprofit.from_mapping(tiny_config(tmp_path))
    folder = unfinished(config, tmp_path / "out")
    facts = folder.read_environment()
    facts["model"]["hash"] = "0" * 16
    folder.environment.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="the model changed since the run was started"):
        fedprofit.run(config, out=folder.path, resume=True)


def test_resumed_run_writes_identical_files(tmp_path):
    config = tiny_config(tmp_path)
    del config["backbone"]["dtype"]  # the machine's choice
    config = fedprofit.from_mapping(config)
    folder = fedprofit.run(config, out=tmp_path / "out")
    before = {file: file.read_bytes() for file in (folder.summary, folder.results, folder.config)}
    folder.summary.unlink()
    fedprofit.run(config, out=folder.path, resume=True)
    assert {file: file.read_bytes() for file in before} == before


def test_default_folder_ignores_token_budget_and_workers():
    config = fedprofit.from_mapping(MINIMAL)
    smaller = fedprofit.from_mapping(MINIMAL | {"backbone": {"token_budget": 512, "workers": 2}})
    assert default_folder(smaller) == default_folder(config)
    assert default_folder(fedprofit.from_mapping(MINIMAL | {"seed": 1})) != default_folder(config)


@pytest.mark.parametrize("name", ["environment.json", "summary.json", "results.parquet"])
def test_remedy_for_damaged_file_works(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_text("{")
    done = call("report", copy, cwd=tmp_path)
    assert done.returncode == 2
    message = " ".join(done.stderr.split())
    assert "elete it" in message or "delete that file" in message
    (copy / name).unlink()
    if "and summary.json" in message:
        (copy / "summary.json").unlink()
    again = call("run", copy / "config.yaml", "--out", copy, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert call("report", copy, cwd=tmp_path).returncode == 0


def test_report_prints_tables_and_writes_pictures(folder, tmp_path):
    done = call("report", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-8])) <= 80
    for text in ("ROUGE-L", "base model", "avg, federated", "forget"):
        assert text in done.stdout
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "tradeoff.svg").read_text().lstrip().startswith("<?xml")
    assert "| base model, no prompt |" in (folder / "table.md").read_text()
    assert (folder / "tradeoff.pdf").read_bytes().startswith(b"%PDF")
    latex = (folder / "table.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 5, (
        "one table per metric, and the cost of serving"
    )
    assert not re.search(r"(?<!\\)[%_#]", latex), "special characters of LaTeX are escaped"
    rows = pl.read_csv(folder / "table.csv")
    assert set(rows["metric"]) == {"rouge_l", "exact_match", "loss", "token_loss"}
    assert {"local", "global", "gain", "forgetting", "forgetting_low", "worst"} <= set(rows.columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.round=3", ["training.round", "rounds"]),
        ("training.rounds=many", ["training.rounds", "many"]),
        ("backbone.name=smollm", ["smollm"]),
        ("data.source.path=nowhere.jsonl", ["nowhere.jsonl"]),
        ("data.source.columns.input=asks", ["asks", "ask"]),
        ("data.clients.train=50", ["50"]),
        ("tuner.length=400", ["256", "tuner.length"]),
    ],
)
def test_user_error_is_one_paragraph_and_status_2(tmp_path, change, words, monkeypatch, capsys):
    config = write_config(tmp_path)
    line = ["fedprofit", "run", str(config), "--out", str(tmp_path / "out"), "--set", change]
    monkeypatch.setattr(sys, "argv", line)
    capsys.readouterr()  # discard the output of saving the model
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith("error")
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists(), "a run that cannot start leaves no folder"


def test_run_works_without_validation_clients_or_baselines(tmp_path):
    config = tiny_config(tmp_path, baselines=dict.fromkeys(DEFAULT_BASELINES))
    config["data"] |= {"clients": {"train": 4, "validation": 0, "test": 2}, "unseen_tasks": 0}
    folder = fedprofit.run(fedprofit.from_mapping(config), out=tmp_path / "out").path
    results = fedprofit.read_results(folder)
    assert set(results["condition"]) == {"base", "federated", "personalized"}
    assert "unseen" not in set(results["scope"])
    federated = results.filter(pl.col("condition") == "federated", pl.col("setting") == "best")
    assert set(federated["step"]) == {3}, "without validation the last round is selected"
    assert not math.isnan(federated["value"].sum())


def test_saved_config_reproduces_results(folder, tmp_path):
    again = fedprofit.load_config(folder / "config.yaml")
    assert again.to_mapping() == yaml_text.load((folder / "config.yaml").read_text())
    repeated = fedprofit.run(again, out=tmp_path / "again").path
    assert (repeated / "results.parquet").read_bytes() == (folder / "results.parquet").read_bytes()


class InterruptedAfterRound(Quiet):
    """Ends the run after a round, as a kill does."""

    def advance(self, cost, message=""):
        if message.startswith("round 2/"):
            raise KeyboardInterrupt
        super().advance(cost, message)


def test_timing_includes_killed_training(tmp_path):
    config = fedprofit.from_mapping(tiny_config(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fedprofit.run(config, out=tmp_path / "out", report=InterruptedAfterRound())
    before = read_timing(RunFolder(tmp_path / "out"))
    assert before["train-avg"] > 0
    folder = fedprofit.run(config, out=tmp_path / "out", resume=True)
    assert read_timing(folder)["train-avg"] > before["train-avg"]


def test_ctrl_c_prints_how_to_resume(tmp_path):
    config, files = write_config(tmp_path), (str(tmp_path / "out.txt"), str(tmp_path / "err.txt"))
    process = begin("run", config, "--out", tmp_path / "run", cwd=tmp_path, prints=files)
    while process.is_alive() and not list((tmp_path / "run").glob("checkpoints/*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert (tmp_path / "err.txt").read_text().splitlines()[-1] == "stopped; resume with --resume"
