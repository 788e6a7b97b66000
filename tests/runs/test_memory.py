"""Out of memory: the allocator's error becomes a UserError that names the setting to lower."""

import pytest
import torch
from tiny_run import tiny_config

import fedprofit
from fedprofit.backbone import paths
from fedprofit.core.errors import UserError


def test_out_of_memory_names_the_setting(tmp_path, monkeypatch):
    def too_much(*_):
        return torch.empty(2**50)  # a petabyte, which the allocator refuses

    config = fedprofit.from_mapping(tiny_config(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(paths, "losses", too_much)
        with pytest.raises(UserError, match=rf"token_budget \(now {config.backbone.token_budget}\)"):
            fedprofit.run(config, out=tmp_path / "out")
    assert not (tmp_path / "out" / "results.parquet").exists()
    done = fedprofit.run(config, out=tmp_path / "out", resume=True)
    assert done.results.exists(), "with enough memory, the run resumes"
