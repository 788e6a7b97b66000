"""The command line: printing of users' names, version, options, and early checks."""

import io
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
from tiny_run import call, command, tiny_config, write_config
from typer.testing import CliRunner

import fedprofit
from fedprofit import cli, doctor
from fedprofit.config.file import from_mapping, load_config
from fedprofit.core import processes, yaml_text
from fedprofit.core.errors import UserError, printable
from fedprofit.core.processes import usable_cores
from fedprofit.runs.progress import EARLY, Quiet
from fedprofit.studies import many


@pytest.mark.parametrize("name", ["[/a]x", "[red]x", ":smile:", "\x1b[2J\u202ex"])
def test_data_prints_names_without_markup(name, tmp_path):
    config = tiny_config(tmp_path)
    table = tmp_path / "table.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    renamed = [row | {"who": name + row["who"], "job": name + row["job"]} for row in rows]
    table.write_text("\n".join(map(json.dumps, renamed)))
    config["data"]["unseen_tasks"] = 0
    (tmp_path / "it.yaml").write_text(yaml_text.dump(config))
    done = call("data", "it.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{printable(name)}c0 (" in done.stdout
    assert f"{printable(name)}job" in done.stdout
    assert printable(done.stdout) == done.stdout


def test_data_explains_missing_task_column(tmp_path):
    config = tiny_config(tmp_path)
    del config["data"]["source"]["columns"]["task"]
    config["data"]["unseen_tasks"] = 0
    (tmp_path / "it.yaml").write_text(yaml_text.dump(config))
    assert "name a column of tasks" in " ".join(call("data", "it.yaml", cwd=tmp_path).stdout.split())


def test_doctor_names_missing_extras(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    with cli.console.capture() as captured:
        cli.console.print(doctor.machine())
    for extra in doctor.EXTRAS:
        assert f"'fedprofit[{extra}]'" in captured.get()


def test_version_option_prints_package_version(tmp_path):
    # In a new process, as a user starts it.
    done = subprocess.run(command("--version"), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"fedprofit {version('fedprofit')}"


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["--ray", "--resume"], "local"),
        (["--ray"], "local"),
        (["--ray", "host:6379", "--resume"], "host:6379"),
        (["--ray=host:6379"], "host:6379"),
        (["--ray", "rates.yaml"], "local"),
        (["--resume"], None),
    ],
)
def test_ray_option_has_optional_address(arguments, address, monkeypatch):
    def reached(*given, **named):
        raise UserError(f"at {given[6]}")

    monkeypatch.setattr(many, "run_study", reached)
    named = [] if "rates.yaml" in arguments else ["rates.yaml"]
    ended = CliRunner().invoke(cli.app, ["study", *named, *arguments])
    assert str(ended.exception) == f"at {address}"


def test_dry_run_refuses_cluster():
    ended = CliRunner().invoke(cli.app, ["study", "rates.yaml", "--dry-run", "--ray"])
    assert "measures this machine, not a cluster" in str(ended.exception)


def test_usable_cores_respects_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7})
    assert usable_cores() == 3


@pytest.mark.parametrize(("share", "cores"), [("150000 100000", 2), ("20000 100000", 1), ("max 100000", 8)])
def test_usable_cores_respects_container_quota(monkeypatch, tmp_path, share, cores):
    (tmp_path / "cpu.max").write_text(share + "\n")
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert usable_cores() == cores


def test_load_config_refuses_study(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("{name: many, base: one.yaml, axes: {seed: [0, 1]}}")
    with pytest.raises(UserError, match=r"many.yaml: is a study.*fedprofit study"):
        load_config(path)


def test_remaining_time_is_shown_after_enough_work(monkeypatch):
    progress = Quiet(total=100.0)
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 60)
    progress.advance(100 * EARLY)
    assert progress.left() == ""
    progress.advance(20 - 100 * EARLY)
    assert progress.left() == "4 min 00 s left"
    resumed = Quiet(total=100.0)
    resumed._began = began
    resumed.skip(90)
    assert resumed.left() == "", "skipped work does not count for the speed"
    resumed.advance(5)
    assert resumed.left() == "1 min 00 s left"


def test_public_names_are_listed_without_imports():
    code = "import fedprofit, sys; print(*dir(fedprofit)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = (line.split() for line in done.stdout.splitlines())
    assert {*fedprofit.__all__, "__version__"} <= set(listed)
    assert not {"torch", "polars", "pydantic"} & set(imported)
    assert all(getattr(fedprofit, name) for name in fedprofit.__all__)
    assert fedprofit.__version__ == version("fedprofit")
    with pytest.raises(AttributeError, match="no attribute 'rums'"):
        fedprofit.rums  # noqa: B018


def test_api_accepts_paths_as_text(tmp_path):
    config = fedprofit.load_config(str(write_config(tmp_path)))
    folder = fedprofit.run(config, out=str(tmp_path / "out"))
    assert folder.path == tmp_path / "out"
    assert len(fedprofit.read_results(str(folder.path))) == len(fedprofit.read_results(folder.path)) > 0
    fedprofit.write_report(str(folder.path))
    assert (folder.path / "report.html").stat().st_size > 1e6


def test_main_reports_unwritable_output(monkeypatch, capfd):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    kept = os.dup(1)
    monkeypatch.setattr(sys, "argv", ["fedprofit", "models", "list"])
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    os.dup2(kept, 1)
    os.close(kept)
    assert ended.value.code == 2
    assert "The output cannot be written (No space left on device)" in " ".join(
        capfd.readouterr().err.split()
    )


def test_reading_results_does_not_import_torch():
    """Importing torch and transformers takes seconds. Reports, claims and comparisons do not need them."""
    reads = [
        "data.federated",
        "studies.ledger",
        "report.write",
        "report.studies",
        "report.choices",
        "report.page",
        "report.figure",
        "studies.many",
    ]
    words = "import sys, " + ", ".join(f"fedprofit.{module}" for module in reads)
    check = f"{words}; print({{'torch', 'transformers', 'scipy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["run", "data", "doctor", "study"])
def test_commands_refuse_bad_rows_before_loading_libraries(name, tmp_path, monkeypatch):
    def too_early(*_):
        raise AssertionError("libraries were loaded first")

    for module in (cli.compute, cli.inputs):
        monkeypatch.setattr(module, "load_libraries", too_early)
    monkeypatch.setattr(many, "Processes", too_early)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("who,input,target\na,x,\nb,,y\n")
    columns = {"client": "who"}
    config = {
        "name": "it",
        "data": {"source": {"kind": "table", "path": "table.csv", "columns": columns}},
        "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]},
    }
    (tmp_path / "it.yaml").write_text(yaml_text.dump(config))
    (tmp_path / "many.yaml").write_text("{name: many, base: it.yaml, axes: {seed: [0, 1]}}")
    ended = CliRunner().invoke(cli.app, [name, "many.yaml" if name == "study" else "it.yaml"])
    assert isinstance(ended.exception, UserError)
    assert "2 of 2 rows cannot be used" in str(ended.exception)
    assert not (tmp_path / "runs").exists()


def test_arrow_creates_arrays_without_importing_pandas():
    check = (
        "import sys; from fedprofit.core.processes import arrow_without_pandas; arrow_without_pandas();"
        "import pyarrow as pa; table = pa.table({'a': pa.array(['x'])}); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_doctor_measures_memory_of_computing_device(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: True)  # a GPU that the run does not use
    monkeypatch.setattr(doctor.torch.cuda, "max_memory_allocated", lambda *_: 0)
    with cli.console.capture() as captured:
        cli.console.print(doctor.estimate(from_mapping(tiny_config(tmp_path))))
    assert float(re.search(r"([\d.]+) GiB at", captured.get()).group(1)) > 0.1
