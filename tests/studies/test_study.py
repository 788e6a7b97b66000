"""Studies: expansion into runs, tables, kills, and refused files and folders."""

import json
import shutil
import subprocess
import time

import polars as pl
import pytest
from rich.console import Console
from tiny_run import call, command, processes_of, surroundings, tiny_config

from fedprofit.analyze.claims import SAYS
from fedprofit.analyze.curves import World
from fedprofit.analyze.fronts import fronts
from fedprofit.analyze.tables import open_tables
from fedprofit.config.file import from_mapping
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.evaluate.results import SCHEMA, write_frame
from fedprofit.report.overview import grid_cells
from fedprofit.report.studies import show_plan
from fedprofit.studies.ledger import StudyFolder, done, read_table
from fedprofit.studies.many import run_study
from fedprofit.studies.spec import identity, load_study

AXES = {
    "seed": [0, 1],
    "heterogeneity": {
        "own": {"data.partition.kind": "natural"},
        "mixed": {"data.partition.kind": "iid"},
    },
}


ORDER = [
    "run",
    "algorithm",
    "condition",
    "setting",
    "start",
    "step",
    "alpha",
    "client",
    "scope",
    "task",
    "metric",
]


def write_study(folder, axes=AXES, **changes):
    run = tiny_config(folder, **changes)
    run["personalization"] = [{"name": "tune", "steps": 2, "client": {"rate": {"grid": [0.01, 0.1]}}}]
    run["training"]["rounds"] = 2
    path = folder / "study.yaml"
    path.write_text(yaml_text.dump({"name": "tiny-study", "run": run, "axes": axes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study run by the command line with two processes."""
    place = tmp_path_factory.mktemp("study")
    path = write_study(place)
    ended = call("study", path, "--out", place / "out", "--workers", "2", cwd=place)
    assert ended.returncode == 0, ended.stderr
    return path, StudyFolder(place / "out"), ended.stdout


def test_load_study_expands_axes_and_grids(tmp_path):
    study, runs = load_study(write_study(tmp_path))
    assert [run.axes for run in runs] == [
        {"seed": seed, "heterogeneity": level} for seed in (0, 1) for level in ("own", "mixed")
    ]
    assert len({run.key for run in runs}) == 4
    for run in runs:
        assert run.config.seed == run.axes["seed"]
        assert [(one.name, one.client.rate) for one in run.config.personalization] == [
            ("tune-rate0.01", 0.01),
            ("tune-rate0.1", 0.1),
        ]
    assert runs[1].config.data.partition.kind == "iid"
    assert study.name == runs[0].config.name


def test_run_key_ignores_paths_and_execution_settings(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    _, here = load_study(write_study(tmp_path))
    path = write_study(tmp_path)
    moved = str(tmp_path / "elsewhere" / "table.jsonl")
    model = f"backbone.name={here[0].config.backbone.name}"
    execution = ["backbone.workers=1", "backbone.attention=eager", "backbone.token_budget=77"]
    _, there = load_study(path, [f"data.source.path={moved}", model, *execution])
    assert [run.key for run in here] == [run.key for run in there]
    _, other = load_study(path, ["training.rounds=3"])
    assert not {run.key for run in here} & {run.key for run in other}


def test_study_tables_match_tables_of_runs(finished):
    _, folder, output = finished
    table = read_table(folder)
    assert table["run"].n_unique() == 4
    assert set(table["axis.heterogeneity"]) == {"own", "mixed"}
    settings = pl.read_parquet(folder.settings)
    assert not settings["setting_id"].is_duplicated().any(), "one row for all runs"
    assert set(settings["setting_id"]) == set(table["setting_id"])
    rates = settings.drop_nulls("personalization.client.rate")["personalization.client.rate"]
    assert set(rates) == {0.01, 0.1}
    for key in done(folder):
        own = pl.read_parquet(folder.run(key) / "results.parquet")
        assert table.filter(pl.col("run") == key).select(*SCHEMA).equals(own)
        summary = json.loads((folder.run(key) / "summary.json").read_text())
        assert set(table.filter(pl.col("run") == key)["tv"]) == {summary["data"]["heterogeneity"]}
    rounds = pl.read_parquet(folder.rounds)
    assert len(rounds) == 4 * 2 * 2, "runs, algorithms, rounds"
    assert rounds["loss"].is_not_null().all()
    assert rounds["tokens"].min() > 0
    assert "4 runs in the table" in output
    trials = pl.read_parquet(folder.trials)
    assert len(trials) == 4 * 2, "runs, algorithms"
    last = rounds.group_by("run", "algorithm", maintain_order=True).agg(pl.col("validation_loss").last())
    assert trials["validation_loss"].to_list() == last["validation_loss"].to_list()


@pytest.mark.parametrize("name", ["rounds", "trials", "clients", "times"])
def test_damaged_table_is_named(finished, tmp_path, name):
    _, folder, _ = finished
    copy = StudyFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path, ignore=shutil.ignore_patterns("runs"))
    (copy.path / f"{name}.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=f"{name}.parquet: is damaged.* Restore it, or delete it"):
        open_tables(copy.path)
    (copy.path / f"{name}.parquet").unlink()
    assert len(open_tables(copy.path).results)


@pytest.mark.parametrize("lost", ["table", "column"])
def test_damaged_results_are_rebuilt_from_runs(finished, tmp_path, lost):
    path, folder, _ = finished
    copy = StudyFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    if lost == "table":
        copy.results.write_bytes(b"PAR1 cut off")
    else:
        write_frame(copy.results, read_table(folder).drop("version"))
    with pytest.raises(UserError, match=r"results\.parquet: .* Restore it, or move it away and .* --resume"):
        run_study(path, out=copy.path, workers=1, resume=True)
    copy.results.rename(tmp_path / "away.parquet")
    taken, _ = run_study(path, out=copy.path, workers=1, resume=True)
    assert read_table(taken).sort(pl.all()).equals(read_table(folder).sort(pl.all()))


def test_report_and_compare_refuse_unfinished_run(finished, tmp_path):
    _, folder, _ = finished
    complete, unfinished = folder.run(done(folder).pop()), tmp_path / "unfinished"
    shutil.copytree(complete, unfinished)
    (unfinished / "results.parquet").unlink()
    for command_line in (
        ("report", unfinished),
        ("compare", complete, unfinished),
        ("recommend", unfinished, "--max-forgetting", "1"),
    ):
        ended = call(*command_line, cwd=tmp_path)
        assert ended.returncode == 2
        assert "the run is unfinished. Resume it: fedprofit run" in " ".join(ended.stderr.split())


def test_study_records_configuration_of_each_run(finished):
    _, folder, _ = finished
    kept = read_json(folder.configurations, "")
    assert set(kept) == done(folder)
    for key, mapping in kept.items():
        assert mapping["data"]["source"]["path"] == "table.jsonl", "no path of this machine"
        assert identity(from_mapping(mapping)) == key
    _, configuration = yaml_text.load_all(open_tables(folder.path).configuration)
    assert configuration == kept[read_table(folder)["run"][0]]


def test_resume_skips_runs_in_table_without_folders(finished, tmp_path):
    path, folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy)
    shutil.rmtree(copy / "runs")
    taken, progress = run_study(path, out=copy, workers=1, resume=True)
    assert progress.total == 0
    assert not (copy / "runs").exists()
    assert read_table(taken).equals(read_table(folder))
    for file in copy.iterdir():
        if file != taken.results:
            file.unlink()
    assert run_study(path, out=copy, workers=1, resume=True)[1].total == 0, "the table is sufficient"
    assert open_tables(copy).name == "tiny-study"


def test_study_gives_same_table_when_killed_repeatedly(finished, tmp_path):
    path, folder, _ = finished
    out, kills = tmp_path / "killed", 0
    for pause in (4.0, 6.0, 8.0):
        process = subprocess.Popen(
            command("study", path, "--out", out, "--workers", "1", *["--resume"] * bool(kills)),
            cwd=tmp_path,
            env=surroundings() | {"TAG": str(out)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(pause)
        kills += process.poll() is None
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while processes_of(str(out)):
            assert time.monotonic() < deadline, "its processes outlive it"
            time.sleep(0.02)
    assert kills >= 2
    ended = call("study", path, "--out", out, "--workers", "2", "--resume", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert read_table(StudyFolder(out)).sort(ORDER).equals(read_table(folder).sort(ORDER))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {"seed": []}}, "axis 'seed' is empty"),
        (
            {"axes": {"seed": 3}},
            r"'axes.seed': should be a list or a section with keys \(found 3\)\.",
        ),
        ({"data": {"source": {"kind": "lexicon"}}}, "the configuration of one run.*fedprofit run"),
        ({"axes": {"training.round": [1, 2]}}, "training.round.*rounds"),
        ({"axes": {"seed": [0, 0]}}, "are the same"),
        ({"axes": {"name": {"a": {}, "b": {}}}}, "are the same"),
        (
            {"axes": {"seed": {"few": {"training.rounds": 1}, "many": {"training.rounds": 2}}}},
            "axis 'seed': its value 'few' sets no seed. Let the axis named seed set the run's seed",
        ),
        (
            {"axes": {"seed": {"few": {"seed": 1}, "many": {"seed": 1, "training.rounds": 3}}}},
            "the runs seed few and seed many both have seed 1. Let the axis named seed set the run's seed",
        ),
        ({"axis": {"seed": [0]}}, "axis.*axes"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
        ({"axes": {"personalization.0.steps.more": [1]}}, "nothing can be set below"),
        (
            {"axes": {"backbone.dtype": ["float32", "bfloat16"]}},
            "several models or dtypes.*fedprofit compare",
        ),
        (
            {"axes": {"data.clients.train": [1, 2], "my.train": {"a": {"training.rounds": 1}}}},
            "two axes are named 'train'",
        ),
    ],
)
def test_load_study_names_problem(tmp_path, change, message):
    path = write_study(tmp_path)
    path.write_text(yaml_text.dump(yaml_text.load(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_study(path)


def test_load_study_names_empty_grid(tmp_path):
    path = write_study(tmp_path)
    study = yaml_text.load(path.read_text())
    study["run"]["personalization"][0]["client"]["rate"]["grid"] = []
    path.write_text(yaml_text.dump(study))
    with pytest.raises(UserError, match="tune: a grid is empty"):
        load_study(path)


def test_study_inherits_from_base_study(tmp_path):
    _, base_runs = load_study(write_study(tmp_path))
    derived = tmp_path / "derived.yaml"
    changes = {"training": {"rounds": 5}, "personalization": []}
    derived.write_text(
        yaml_text.dump({"name": "derived", "base": "study.yaml", "run": changes, "axes": {"seed": [7]}})
    )
    study, runs = load_study(derived)
    assert study.name == "derived"
    assert [run.axes for run in runs] == [
        {"seed": 7, "heterogeneity": "own"},
        {"seed": 7, "heterogeneity": "mixed"},
    ]
    for run in runs:
        assert run.config.training.rounds == 5
        assert run.config.training.algorithms == base_runs[0].config.training.algorithms
        assert run.config.personalization == ()
    derived.write_text(yaml_text.dump({"name": "derived", "base": "derived.yaml", "axes": {"seed": [7]}}))
    with pytest.raises(UserError, match="is a base of itself"):
        load_study(derived)


def test_load_study_limits_number_of_runs(tmp_path):
    path = write_study(tmp_path, axes={"seed": list(range(101))})
    with pytest.raises(UserError, match=r"101 runs, more than its most_runs \(100\).*--yes"):
        run_study(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(load_study(path, yes=True)[1]) == 101
    assert len(load_study(path, only=["seed=3", "seed=4"])[1]) == 2, "only selected runs count"
    path = write_study(tmp_path, axes={"seed": list(range(1000)), "training.rounds": list(range(1, 1001))})
    with pytest.raises(UserError, match="1000000 runs"):  # fast, because none of them is built
        load_study(path)


def test_study_refuses_folder_with_other_content(finished, tmp_path):
    path, folder, _ = finished
    with pytest.raises(UserError, match="contains this study already"):
        run_study(path, out=folder.path)
    other = tmp_path / "other.yaml"
    study = yaml_text.load(path.read_text())
    other.write_text(yaml_text.dump(study | {"name": "other"}))
    with pytest.raises(UserError, match="contains the study 'tiny-study', not 'other'"):
        run_study(other, out=folder.path, resume=True)
    other.write_text(yaml_text.dump(study | {"axes": {"seed": [0]}}))
    with pytest.raises(UserError, match="with the axes seed, heterogeneity, now they are seed"):
        run_study(other, out=folder.path, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("mine")
    single = folder.run(next(iter(done(folder))))
    for place in (tmp_path / "full", single):
        with pytest.raises(UserError, match="is not empty and not a study"):
            run_study(path, out=place, resume=True)


def test_claims_refuse_table_of_mixed_versions(finished, tmp_path):
    _, folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy)
    table = read_table(folder)
    first = table["run"][0]
    old = pl.when(pl.col("run") == first).then(pl.lit("0.0.1")).otherwise(pl.col("version"))
    write_frame(copy / "results.parquet", table.with_columns(version=old))
    ended = call("claims", copy, cwd=tmp_path)
    assert ended.returncode == 2
    assert "several versions" in " ".join(ended.stderr.split())


def test_claims_are_printed_and_written(finished, tmp_path):
    _, folder, _ = finished
    ended = call("claims", folder.path, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert max(map(len, ended.stdout.splitlines()[:-1])) <= 80
    page = (folder.path / "claims.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| C")]
    overview, lines = rows[: len(SAYS)], rows[len(SAYS) :]
    assert [row[0] for row in lines] == list(SAYS) * 4, "a table for each metric"
    assert {row[1] for row in lines} <= {"supported", "not shown", "contradicted", "not tested"}
    written = json.loads((folder.path / "claims.json").read_text())
    assert [one["verdict"] for one in written] == [row[1] for row in lines]
    by_claim = [[row[1] for row in lines[at :: len(SAYS)]] for at in range(len(SAYS))]
    assert [row[1:] for row in overview] == by_claim
    assert "C1: a small personalization rate" in overview[0][0]
    assert "Verdicts" in ended.stdout


def test_study_over_seeds_is_one_cell(finished, tmp_path):
    """Small differences in heterogeneity between seeds do not separate cells."""
    _, folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy, ignore=shutil.ignore_patterns("runs"))
    mixed = read_table(folder).filter(pl.col("axis.heterogeneity") == "mixed")
    assert mixed["tv"].n_unique() == 2
    write_frame(copy / "results.parquet", mixed.drop("axis.heterogeneity"))
    facts = read_json(copy / "study.json", "")
    (copy / "study.json").write_text(json.dumps(facts | {"axes": ["seed"]}))
    tables = open_tables(copy)
    (cell,) = grid_cells(tables)
    assert (cell.seeds, cell.clients) == (2, 4)
    # Rows of runs that are not in the results are ignored in the other tables.
    assert set(tables.rounds["run"]) == set(mixed["run"])


def test_analysis_ignores_steps_missing_for_some_seeds(finished, tmp_path):
    _, folder, _ = finished
    table = read_table(folder)
    late = (pl.col("seed") == 1) & (pl.col("metric") == "rouge_l") & (pl.col("setting") == "tune-rate0.1")
    early = table.filter(late).with_columns(step=pl.lit(1, pl.Int64), value=pl.lit(100.0))
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy, ignore=shutil.ignore_patterns("runs"))
    write_frame(copy / "results.parquet", pl.concat([table, early]))
    more, less = open_tables(copy), open_tables(folder.path)
    for with_early, without in zip(grid_cells(more), grid_cells(less), strict=True):
        assert with_early.rows == without.rows
    metric = "rouge_l"
    assert list(fronts(more.results, more.axes, metric)) == list(fronts(less.results, less.axes, metric))
    ours, theirs = (World(tables.results, tables.axes, metric) for tables in (more, less))
    for one in theirs.settings():
        assert ours.along_steps(one).local.shape == theirs.along_steps(one).local.shape


def test_dry_run_lists_runs_without_starting_them(finished, tmp_path):
    path, folder, _ = finished
    ended = call("study", path, "--out", tmp_path / "new", "--dry-run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("to do") == 4
    assert "measured on this machine" in " ".join(ended.stdout.split())
    assert not (tmp_path / "new").exists()
    repeated = call("study", path, "--out", folder.path, "--dry-run", cwd=tmp_path)
    assert repeated.stdout.count("done") == 4
    other = call("study", path, "--out", folder.path, "--set", "training.rounds=3", "--dry-run", cwd=tmp_path)
    assert other.returncode == 2
    assert "of another configuration" in " ".join(other.stderr.split())
    more = tmp_path / "more.yaml"
    mapping = yaml_text.load(path.read_text())
    more.write_text(yaml_text.dump(mapping | {"axes": mapping["axes"] | {"training.rounds": [1, 2]}}))
    with pytest.raises(UserError, match=r"with the axes seed, heterogeneity, now they are .*, rounds"):
        show_plan(more, [], folder.path, 1, Console())


def test_axis_values_may_be_lists(tmp_path):
    metrics = [["loss", "rouge_l"], ["loss", "exact_match"]]
    path = write_study(tmp_path, axes={"seed": [0, 1], "evaluation.metrics": metrics})
    assert [(run.axes["metrics"], run.config.seed) for run in load_study(path)[1]] == [
        (one, seed) for seed in (0, 1) for one in metrics
    ]
