"""Test batched generation against a greedy loop of full forward passes, token by token."""

import dataclasses

import numpy as np
import pytest
import torch
from test_forward import PATHS, backbone_of, prompts_of, rows_of
from tiny import tiny_backbone

from fedprofit.backbone import generate
from fedprofit.backbone.forward import packed_losses, plain_losses
from fedprofit.backbone.generate import packed_generate, plain_generate
from fedprofit.backbone.packing import NAME


def manual_greedy(backbone, prompt, row, limit):
    """Generate greedily without cache or batch: compute the full sequence for every token."""
    table = backbone.model.get_input_embeddings()
    ids = torch.tensor([*row.example.prefix, *row.example.source], dtype=torch.long)
    sequence = torch.cat([prompt, table(ids)])[None]
    tokens = []
    with torch.no_grad():
        for _ in range(limit):
            best = int(backbone.model(inputs_embeds=sequence, use_cache=False).logits[0, -1].argmax())
            if best in backbone.eos_token_ids:
                break
            tokens.append(best)
            sequence = torch.cat([sequence, table(torch.tensor([[best]]))], dim=1)
    return tokens


@pytest.mark.parametrize(("family", "fused"), [*PATHS, ("mistral", False), ("mistral", True)])
@pytest.mark.parametrize("length", [0, 4])
def test_generate_matches_manual_greedy_loop(family, fused, length, monkeypatch):
    backbone = backbone_of(family, fused)
    # A random model rarely predicts the end of a text: let every twelfth token end it.
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", list(range(1, 300, 12)))
    prompts, rows = prompts_of(backbone, 3, length), rows_of(3)
    # With 20 tokens, the caches grow. Small budgets make many batches.
    results = [packed_generate(backbone, prompts, rows, 20, budget, fused) for budget in (10_000, 300, 1)]
    backbone.model.set_attn_implementation("eager")
    expected = [manual_greedy(backbone, prompts[row.owner], row, 20) for row in rows]
    assert len({len(tokens) for tokens in expected}) > 1, "rows should end at different steps"
    losses = plain_losses(backbone, prompts, rows)
    for sums, tokens in results:
        assert tokens == expected
        torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-5)
    without_target = [dataclasses.replace(row, target=False) for row in rows]
    sums, tokens = packed_generate(backbone, prompts, without_target, 20, 300, fused)
    assert tokens == expected, "the target must not affect the answer"
    assert sums.isnan().all()
    assert plain_generate(backbone, prompts, rows, 20) == expected
    backbone.model.set_attn_implementation(NAME)
    mixed = [dataclasses.replace(row, target=number % 3 > 0) for number, row in enumerate(rows)]
    sums, tokens = packed_generate(backbone, prompts, mixed, 20, 300, fused)
    assert tokens == expected
    scored = torch.tensor([row.target for row in mixed])
    assert sums[~scored].isnan().all()
    torch.testing.assert_close(sums[scored], losses[scored], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "fused"), [*PATHS, ("mistral", False), ("mistral", True)])
def test_generate_verifies_targets_as_drafts(family, fused, monkeypatch):
    backbone = backbone_of(family, fused)
    stop = list(range(1, 300, 12))
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", stop)
    prompts, rows = prompts_of(backbone, 3, 4), rows_of(3)
    without = [dataclasses.replace(row, target=False) for row in rows]
    _, expected = packed_generate(backbone, prompts, without, 20, 10_000, fused)
    drafts = {
        "the answer and its end": lambda answer: [*answer, stop[1]],
        "the answer": lambda answer: answer or [2],
        "its beginning": lambda answer: answer[: len(answer) // 2] or [2],
        "a wrong token in it": lambda answer: [*answer[:2], 2, *answer[3:], stop[0]],
        "more than the answer": lambda answer: [*answer, stop[1], 2, 3],
    }
    for name, draft in drafts.items():
        targets = [np.array(draft(answer), np.int32) for answer in expected]
        drafted = [
            dataclasses.replace(row, example=dataclasses.replace(row.example, target=target))
            for row, target in zip(rows, targets, strict=True)
        ]
        for budget in (10_000, 1):
            sums, tokens = packed_generate(backbone, prompts, drafted, 20, budget, fused)
            assert tokens == expected, name
        losses = packed_losses(backbone, prompts, drafted, fused)
        torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-5)
        assert packed_generate(backbone, prompts, drafted, 3, 300, fused)[1] == [
            answer[:3] for answer in expected
        ]


def test_generate_reads_right_targets_only(monkeypatch):
    backbone = tiny_backbone("llama")
    prompts, rows = prompts_of(backbone, 2), rows_of(2)
    without = [dataclasses.replace(row, target=False) for row in rows]
    _, answers = packed_generate(backbone, prompts, without, 5, 10_000)
    right = [
        dataclasses.replace(row, example=dataclasses.replace(row.example, target=np.array(answer, np.int32)))
        for row, answer in zip(rows, answers, strict=True)
    ]

    def never(*_):
        raise AssertionError("a known answer was decoded")

    monkeypatch.setattr(generate, "_continue", never)
    assert packed_generate(backbone, prompts, right, 5, 10_000)[1] == answers


def test_generate_stops_at_context_length():
    backbone = tiny_backbone("gpt2")
    prompts, rows = prompts_of(backbone, 1, 230), rows_of(1)
    _, tokens = packed_generate(backbone, prompts, rows, 300, 10_000)
    backbone.model.set_attn_implementation("eager")
    assert tokens == plain_generate(backbone, prompts, rows, 300)
    assert 0 < max(map(len, tokens)) < 30


def test_plain_generate_ignores_generation_config_of_model(monkeypatch):
    backbone = tiny_backbone("gpt2")
    prompts, rows = prompts_of(backbone, 2), rows_of(2)
    backbone.model.set_attn_implementation("eager")
    expected = [manual_greedy(backbone, prompts[row.owner], row, 12) for row in rows]
    settings = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "min_new_tokens": 12, "num_beams": 2}
    for name, value in settings.items():
        monkeypatch.setattr(backbone.model.generation_config, name, value)
    assert plain_generate(backbone, prompts, rows, 12) == expected
    assert backbone.model.generation_config.num_beams == 2, "the configuration is restored"
