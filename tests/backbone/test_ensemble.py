"""Ensembles of prompts against their formula and a manual greedy loop over the plain model; features too."""

from dataclasses import replace

import pytest
import torch
from test_forward import PATHS, backbone_of, prompts_of, rows_of

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses, row_inputs

WEIGHTS = (0.7, 0.3)


def members_of(backbone, clients, length=3):
    """Return ensembles of two clearly different prompts, `[clients, 2, length, width]`."""
    prompts = prompts_of(backbone, 2 * clients, length)
    return torch.stack([prompts[:clients], 2 * prompts[clients:]], dim=1)


def log_probability(backbone, members, inputs_of, count):
    """Return log-probabilities at the last positions, by the formula, `[count, vocabulary]`."""
    mean = 0
    for weight, inputs in zip(WEIGHTS, map(inputs_of, members), strict=True):
        logits = backbone.model(inputs_embeds=inputs, use_cache=False).logits[0, -count:]
        mean = mean + weight * logits.log_softmax(-1)
    return mean - mean.logsumexp(-1, keepdim=True)


@torch.no_grad()
def manual(backbone, members, row, most):
    """Return a row's loss and answer by plain transformers: no cache, no batch."""
    backbone.model.set_attn_implementation("eager")
    target = torch.tensor([int(token) for token in row.example.target])
    found = log_probability(
        backbone, members, lambda m: row_inputs(backbone, m[None], replace(row, owner=0)), len(target)
    )
    tokens = []
    while len(tokens) < most:
        new = backbone.embed(torch.tensor(tokens, dtype=torch.long))[None]
        log_probs = log_probability(
            backbone,
            members,
            lambda m, new=new: torch.cat(
                [row_inputs(backbone, m[None], replace(row, owner=0), target=False), new], dim=1
            ),
            1,
        )
        best = int(log_probs[0].argmax())
        if best in backbone.eos_token_ids:
            break
        tokens.append(best)
    return -found.gather(1, target[:, None]).sum(), tokens


@pytest.mark.parametrize(
    ("family", "path"),
    [
        *((family, "fused" if fused else "packed") for family, fused in PATHS),
        ("gpt2", "eager"),
        ("llama", "single"),
    ],
)
def test_ensemble_equals_formula_and_manual_loop(family, path, monkeypatch):
    backbone = backbone_of(family, path == "fused")
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", list(range(1, 300, 12)))
    members, rows = members_of(backbone, 3), rows_of(3)
    expected = [manual(backbone, members[row.owner], row, 12) for row in rows]
    losses = torch.stack([loss for loss, _ in expected]).double()
    answers = [tokens for _, tokens in expected]
    assert len({len(tokens) for tokens in answers}) > 1, "rows should end at different steps"
    for budget in (4096, 60):  # one batch, and many
        engine = Engine(backbone, path, budget)
        sums, found = engine.answer_mixture(members, WEIGHTS, rows, 12)
        assert found == answers
        torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(engine.score_mixture(members, WEIGHTS, rows), losses, rtol=1e-5, atol=1e-5)
    single = Engine(backbone, path).score_mixture(members, (1.0, 0.0), rows)
    backbone.model.set_attn_implementation("eager")
    separate = plain_losses(backbone, members[:, 0], rows).double()
    torch.testing.assert_close(single, separate, rtol=1e-5, atol=1e-5)


def test_ensemble_generation_stops_at_end_of_context():
    backbone = backbone_of("gpt2", False)
    members, rows = members_of(backbone, 1, 230), rows_of(1)
    _, packed = Engine(backbone, "packed").answer_mixture(members, WEIGHTS, rows, 300)
    _, single = Engine(backbone, "single").answer_mixture(members, WEIGHTS, rows, 300)
    assert packed == single
    assert 0 < max(map(len, packed)) < 30


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "packed"), ("llama", "fused"), ("gpt2", "packed"), ("qwen2", "single")]
)
@pytest.mark.parametrize("depth", [0, 1, -1])
def test_hidden_states_match_plain_model(family, path, depth):
    backbone = backbone_of(family, path == "fused")
    rows = [*rows_of(2), *rows_of(1)]  # some texts twice
    found = Engine(backbone, path, 60).hidden_states(rows, depth)
    backbone.model.set_attn_implementation("eager")
    for row, mean in zip(rows, found, strict=True):
        ids = torch.tensor([[*row.example.prefix, *row.example.source]], dtype=torch.long)
        states = backbone.model(input_ids=ids, output_hidden_states=True).hidden_states[depth][0]
        expected = states[len(row.example.prefix) :].mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def test_features_match_plain_model():
    backbone = backbone_of("llama", False)
    engine, rows, prompts = Engine(backbone, "packed"), rows_of(2), prompts_of(backbone, 2)
    short = replace(rows[0].example, source=rows[0].example.source[:1])
    rows.append(Row(1, short))
    means, likelihood = engine.mean_embeddings(rows), engine.input_likelihood(prompts, rows)
    table = backbone.model.get_input_embeddings().weight
    backbone.model.set_attn_implementation("eager")
    for row, mean, mean_log in zip(rows, means, likelihood.tolist(), strict=True):
        source = torch.tensor([int(token) for token in row.example.source])
        torch.testing.assert_close(mean, table[source].mean(0))
        logits = backbone.model(inputs_embeds=row_inputs(backbone, prompts, row, target=False)).logits[0]
        of = logits.log_softmax(-1)[-len(source) : -1].gather(1, source[1:, None])
        assert mean_log == pytest.approx(float(of.mean()) if len(source) > 1 else 0.0, rel=1e-4, abs=1e-6)


def test_features_of_no_rows_are_empty():
    engine = Engine(backbone_of("llama", False), "packed")
    assert engine.mean_embeddings([]).shape == engine.hidden_states([]).shape == (0, 32)
    assert engine.input_likelihood(torch.zeros(1, 0, 32), []).shape == (0,)


def test_workers_match_one_process_for_ensembles():
    backbone = backbone_of("qwen2", False)
    members, rows = members_of(backbone, 3), rows_of(3)
    one, two = (Engine(backbone, "packed", 300, workers) for workers in (1, 2))
    (losses, answers), (same, alike) = (e.answer_mixture(members, WEIGHTS, rows, 5) for e in (one, two))
    torch.testing.assert_close(losses, same, rtol=1e-5, atol=1e-5)
    assert answers == alike
    torch.testing.assert_close(one.hidden_states(rows), two.hidden_states(rows), rtol=1e-5, atol=1e-5)
