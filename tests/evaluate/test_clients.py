"""Test scores by client and scope: means over tasks, rows foreign to a client, texts without a model."""

import dataclasses
from statistics import fmean

import polars
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.evaluate import clients as clients_module
from fedprofit.evaluate.clients import Sets, check_clients, mean_loss, score_clients, score_texts
from fedprofit.evaluate.metrics.exact_match import ExactMatch
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.metrics.rouge_l import RougeL
from fedprofit.evaluate.metrics.token_loss import TokenLoss
from fedprofit.evaluate.records import SHARED
from fedprofit.evaluate.results import SCHEMA, Condition, to_frame, write_frame

CLIENTS = ["ann", "bob", "cid"]
METRICS = [LOSS, TokenLoss(), RougeL(), ExactMatch()]
NAMES = [metric.name for metric in METRICS]
CONDITION = Condition("personalized", "avg", "slow", "last", step=4)
SCOPES = ("local", "global", "others", "unseen")
PARTS = {f"{scope}_task": scope for scope in SCOPES}


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_backbone("llama"), "packed")


@pytest.fixture(scope="module")
def prompts(engine):
    return torch.randn(3, 4, engine.backbone.width, generator=torch.Generator().manual_seed(1)) * 0.3


def named(batch, first, tasks):
    """Give examples row numbers from `first`, tasks in turn, and a reference."""
    return [
        dataclasses.replace(one, references=("the house",), row=first + n, task=tasks[n % len(tasks)])
        for n, one in enumerate(batch)
    ]


@pytest.fixture(scope="module")
def sets():
    """Ann trains on a, Bob on b, Cid on a and b; global rows are of a, b, c and one of Bob's own, of d."""
    local = {
        "ann": named(ragged_batch(0, 2), 0, "a"),
        "bob": named(ragged_batch(1, 4), 10, "bbbd"),
        "cid": named(ragged_batch(2, 5), 20, "ab"),
    }
    common = [*named(ragged_batch(20, 6), 30, "abc"), local["bob"][3]]
    return Sets(
        clients=CLIENTS,
        local=local,
        validation={client: named(ragged_batch(10 + n, n), 50, "ab") for n, client in enumerate(CLIENTS)},
        shared={"global": common, "unseen": named(ragged_batch(21, 3), 60, "xy")},
        trained={"ann": {"a"}, "bob": {"b"}, "cid": {"a", "b"}},
    )


def rows_of(sets, client, scope):
    if scope == "local":
        return sets.local[client]
    if scope == "others":
        own = {one.row for one in sets.local[client]}
        return [
            one
            for one in sets.shared["global"]
            if one.task not in sets.trained[client] and one.row not in own
        ]
    return sets.shared[scope]


def run(engine, prompts, sets, metrics=METRICS, **more):
    scores = score_clients(engine, prompts, sets, CONDITION, metrics, 3, **more)
    return [*scores.scores, *check_clients(engine, prompts, sets, CONDITION, **more).scores]


def table(scores):
    found = {(s.client, s.scope, s.task, s.metric): (s.value, s.count) for s in scores}
    assert len(found) == len(scores), "no row twice"
    return found


def over_tasks(examples, values):
    tasks = sorted({example.task for example in examples})
    pairs = list(zip(examples, values, strict=True))
    return fmean(fmean(value for example, value in pairs if example.task == task) for task in tasks)


def losses(engine, prompt, examples):
    rows = [Row(0, example) for example in examples]
    return plain_losses(engine.backbone, prompt[None], rows).tolist()


def loss(engine, prompt, examples):
    sums = losses(engine, prompt, examples)
    return over_tasks(examples, [total / len(one.target) for one, total in zip(examples, sums, strict=True)])


def test_scores_are_means_over_tasks_in_every_scope(engine, prompts, sets):
    found = table(run(engine, prompts, sets))
    for number, client in enumerate(CLIENTS):
        for scope in SCOPES:
            examples = rows_of(sets, client, scope)
            value, count = found[client, scope, "", "loss"]
            assert value == pytest.approx(loss(engine, prompts[number], examples), rel=1e-5)
            assert count == len(examples)
            tokens = sum(len(example.target) for example in examples)
            total = sum(losses(engine, prompts[number], examples))
            assert found[client, scope, "", "token_loss"] == (pytest.approx(total / tokens, rel=1e-5), tokens)
            assert found[client, scope, "", "rouge_l"][1] == len(examples)
    assert len({found[client, "global", "", "loss"][0] for client in CLIENTS}) == 3
    value, _ = found["cid", "validation", "", "loss"]
    assert value == pytest.approx(loss(engine, prompts[2], sets.validation["cid"]), rel=1e-5)
    # Ann has no validation examples, hence no row.
    assert ("ann", "validation", "", "loss") not in found


def test_each_task_of_a_scope_has_a_row(engine, prompts, sets):
    found = table(run(engine, prompts, sets))
    for client in CLIENTS:
        for part, scope in PARTS.items():
            tasks = {task for who, what, task, _ in found if (who, what) == (client, part)}
            assert tasks == {one.task for one in rows_of(sets, client, scope)}
            mean = fmean(found[client, part, task, "loss"][0] for task in tasks)
            assert mean == pytest.approx(found[client, scope, "", "loss"][0], rel=1e-12)


def test_others_are_foreign_tasks_and_rows(sets):
    tasks = {client: {one.task for one in rows_of(sets, client, "others")} for client in CLIENTS}
    assert tasks == {"ann": {"b", "c", "d"}, "bob": {"a", "c"}, "cid": {"c", "d"}}


def test_client_with_all_tasks_has_no_others(engine, prompts, sets):
    everything = {**sets.trained, "cid": {"a", "b", "c", "d"}}
    found = table(run(engine, prompts, dataclasses.replace(sets, trained=everything)))
    assert {client for client, scope, _, _ in found if scope == "others"} == {"ann", "bob"}


def test_shared_prompt_is_read_once(engine, prompts, sets, monkeypatch):
    read = []
    score = clients_module.score

    def counting(engine, prompts, jobs, *more):
        read.append(sum(len(job.examples) for job in jobs))
        return score(engine, prompts, jobs, *more)

    monkeypatch.setattr(clients_module, "score", counting)
    one = table(run(engine, prompts[:1], sets))
    assert read == [2 + 4 + 5 + 7 + 3, 0 + 1 + 2], "global and unseen are read once"
    stack = table(run(engine, prompts[:1].expand(3, -1, -1), sets))
    assert sum(read[2:]) == 2 + 4 + 5 + 3 * (7 + 3) + 3
    assert one.keys() == stack.keys()
    for key in one:
        assert one[key] == pytest.approx(stack[key], rel=1e-5)
    for client in CLIENTS:
        assert one[client, "global", "", "loss"] == one["ann", "global", "", "loss"]


def test_empty_sets_have_no_rows(engine, prompts, sets):
    bare = dataclasses.replace(sets, shared={"global": sets.shared["global"], "unseen": ()})
    for stack in (prompts, prompts[:1]):
        found = table(run(engine, stack, bare, [LOSS]))
        assert not {scope for _, scope, _, _ in found} & {"unseen", "unseen_task"}
        assert {metric for *_, metric in found} == {"loss"}


def test_base_model_has_no_prompt(engine, prompts, sets):
    found = table(run(engine, prompts[:1, :0], sets, [LOSS]))
    value, _ = found["bob", "local", "", "loss"]
    assert value == pytest.approx(loss(engine, prompts[0, :0], sets.local["bob"]), rel=1e-5)


def test_notes_are_in_rows_of_their_client(engine, prompts, sets):
    scores = run(engine, prompts, sets, [LOSS], notes={"bob": "stopped at step 2"})
    assert {s.client for s in scores if s.note} == {"bob"}
    assert all(s.note == "stopped at step 2" for s in scores if s.client == "bob")


def test_mean_loss_is_macro_and_nan_without_examples(engine, prompts):
    examples = named(ragged_batch(3, 5), 0, "aab")
    assert mean_loss(engine, prompts[1], examples) == pytest.approx(
        loss(engine, prompts[1], examples), rel=1e-5
    )
    assert mean_loss(engine, prompts[1], ()) != mean_loss(engine, prompts[1], ())


def test_table_keeps_every_field(engine, prompts, sets, tmp_path):
    scores = run(engine, prompts, sets, [LOSS], notes={"bob": "note"})
    frame = to_frame(7, scores)
    assert dict(frame.schema) == {name: kind() for name, kind in SCHEMA.items()}
    write_frame(tmp_path / "results.parquet", frame)
    rows = polars.read_parquet(tmp_path / "results.parquet").rows(named=True)
    for row, s in zip(rows, scores, strict=True):
        assert row == {
            "seed": 7, "setting_id": None, "algorithm": "avg", "condition": "personalized",
            "setting": "slow", "start": "last", "alpha": None, "step": 4, "client": s.client,
            "scope": s.scope, "task": s.task, "metric": "loss", "value": s.value, "count": s.count,
            "note": s.note,
        }  # fmt: skip


def test_records_reproduce_every_score(engine, prompts, sets):
    for stack in (prompts, prompts[:1]):
        found = score_clients(engine, stack, sets, CONDITION, METRICS, 3)
        keys = [(one.client, one.scope, one.record.task) for one in found.records]
        owners = {client for client, scope, _ in keys if scope != "local"}
        assert owners == ({*CLIENTS} if len(stack) > 1 else {SHARED})
        for score in found.scores:
            scope = PARTS.get(score.scope, score.scope)
            owner = score.client if scope == "local" or len(stack) > 1 else SHARED
            kept = {one.row for one in rows_of(sets, score.client, scope)}
            where = "global" if scope == "others" else scope
            rows = [o.record for o in found.records if (o.client, o.scope) == (owner, where)]
            rows = [row for row in rows if row.example in kept and score.task in ("", row.task)]
            if score.metric == "token_loss":
                expected = sum(row.loss for row in rows) / sum(row.tokens for row in rows)
            else:
                expected = over_tasks(rows, [row.scores[score.metric] for row in rows])
            assert score.value == pytest.approx(expected, rel=1e-12)
    assert all(isinstance(one.record.answer, str) for one in found.records)
    checks = check_clients(engine, prompts, sets, CONDITION).records
    assert [(one.client, one.scope, one.record.answer) for one in checks] == [
        (client, "validation", None) for client in ("bob", "cid", "cid")
    ]


def test_texts_are_scored_by_client_and_ownership(sets):
    def answer(client, is_own, example):
        return None if example.task == "y" else "the house" if is_own else "a house"

    found = score_texts(answer, sets, CONDITION, METRICS)
    values = table(found.scores)
    assert {metric for *_, metric in values} == {"rouge_l", "exact_match"}
    for client in CLIENTS:
        assert values[client, "local", "", "exact_match"] == (100.0, len(sets.local[client]))
        assert values[client, "others", "", "exact_match"][0] == 0.0
        assert values[client, "unseen", "", "exact_match"] == (0.0, 2), "the task y has no answers"
    assert all(one.record.loss != one.record.loss for one in found.records)
