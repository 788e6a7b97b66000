"""A study computed in parts, at different times and on different machines, into one table."""

import json
import re
import shutil

import polars as pl
import pytest
from test_study import ORDER, write_study
from tiny import tiny_folder
from tiny_run import call

from fedprofit.analyze.tables import open_tables
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.runs.folder import RunFolder
from fedprofit.studies.admission import admit
from fedprofit.studies.ledger import claim, read_table
from fedprofit.studies.many import run_study
from fedprofit.studies.spec import load_study


def cells(path, *only):
    return [tuple(run.axes.values()) for run in load_study(path, only=only)[1]]


def test_only_selects_grid_cells(tmp_path):
    path = write_study(tmp_path)
    assert cells(path) == [(0, "own"), (0, "mixed"), (1, "own"), (1, "mixed")]
    assert cells(path, "seed=1") == [(1, "own"), (1, "mixed")]
    assert cells(path, "seed=1", "heterogeneity=mixed") == [(1, "mixed")]
    assert cells(path, "seed=0", "seed=1", "heterogeneity=own") == [(0, "own"), (1, "own")]
    every = {run.key for run in load_study(path)[1]}
    assert {run.key for run in load_study(path, only=["seed=1"])[1]} < every, "the same runs"


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("level=own", "--only level=own: the study's axes are seed, heterogeneity. Write AXIS=VALUE"),
        ("seed", "--only seed: write seed=VALUE, with one of 0, 1"),
        ("heterogeneity=iid", "--only heterogeneity=iid: write heterogeneity=VALUE, with one of own, mixed"),
    ],
)
def test_only_names_unknown_cell(tmp_path, only, message):
    with pytest.raises(UserError, match=message):
        load_study(write_study(tmp_path), only=[only])


def test_parts_give_the_table_of_complete_study(tmp_path):
    path, out = write_study(tmp_path), tmp_path / "pieces"
    ended = call("study", path, "--out", out, "--only", "seed=1", "--only", "heterogeneity=own", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "1 runs in the table" in ended.stdout
    shutil.rmtree(out / "runs")  # only the tables are copied between machines
    for piece, runs in ((["seed=0"], 2), ([], 1)):
        taken, progress = run_study(path, out=out, workers=1, resume=True, only=piece)
        assert progress.done == runs
    complete, _ = run_study(path, out=tmp_path / "complete", workers=1)
    assert read_table(taken).sort(ORDER).equals(read_table(complete).sort(ORDER))


def test_part_uses_dtype_of_table(tmp_path):
    backbone = {"name": str(tiny_folder(tmp_path)), "device": "cpu"}
    path, out = write_study(tmp_path, axes={"seed": [0, 1]}, backbone=backbone), tmp_path / "out"
    folder, _ = run_study(path, out=out, workers=1, only=["seed=0"])
    # As if the first part came from a machine that selects the other dtype.
    (here,) = read_table(folder)["dtype"].unique().to_list()
    there = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    pl.read_parquet(folder.results).with_columns(dtype=pl.lit(there)).write_parquet(folder.results)
    with pytest.raises(
        UserError, match=f"computed in {there}, and backbone.dtype of the run at seed 1 is {here}"
    ):
        run_study(path, [f"backbone.dtype={here}"], out=out, workers=1, resume=True, only=["seed=1"])
    _, progress = run_study(path, out=out, workers=1, resume=True)
    assert progress.done == 1
    assert read_table(folder)["dtype"].unique().to_list() == [there]
    assert RunFolder(folder.run(load_study(path)[1][1].key)).dtype == there


def test_study_refuses_incompatible_part_before_computing(tmp_path):
    path, out = write_study(tmp_path, axes={"seed": [0, 1]}), tmp_path / "out"
    folder, _ = run_study(path, out=out, workers=1, only=["seed=0"])
    rows = read_table(folder)

    written = folder.facts.read_text()

    def refused(message, study=path):
        with pytest.raises(UserError, match=message):
            run_study(study, out=out, workers=1, resume=True, only=["seed=1"])
        assert folder.facts.read_text() == written, "a refused study changes nothing"

    other = tmp_path / "other.yaml"
    other.write_text(path.read_text().replace("rounds: 2", "rounds: 3"))
    refused(r"its runs had other settings \(training.rounds: 2 -> 3\), which no axis changes", other)
    rows.with_columns(version=pl.lit("0.0.9")).write_parquet(folder.results)
    refused("contains results of version 0.0.9, this is .* Install version 0.0.9")
    assert len(list((out / "runs").iterdir())) == 1, "nothing was computed"
    rows.with_columns(model=pl.lit("another")).write_parquet(folder.results)
    _, progress = run_study(path, out=out, workers=1, resume=True, only=["seed=1"])
    (failure,) = progress.failed
    assert (progress.done, failure["attempts"]) == (0, 1), "a retry would fail again"
    message = (
        r"was computed with the model .*, the results in .* with another. .* the run is kept, but not added"
    )
    assert re.search(message, failure["error"])
    rows.write_parquet(folder.results)
    table = tmp_path / "table.jsonl"
    content = table.read_text()
    table.write_text(content.replace("0", "1"))
    refused(r"its runs read other data \(\w+\) than .*table.jsonl now contains \(\w+\). Restore it")
    table.write_text(content)
    _, progress = run_study(path, out=out, workers=1, resume=True, only=["seed=1"])
    assert progress.done == 1
    assert read_table(folder).filter(pl.col("seed") == 0).equals(rows)


def test_study_refuses_renamed_axis_value(tmp_path):
    """Its rows would be separated from those of other seeds."""
    path, out = write_study(tmp_path), tmp_path / "out"
    run_study(path, out=out, workers=1, only=["seed=0", "heterogeneity=own"])
    renamed = tmp_path / "renamed.yaml"
    renamed.write_text(path.read_text().replace("own:", "natural:"))
    with pytest.raises(UserError, match=r"at seed 0, heterogeneity natural under another name .* \(own\)"):
        run_study(renamed, out=out, workers=1, resume=True)


def test_study_resumes_when_killed_before_first_file(tmp_path):
    path, out = write_study(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / ".study.json.1234.part").write_text("{")
    _, progress = run_study(path, out=out, workers=1, only=["seed=0", "heterogeneity=own"])
    assert progress.done == 1


def test_axis_can_read_files_of_same_name(tmp_path):
    path = write_study(tmp_path)
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "table.jsonl"
    other.write_text((tmp_path / "table.jsonl").read_text().replace("red", "rot"))
    folds = {"a": {"seed": 0}, "b": {"seed": 1, "data.source.path": str(other)}}
    path = write_study(tmp_path, axes={"fold": folds})
    run_study(path, out=tmp_path / "out", workers=1, only=["fold=a"])
    folder, progress = run_study(path, out=tmp_path / "out", workers=1, resume=True, only=["fold=b"])
    assert (progress.done, progress.failed) == (1, [])
    contents = {one["data_content"] for one in read_json(folder.environments, "").values()}
    assert len(contents) == 2
    assert admit(folder, *load_study(path)), "both data sets are recorded"


def test_axis_can_change_keys_and_gain_values(tmp_path):
    """Another kind of partition has other keys. More axis values add runs to the same study."""
    kinds = {
        "own": {"data.partition.kind": "natural"},
        "mixed": {"data.partition.kind": "dirichlet", "data.partition.alpha": 0.5},
    }
    path = write_study(tmp_path, axes={"seed": [0], "heterogeneity": kinds})
    folder, _ = run_study(path, out=tmp_path / "out", workers=1, only=["heterogeneity=own"])
    study, runs = load_study(path)
    assert [planned.key for planned in admit(folder, study, runs)] == [planned.key for planned in runs]
    more = write_study(tmp_path, axes={"seed": [0, 1, 2], "heterogeneity": kinds})
    study, runs = load_study(more)
    assert len(admit(claim(folder.path, study, resume=True), study, runs)) == 6
    run_study(more, out=folder.path, workers=1, resume=True, only=["seed=0", "heterogeneity=own"])
    assert open_tables(folder.path).planned == 6


@pytest.fixture
def killed(tmp_path):
    """A study over two seeds that was killed before any run completed, and its runs."""
    backbone = {"name": str(tiny_folder(tmp_path)), "device": "cpu"}
    path, out = write_study(tmp_path, axes={"seed": [0, 1]}, backbone=backbone), tmp_path / "out"
    folder, _ = run_study(path, out=out, workers=1)
    for file in out.iterdir():
        if file.is_file() and file != folder.facts:
            file.unlink()
    runs = [RunFolder(folder.run(planned.key)) for planned in load_study(path)[1]]
    for run in runs:
        run.summary.unlink()
        run.results.unlink()
    return path, folder, runs


def edit_environment(run, version=None, dtype=None):
    """Change the version or dtype that a run's environment records."""
    facts = run.read_environment()
    facts["versions"]["fedprofit"] = version or facts["versions"]["fedprofit"]
    facts["model"]["dtype"] = f"torch.{dtype}" if dtype else facts["model"]["dtype"]
    run.environment.write_text(json.dumps(facts))


def test_unfinished_runs_resume_in_their_dtype(killed):
    path, folder, runs = killed
    there = {"float32": "bfloat16", "bfloat16": "float32"}[runs[0].dtype]
    edit_environment(runs[0], dtype=there)
    with pytest.raises(
        UserError, match=rf"was started in {runs[1].dtype}, and .* was started in {there}. They"
    ):
        run_study(path, out=folder.path, workers=1, resume=True)
    shutil.rmtree(runs[1].path)
    _, progress = run_study(path, out=folder.path, workers=1, resume=True)
    assert (progress.done, progress.failed) == (2, [])
    assert read_table(folder)["dtype"].unique().to_list() == [there]


def test_study_refuses_unfinished_run_of_another_version(killed):
    path, folder, runs = killed
    edit_environment(runs[1], version="0.0.9")
    with pytest.raises(UserError, match=r"was started by version 0.0.9, this is .* remove that folder"):
        run_study(path, out=folder.path, workers=1, resume=True)
    assert not runs[0].summary.exists()
    shutil.rmtree(runs[1].path)
    runs[0].environment.write_text("{")  # damaged: reported when it runs, while the others continue
    _, progress = run_study(path, out=folder.path, workers=1, resume=True)
    assert (progress.done, len(progress.failed)) == (1, 1)
