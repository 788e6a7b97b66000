"""A run executes its list of stages."""

import polars as pl
from tiny_run import tiny_config

import fedprofit
from fedprofit.core.reading import read_json
from fedprofit.runs.bench import prepare
from fedprofit.runs.progress import Quiet
from fedprofit.runs.stages import stages_of


class Recorder(Quiet):
    """Records what a run reports."""

    def __init__(self):
        super().__init__()
        self.stages, self.done = [], {}

    def begin(self, stage):
        self.stages.append(stage)
        super().begin(stage)

    def advance(self, cost, message=""):
        self.done[self.stages[-1]] = self.done.get(self.stages[-1], 0.0) + cost
        super().advance(cost, message)


def test_stages_run_as_planned(tmp_path):
    mapping = tiny_config(tmp_path)
    mapping["evaluation"] |= {"validation": True}
    mapping["training"] |= {"rounds": 2}
    two = [{"kind": "fedsgd", "name": f"s{n}", "method": "s", "server": {"rate": 0.1 * n}} for n in (1, 2)]
    mapping["training"]["algorithms"] = two
    mapping["baselines"] = {
        name: [{"name": f"{name}{n}", "steps": n} for n in (1, 2)] for name in ("local", "central")
    }
    config = fedprofit.from_mapping(mapping)
    planned, recorder = stages_of(prepare(config)), Recorder()
    folder = fedprofit.run(config, tmp_path / "out", report=recorder)
    names = [stage.name for stage in planned]
    assert recorder.stages == names
    assert list(read_json(folder.timing, "")) == names
    assert recorder.done == {stage.name: stage.cost for stage in planned}
    free = {stage.name for stage in planned if not stage.cost}
    assert free == {"majority", "copy_input"}, "they need no model"
    for stage in planned:
        assert folder.part(stage.name).exists() == bool(stage.table), stage.name
    for table, path in (("results", folder.results), ("validation", folder.validation)):
        parts = [folder.part(stage.name) for stage in planned if stage.table == table]
        assert pl.read_parquet(path).height == sum(pl.read_parquet(part).height for part in parts) > 0


def test_stage_costs_scale_with_rounds(tmp_path):
    mapping = tiny_config(tmp_path)
    few, more = ({**mapping, "training": {**mapping["training"], "rounds": rounds}} for rounds in (2, 4))
    costs = [
        {stage.name: stage.cost for stage in stages_of(prepare(fedprofit.from_mapping(one)))}
        for one in (few, more)
    ]
    assert costs[1]["train-avg"] == 2 * costs[0]["train-avg"]
    assert costs[1]["base"] == costs[0]["base"]
