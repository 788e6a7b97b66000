"""A study by the sequential reference has the conditions, losses and answers of the fast engine."""

import polars as pl
import pytest
from tiny_run import tiny_config

from fedprofit.config.file import from_mapping
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.runs.identity import identity
from fedprofit.studies.ledger import read_table
from fedprofit.studies.many import run_study


def test_study_by_reference_agrees_with_vectorized(tmp_path):
    run = tiny_config(tmp_path)
    run["training"]["rounds"] = 2
    run["personalization"] = [
        {"name": "near", "steps": 2, "proximal": 0.1, "evaluate_at": [1], "interpolation": [0.5]},
        {"name": "free", "steps": 2, "client": {"kind": "sgd", "rate": 0.1}},
    ]
    axes = {"partition": {"own": {"data.partition.kind": "natural"}, "iid": {"data.partition.kind": "iid"}}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml_text.dump({"name": "tiny-study", "run": run, "axes": axes}), encoding="utf-8")
    tables = []
    for engine in ("vectorized", "reference"):
        out = tmp_path / engine
        folder, progress = run_study(path, [f"backbone.engine={engine}"], out=out, workers=1)
        assert (progress.done, progress.failed) == (2, [])
        tables.append(read_table(folder))
        for log in (out / "runs").glob("*/run.log"):
            assert ("computed by single" in log.read_text("utf-8")) == (engine == "reference")
    keys = [name for name in tables[0].columns if name != "value"]
    fast, plain = (table.sort(keys) for table in tables)
    assert fast.select(keys).equals(plain.select(keys))
    assert {"base", "federated", "personalized", "local", "central", "in_context"} <= set(fast["condition"])
    compared = fast.with_columns(difference=(pl.col("value") - plain["value"]).abs())
    is_loss = pl.col("metric").is_in(["loss", "token_loss"])
    assert compared.filter(is_loss)["difference"].max() < 1e-4
    assert compared.filter(~is_loss)["difference"].max() == 0, "answers are equal"


def test_identity_ignores_engine(tmp_path):
    config = tiny_config(tmp_path)
    fast = from_mapping(config)
    config["backbone"]["engine"] = "reference"
    assert identity(from_mapping(config)) == identity(fast)


def test_reference_refuses_attention(tmp_path):
    config = tiny_config(tmp_path)
    config["backbone"] |= {"engine": "reference", "attention": "sdpa"}
    with pytest.raises(UserError, match=r"backbone.*leave out attention, which is sdpa"):
        from_mapping(config)
