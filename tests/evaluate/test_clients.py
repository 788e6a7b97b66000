"""Scores of clients: a row for each, whatever they share."""

import dataclasses

import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.evaluate import clients as clients_module
from fedprofit.evaluate.clients import Sets, check_clients, mean_loss, score_clients
from fedprofit.evaluate.results import SCHEMA, Condition, to_frame, write_frame

CLIENTS = ["ann", "bob", "cid"]
METRICS = ["loss", "rouge_l", "exact_match"]
CONDITION = Condition("personalized", "avg", "slow", "last", step=4)


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_backbone("llama"), "packed")


@pytest.fixture(scope="module")
def prompts(engine):
    return torch.randn(3, 4, engine.backbone.width, generator=torch.Generator().manual_seed(1)) * 0.3


def with_references(batch):
    return [dataclasses.replace(example, references=("the house",)) for example in batch]


@pytest.fixture(scope="module")
def sets():
    return Sets(
        clients=CLIENTS,
        local={client: with_references(ragged_batch(n, 2 + n)) for n, client in enumerate(CLIENTS)},
        validation={client: ragged_batch(10 + n, n) for n, client in enumerate(CLIENTS)},
        shared={
            "global": with_references(ragged_batch(20, 3)),
            "unseen": with_references(ragged_batch(21, 2)),
        },
    )


def run(engine, prompts, sets, metrics=METRICS, **more):
    scores = score_clients(engine, prompts, sets, CONDITION, metrics, 3, **more)
    return scores + check_clients(engine, prompts, sets, CONDITION, **more)


def table(scores):
    found = {(s.client, s.scope, s.metric): (s.value, s.count) for s in scores}
    assert len(found) == len(scores), "no row twice"
    return found


def loss(engine, prompt, examples):
    rows = [Row(0, example) for example in examples]
    total = plain_losses(engine.backbone, prompt[None], rows).sum().item()
    return total / sum(len(example.target) for example in examples)


def test_every_client_has_its_own_rows(engine, prompts, sets):
    found = table(run(engine, prompts, sets))
    scopes = [(c, s, m) for c in CLIENTS for s in ("local", "global", "unseen") for m in METRICS]
    # Ann has no validation examples, hence no row: a mean over nothing is no score.
    assert set(found) == {*scopes, ("bob", "validation", "loss"), ("cid", "validation", "loss")}
    for number, client in enumerate(CLIENTS):
        for scope, examples in {"local": sets.local[client], **sets.shared}.items():
            value, count = found[client, scope, "loss"]
            assert value == pytest.approx(loss(engine, prompts[number], examples), rel=1e-5)
            assert count == sum(len(example.target) for example in examples)
            assert found[client, scope, "rouge_l"][1] == len(examples)
    assert len({found[client, "global", "loss"][0] for client in CLIENTS}) == 3
    value, _ = found["cid", "validation", "loss"]
    assert value == pytest.approx(loss(engine, prompts[2], sets.validation["cid"]), rel=1e-5)


def test_one_prompt_scores_as_equal_prompts_do_and_shared_sets_once(engine, prompts, sets, monkeypatch):
    read = []
    score = clients_module.score

    def counting(engine, prompts, jobs, *more):
        read.append(sum(len(job.examples) for job in jobs))
        return score(engine, prompts, jobs, *more)

    monkeypatch.setattr(clients_module, "score", counting)
    one = table(run(engine, prompts[:1], sets))
    assert read == [2 + 3 + 4 + 3 + 2, 0 + 1 + 2], "global and unseen are read once"
    stack = table(run(engine, prompts[:1].expand(3, -1, -1), sets))
    assert sum(read[2:]) == 2 + 3 + 4 + 3 * (3 + 2) + 3
    assert one.keys() == stack.keys()
    for key in one:
        assert one[key] == pytest.approx(stack[key], rel=1e-5)
    for client in CLIENTS:
        assert one[client, "global", "loss"] == one["ann", "global", "loss"]
        assert one[client, "local", "loss"][0] == pytest.approx(
            loss(engine, prompts[0], sets.local[client]), rel=1e-5
        )


def test_what_is_not_there_is_not_scored(engine, prompts, sets):
    bare = dataclasses.replace(sets, shared={"global": sets.shared["global"], "unseen": ()})
    for stack in (prompts, prompts[:1]):
        found = table(run(engine, stack, bare, ["loss"]))
        assert {scope for _, scope, _ in found} == {"local", "global", "validation"}
        assert {metric for _, _, metric in found} == {"loss"}


def test_the_base_model_has_no_prompt(engine, prompts, sets):
    found = table(run(engine, prompts[:1, :0], sets, ["loss"]))
    value, _ = found["bob", "local", "loss"]
    assert value == pytest.approx(loss(engine, prompts[0, :0], sets.local["bob"]), rel=1e-5)


def test_notes_stand_with_their_client(engine, prompts, sets):
    scores = run(engine, prompts, sets, ["loss"], notes={"bob": "stopped at step 2"})
    assert {s.client for s in scores if s.note} == {"bob"}
    assert all(s.note == "stopped at step 2" for s in scores if s.client == "bob")


def test_mean_loss(engine, prompts):
    examples = ragged_batch(3, 4)
    assert mean_loss(engine, prompts[1], examples) == pytest.approx(
        loss(engine, prompts[1], examples), rel=1e-5
    )
    assert mean_loss(engine, prompts[1], ()) != mean_loss(engine, prompts[1], ()), "nothing gives NaN"


def test_the_table_keeps_every_field(engine, prompts, sets, tmp_path):
    import polars

    scores = run(engine, prompts, sets, ["loss"], notes={"bob": "note"})
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
