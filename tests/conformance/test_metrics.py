"""Checks of every metric, built in or not: one table row each, the same checks for all."""

import json
from itertools import pairwise
from math import inf, isnan
from pathlib import Path

import numpy as np
import pytest

from fedprofit import plugins
from fedprofit.catalogue import field_texts, summary
from fedprofit.config.component import where_of
from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.core import yaml_text
from fedprofit.core.types import Example
from fedprofit.evaluate.checks import checked_value
from fedprofit.evaluate.facts import DataFacts, MetricFacts
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.score import judge

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
BUILT_IN = [kind for kind, metric in Metric.family.all_kinds().items() if metric.is_built_in()]
FROM_FILES = ["token_f1", "macro_f1"]
WORDS = ["yes", "no", "the", "red", "Red!", "7", "7.0", "苹果", "é", "😀", ""]
DATA = DataFacts("table", targets=9, unread_targets=2)


@pytest.fixture(params=[*BUILT_IN, *FROM_FILES])
def metric(request, monkeypatch):
    """Each metric with its defaults, resolved for a data set."""
    monkeypatch.setattr(Metric.family, "kinds", dict(Metric.family.all_kinds()))
    monkeypatch.setattr(plugins, "_files", {})
    if request.param in FROM_FILES:
        plugins.load_files([PLUGINS / f"{request.param}.py"])
    return Metric.family.find(request.param)().resolve(DATA)


def answers(seed=0, count=40, right=False):
    """Random answers to examples of three tasks; `right`: each is its first reference."""
    draw = np.random.default_rng(seed)
    found = []
    for row in range(count):
        texts = [" ".join(draw.choice(WORDS, draw.integers(1, 4))) for _ in range(3)]
        references = (f"{texts[0]} x", texts[1])
        tokens = np.zeros(draw.integers(1, 9), np.int32)
        example = Example(tokens, tokens, tokens, f"task{draw.integers(3)}", references, row)
        found.append(Answer(example, float(draw.exponential(5)), references[0] if right else texts[2]))
    return found


def value(metric, judged):
    return checked_value(metric, judged.values[metric.name], "a test")


def merged(metric, parts):
    """Merge the accumulators of parts from the left, and from the right."""
    found = [judge(part, [metric]).values[metric.name] for part in parts]
    left, right = found[0], found[-1]
    for one in found[1:]:
        left = left.merge(one)
    for one in found[-2::-1]:
        right = one.merge(right)
    return [checked_value(metric, one, "a test") for one in (left, right)]


@pytest.mark.parametrize("average", ["examples", "tasks"])
def test_metric_merges_in_any_split(metric, average):
    metric = metric.model_copy(update={"average": average})
    everything = answers()
    expected = value(metric, judge(everything, [metric]))
    draw = np.random.default_rng(1)
    for parts in (1, 2, 5, 12):
        cuts = [0, *sorted(draw.integers(0, len(everything), parts - 1)), len(everything)]
        split = [everything[a:b] for a, b in pairwise(cuts)]
        for found, count in merged(metric, [[], *split]):
            assert found == pytest.approx(expected[0], rel=1e-12)
            assert count == expected[1]


def test_metric_averages_over_tasks(metric):
    found = answers()
    tasks = sorted({answer.example.task for answer in found})
    parts = [[answer for answer in found if answer.example.task == task] for task in tasks]
    expected = np.mean([value(metric, judge(part, [metric]))[0] for part in parts])
    macro = metric.model_copy(update={"average": "tasks"})
    assert value(macro, judge(found, [macro]))[0] == pytest.approx(expected, rel=1e-12)
    unusual = "examples" if type(metric)().average == "tasks" else "tasks"
    assert f"mean over {unusual}" in metric.model_copy(update={"average": unusual}).facts().heading


def test_metric_of_right_answers_is_its_best_bound(metric):
    if metric.needs_text:
        found = [answer for answer in answers(right=True) if answer.text.strip(" x")]
        best = metric.bounds[0] if metric.lower_is_better else metric.bounds[1]
        assert value(metric, judge(found, [metric]))[0] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_metric_stays_within_its_bounds(metric, seed):
    low, high = metric.bounds
    judged = judge(answers(seed), [metric])
    scores = [score for record in judged.records for score in record.scores.values()]
    assert all(low <= score <= high for score in [*scores, value(metric, judged)[0]])
    assert all(set(record.scores) <= {metric.name} for record in judged.records)


def test_metric_of_an_empty_set_is_nan(metric):
    found, count = value(metric, judge([], [metric]))
    assert isnan(found)
    assert count == 0
    assert isnan(judge([], [metric]).values[metric.name].value)


def test_metric_gives_the_same_bits_twice(metric):
    first, second = (judge(answers(), [metric]) for _ in range(2))
    assert first.records == second.records
    assert value(metric, first) == value(metric, second)


def test_metric_has_facts_that_survive_json(metric):
    facts = metric.facts(DATA)
    assert facts.name == metric.kind
    assert facts.title
    assert facts.unit or facts.scale
    assert facts.bounds != (-inf, inf)
    assert f"{'lower' if metric.lower_is_better else 'higher'} is better" in facts.heading
    assert facts.variant.text.startswith(facts.title) or not facts.variant.name
    assert MetricFacts.from_mapping(json.loads(json.dumps(facts.to_mapping(), allow_nan=False))) == facts


def test_metric_settings_survive_yaml(metric):
    entries = [metric, metric.model_copy(update={"name": "other", "average": "tasks"})]
    config = from_mapping(
        {
            "name": "demo",
            "data": {"source": {"kind": "lexicon"}},
            "training": {"algorithms": [{"kind": "fedsgd"}]},
            "evaluation": {"metrics": [entry.model_dump(mode="json") for entry in entries]},
        }
    )
    assert list(config.evaluation.metrics) == entries
    assert from_mapping(yaml_text.load(to_yaml(config))) == config


def test_metric_is_documented(metric):
    kind = type(metric)
    assert summary(kind).endswith(".")
    assert set(field_texts(kind)) == set(kind.model_fields)
    assert ".py:" in where_of(kind)
