"""Runs on a plug-in's data source and on rows in memory: trained, resumed, refused if rows changed."""

import sys
from pathlib import Path

import pytest
from tiny_run import WORDS, tiny_config, write_config

import fedprofit
from fedprofit import plugins
from fedprofit.config.component import FAMILIES
from fedprofit.config.file import from_mapping, load_config
from fedprofit.core.errors import UserError
from fedprofit.data.memory import dataset

PLUGIN = Path(__file__).parents[2] / "examples" / "plugins" / "function_source.py"
SHORT = {
    "training": {"rounds": 1, "cohort": 2, "evaluate_every": 1, "algorithms": [{"kind": "fedsgd"}]},
    "personalization": [],
    "baselines": {"local": None, "central": None},
    "evaluation": {"metrics": ["loss"], "global_examples": 4, "unseen_examples": 2},
}
CLIENTS = {"train": 3, "validation": 1, "test": 2}


@pytest.fixture
def plugin(monkeypatch):
    """The example's module, loaded as by --plugin; removed afterwards."""
    family = FAMILIES["data source"]
    family.all_kinds()
    monkeypatch.setattr(family, "kinds", dict(family.kinds))
    monkeypatch.setattr(plugins, "_files", {})
    plugins.load_files([PLUGIN])
    (file,) = plugins.loaded_files()
    yield sys.modules[file.module]
    del sys.modules[file.module]


def losses(folder):
    return fedprofit.read_results(folder.path)["value"].to_list()


def test_example_fits_sixty_lines():
    assert len(PLUGIN.read_text("utf-8").splitlines()) <= 60


def test_function_source_trains_through_yaml_and_python(plugin, tmp_path, monkeypatch):
    data = {"source": {"kind": "arithmetic", "clients": 6, "rows": 20}, "clients": CLIENTS}
    data |= {"examples": None}
    path = write_config(tmp_path, data=data, **SHORT)
    by_yaml = fedprofit.run(load_config(path), tmp_path / "yaml")
    facts = by_yaml.read_environment()
    assert facts["plugins"]["data source arithmetic"].startswith("function_source.py, sha256 ")
    source = plugin.Arithmetic(clients=6, rows=20)
    config = from_mapping(tiny_config(tmp_path, data=data | {"source": source}, **SHORT))
    by_python = fedprofit.run(config, tmp_path / "python")
    assert losses(by_yaml) == losses(by_python)
    assert fedprofit.run(config, tmp_path / "python", resume=True).is_complete
    original = plugin.OPERATIONS["sum"]
    monkeypatch.setitem(plugin.OPERATIONS, "sum", lambda a, b: original(a, b) + 1)
    with pytest.raises(UserError, match="the data changed since"):
        fedprofit.run(config, tmp_path / "python", resume=True)


def test_rows_from_memory_train_and_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    rows = {
        f"c{client}": [
            {"input": f"{a} {b}", "target": (a, b)[client % 2]} for a in WORDS[:5] for b in WORDS[:4]
        ]
        for client in range(6)
    }
    data = {"source": dataset(rows), "clients": CLIENTS, "examples": None}
    config = from_mapping(tiny_config(tmp_path, data=data, **SHORT))
    folder = fedprofit.run(config, tmp_path / "memory")
    assert all(value > 0 for value in losses(folder))
    again = load_config(folder.config)
    assert again == config
    assert fedprofit.run(again, folder.path, resume=True).is_complete
    config.data.source.path.unlink()
    (tmp_path / "cache" / "data").rename(tmp_path / "elsewhere")
    folder.results.unlink()
    with pytest.raises(UserError, match=r"are not in the cache .*memory\.dataset"):
        fedprofit.run(again, folder.path, resume=True)
