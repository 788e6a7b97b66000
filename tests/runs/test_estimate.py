"""The estimated cost of a run, compared with the tokens that the backbone reads for its batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import tiny_config

import fedprofit
from fedprofit.backbone.forward import Row, count_tokens
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.runs.bench import prepare
from fedprofit.runs.cost import TRAINED, measure
from fedprofit.studies.estimate import SAMPLED, typical
from fedprofit.studies.spec import PlannedRun, load_study

PAPER = Path(__file__).parents[2] / "studies" / "paper"


@pytest.fixture(scope="module", params=["rule", "job"])
def bench(request, tmp_path_factory):
    """Clients whose examples all share one definition, or have one of several each."""
    config = tiny_config(tmp_path_factory.mktemp(request.param))
    config["data"]["source"]["columns"]["definition"] = request.param
    config["tuner"]["length"] = 30  # long, so that the number of prompt reads matters
    return prepare(fedprofit.from_mapping(config))


def test_training_cost_matches_tokens_read(bench):
    draw, read = np.random.default_rng(0), []
    for client in bench.sets.clients:
        examples = bench.train_examples(client)
        for _ in range(100):
            rows = [Row(0, example) for example in examples.take(draw.permutation(len(examples))[:4])]
            read.append(count_tokens(rows, bench.config.tuner.tokens))
    assert measure(bench).trained(clients=2, steps=3, rows=4) == pytest.approx(
        TRAINED * 2 * 3 * np.mean(read), rel=0.07
    )


def test_scoring_cost_matches_tokens_read(bench):
    shared = [example for examples in bench.sets.shared.values() for example in examples]
    rows = [
        Row(index, example)
        for index, own in enumerate(bench.sets.local.values())
        for example in [*own, *shared]
    ]
    read = count_tokens(rows, bench.config.tuner.tokens)
    assert measure(bench).scored(len(rows), new_tokens=0) == pytest.approx(read, rel=0.07)


def test_cost_includes_clients_validation_examples(bench):
    config = bench.config.model_copy(
        update={"evaluation": bench.config.evaluation.model_copy(update={"metrics": (LOSS,)})}
    )
    sizes, unchecked = measure(bench), replace(measure(bench), checked=0)
    own = [Row(0, example) for examples in bench.sets.validation.values() for example in examples]
    assert own
    read = sum(len(row.example.source) + len(row.example.target) for row in own)
    assert sizes.once(config) - unchecked.once(config) >= 0.9 * read
    (settings, *_) = config.personalization
    points = len([step for step in settings.evaluate_at if step < settings.steps]) + 1
    checks = sizes.tuned(config, settings) - unchecked.tuned(config, settings)
    assert checks >= 0.9 * (points + len(settings.interpolation)) * read


def test_typical_returns_one_run_per_cell():
    _, runs = load_study(PAPER / "cpu.yaml")
    looked = typical(runs)
    assert [run.axes["heterogeneity"] for run, _ in looked] == ["task", "tasks", "iid"]
    assert [like_it for _, like_it in looked] == [3, 3, 3]
    many = [PlannedRun(str(number), {"rate": number, "seed": 0}, runs[0].config) for number in range(50)]
    assert 1 < len(typical(many)) <= SAMPLED
    lists = [PlannedRun(str(number), {"interpolation": [number]}, runs[0].config) for number in range(2)]
    assert [run.key for run, _ in typical(lists)] == ["0", "1"]
