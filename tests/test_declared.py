"""Each feature works with exactly the packages declared for it, in an environment without others."""

import csv
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import polars as pl
import pytest
from declared import declared, make_environment
from gguf_file import write_gguf
from tiny import tiny_folder
from tiny_run import tiny_config

from fedprofit.core import yaml_text

SCRIPT = Path(__file__).with_name("declared_paths.py")
FIRST_COMMAND = ("lexicon", "fast")  # extras that `make quickstart` installs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """One file of each supported kind of input."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").symlink_to(tiny_folder(folder))
    write_gguf(folder / "tiny.gguf", "Q4_1")
    rows = [
        {"client": f"c{n % 4}", "task": f"t{n % 2}", "input": f"say {n}", "target": f"it is {n}"}
        for n in range(48)
    ]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pl.DataFrame(rows).write_parquet(folder / "table.parquet")
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text((folder / "table.jsonl").read_text())
    (folder / "sni").mkdir()
    splits = ["train"] * 14 + ["validation"] * 4 + ["test"] * 6
    table = []
    for number in range(4):
        instances = [
            {"id": f"{number}-{n}", "input": f"say {n} of {number}", "output": [f"it is {n}"]}
            for n in range(24)
        ]
        task = {"Definition": ["Say it."], "Categories": ["Saying"], "Instances": instances}
        task |= {"Positive Examples": [], "Negative Examples": []}
        (folder / "sni" / f"task00{number}_say.json").write_text(json.dumps(task))
        table += [
            {"task_id": number, "category": "Saying", "split": split, "definition": "Say it."}
            | {"input": one["input"], "target": one["output"][0]}
            for split, one in zip(splits, instances, strict=True)
        ]
    pl.DataFrame(table, schema_overrides={"task_id": pl.Int32}).write_parquet(folder / "sni.parquet")
    (folder / "own").mkdir()
    run = tiny_config(folder / "own", backbone={"name": str(folder / "tiny.gguf"), "dtype": "float32"})
    (folder / "run.yaml").write_text(yaml_text.dump(run))
    study = {"name": "two", "base": "run.yaml", "axes": {"seed": [0, 1]}}
    (folder / "study.yaml").write_text(yaml_text.dump(study))
    return folder


@pytest.mark.parametrize(
    ("extras", "checks"),
    [
        (FIRST_COMMAND, ["backbones", "tables", "sni", "lexicon", "runs"]),
        (("hub",), ["hub"]),
        (("partitioners",), ["partitioners"]),
    ],
)
def test_declared_packages_suffice(extras, checks, inputs, tmp_path):
    try:
        python = make_environment(tmp_path / "environment", extras)
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: make .venv/.dev")
    done = subprocess.run(
        [python, SCRIPT, inputs, *checks],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("works:")[1:] == [f" {check}\n" for check in checks]


def test_declared_excludes_packages_of_other_extras():
    """Otherwise the test above would not detect an undeclared package."""
    first = declared(FIRST_COMMAND)
    assert "accelerate" in first
    assert not {"datasets", "peft", "ray", "pytest", "flwr-datasets"} & set(first)
