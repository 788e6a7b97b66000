"""Scores of many prompts on many sets, compared with plain losses and generation by row."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone, tiny_tokenizer

from fedprofit.backbone import paths
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.generate import plain_generate
from fedprofit.evaluate.accumulate import Mean
from fedprofit.evaluate.metrics.exact_match import ExactMatch
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.metrics.rouge_l import RougeL
from fedprofit.evaluate.metrics.token_loss import TokenLoss
from fedprofit.evaluate.score import Job, score
from fedprofit.evaluate.text import exact_match, rouge_l

METRICS = [LOSS, RougeL(tokenizer="rouge-score"), ExactMatch(variant="sni")]


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def prompts(backbone):
    return torch.randn(3, 4, backbone.width, generator=torch.Generator().manual_seed(1)) * 0.3


def jobs():
    """Every prompt on its own set and on a shared one; one set is empty, and one prompt has two jobs."""
    shared = ragged_batch(9, 3)
    own = [ragged_batch(number, size) for number, size in enumerate((4, 1, 0))]
    return [*(Job(owner, own[owner]) for owner in range(3)), *(Job(owner, shared) for owner in (2, 0))]


@pytest.mark.parametrize("budget", [4096, 40])
def test_losses_equal_plain_losses(backbone, prompts, budget):
    found = score(Engine(backbone, "packed", budget), prompts, jobs(), [LOSS, TokenLoss()])
    for job, scored in zip(jobs(), found, strict=True):
        result = scored.values
        sums = [plain_losses(backbone, prompts, [Row(job.owner, e)]).item() for e in job.examples]
        lengths = [len(example.target) for example in job.examples]
        assert result["loss"].count == len(lengths)
        assert result["token_loss"].count == sum(lengths)
        if lengths:
            means = [total / length for total, length in zip(sums, lengths, strict=True)]
            assert result["loss"].value == pytest.approx(np.mean(means), rel=1e-5)
            assert result["token_loss"].value == pytest.approx(sum(sums) / sum(lengths), rel=1e-5)
        else:
            assert math.isnan(result["loss"].value)
            assert math.isnan(result["token_loss"].value)


def test_generation_metrics_are_those_of_plain_generation(backbone, prompts):
    answers = [
        [
            tiny_tokenizer().decode(plain_generate(backbone, prompts, [Row(job.owner, e)], 6)[0]).strip()
            for e in job.examples
        ]
        for job in jobs()
    ]
    # References are made from the answers: some correct, some partly, some wrong.
    draw = np.random.default_rng(0)
    wanted = []
    for job, texts in zip(jobs(), answers, strict=True):
        changed = [
            dataclasses.replace(e, references=("nothing", [t, t + " house", "wrong"][draw.integers(3)]))
            for e, t in zip(job.examples, texts, strict=True)
        ]
        wanted.append(Job(job.owner, changed))
    found = score(Engine(backbone, "packed"), prompts, wanted, METRICS, max_new_tokens=6)
    seen = set()
    for job, texts, scored in zip(wanted, answers, found, strict=True):
        result = scored.values
        assert [*result] == [metric.name for metric in METRICS]
        assert [record.answer for record in scored.records] == texts
        for name, metric in (("rouge_l", rouge_l), ("exact_match", exact_match)):
            values = [metric(t, e.references) for t, e in zip(texts, job.examples, strict=True)]
            assert result[name].count == len(values)
            assert result[name].value == pytest.approx(np.mean(values) if values else math.nan, nan_ok=True)
            assert [record.scores[name] for record in scored.records] == values
            seen.update(values)
    assert {0.0, 100.0} < seen, "right, wrong and half right answers should be among them"


def test_without_text_metrics_nothing_is_generated(backbone, prompts, monkeypatch):
    def never(*_, **__):
        raise AssertionError("generated")

    monkeypatch.setattr(paths, "packed_generate", never)
    engine = Engine(backbone, "packed")
    assert len(score(engine, prompts, jobs(), [LOSS])) == 5
    with pytest.raises(AssertionError, match="generated"):
        score(engine, prompts, jobs(), [ExactMatch()])


def test_no_jobs_and_empty_sets(backbone, prompts):
    engine = Engine(backbone, "packed")
    assert score(engine, prompts, [], METRICS) == []
    (result,) = score(engine, prompts, [Job(0, ())], METRICS)
    assert result.records == []
    assert all(one.count == 0 and math.isnan(one.value) for one in result.values.values())


def test_means_merge_in_any_grouping():
    draw = np.random.default_rng(0)
    values = draw.random(20).tolist()
    parts = [Mean(sum(values[a:b]), b - a) for a, b in ((0, 3), (3, 3), (3, 12), (12, 20))]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[3].merge(parts[2].merge(parts[1].merge(parts[0])))
    for merged in (left, right):
        assert merged.count == 20
        assert merged.value == pytest.approx(np.mean(values))
    assert math.isnan(Mean(0.0, 0).value)
