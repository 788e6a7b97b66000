"""Run by tests/test_declared.py in an environment with exactly the declared packages; uses every feature.

Usage: declared_paths.py FOLDER CHECK..., where FOLDER has what `test_declared.py` wrote there.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

import fedprofit
from fedprofit.backbone.load import load_backbone
from fedprofit.config.file import load_config
from fedprofit.data.federated import open_dataset
from fedprofit.data.settings import DataConfig
from fedprofit.report.write import write_report
from fedprofit.studies.many import run_study

FOLDER = Path(sys.argv[1] if __name__ == "__main__" else ".")
CLIENTS = {"train": 2, "validation": 1, "test": 1}


def opened(source: dict, **settings: object) -> None:
    """Make a data set of a source and read an example of it."""
    counts = {"train": 2, "validation": 1, "test": 1}
    data = {"source": source, "clients": CLIENTS, "examples": counts} | settings
    config = fedprofit.from_mapping(
        {"name": "one", "data": data, "training": {"algorithms": [{"kind": "fedsgd", "name": "sgd"}]}}
    )
    assert isinstance(config.data, DataConfig)
    dataset = open_dataset(config.data, load_backbone(str(FOLDER / "model"), "float32", "cpu"), 0)
    assert len(dataset.pooled("train", "train")[0].target)


def check_backbones() -> None:
    """A folder, and a GGUF file."""
    for name in ("model", "tiny.gguf"):
        assert load_backbone(str(FOLDER / name), "float32", "cpu").width == 32


def check_tables() -> None:
    """The three formats of a user's own table."""
    for name in ("table.jsonl", "table.csv", "table.parquet"):
        columns = {"client": "client", "task": "task"}
        opened({"kind": "table", "path": str(FOLDER / name), "columns": columns})


def check_sni() -> None:
    """Task files in the official layout, and a table."""
    opened({"kind": "sni", "path": str(FOLDER / "sni")})
    opened({"kind": "sni", "path": str(FOLDER / "sni.parquet")})


def check_lexicon() -> None:
    """Every embedded task, which needs all packages with facts."""
    opened({"kind": "lexicon", "instances": 20})


def check_hub() -> None:
    """A local data set in the hub's format."""
    opened({"kind": "hub", "name": str(FOLDER / "hub"), "columns": {"client": "client"}})


def check_partitioners() -> None:
    """A partitioner of flwr-datasets."""
    partition = {"kind": "flwr", "partitioner": "IidPartitioner", "options": {"num_partitions": 4}}
    opened({"kind": "table", "path": str(FOLDER / "table.jsonl")}, partition=partition)


def check_runs() -> None:
    """A run and a study, with their reports: tables, pictures and pages."""
    run = fedprofit.run(load_config(FOLDER / "run.yaml"), out=FOLDER / "run")
    write_report(run.path, Console(quiet=True))
    folder, progress = run_study(FOLDER / "study.yaml", [], FOLDER / "study", 1, False, True, None)
    assert not progress.failed
    write_report(folder.path, Console(quiet=True))
    assert (run.path / "report.html").exists()
    assert (run.path / "tradeoff.png").exists()


if __name__ == "__main__":
    os.environ["FEDPROFIT_CACHE"] = str(FOLDER / "cache")
    for check in sys.argv[2:]:
        globals()[f"check_{check}"]()
        print("works:", check)
