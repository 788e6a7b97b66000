"""Batched generation against a manual greedy loop over full forward passes, token by token."""

import dataclasses

import pytest
import torch
from test_forward import WAYS, backbone_of, prompts_of, rows_of
from tiny import tiny_backbone

from fedprofit.backbone.forward import plain_losses
from fedprofit.backbone.generate import packed_generate, plain_generate
from fedprofit.backbone.packing import NAME


def manual_greedy(backbone, prompt, row, limit):
    """No cache, no batch: the whole sequence again for every token."""
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


@pytest.mark.parametrize(("family", "fused"), [*WAYS, ("mistral", False), ("mistral", True)])
@pytest.mark.parametrize("length", [0, 4])
def test_generation_equals_a_manual_greedy_loop(family, fused, length, monkeypatch):
    backbone = backbone_of(family, fused)
    # A random model rarely ends a text: let every twelfth token end it.
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", list(range(1, 300, 12)))
    prompts, rows = prompts_of(backbone, 3, length), rows_of(3)
    # 20 tokens: the caches grow. Small budgets: many batches.
    results = [packed_generate(backbone, prompts, rows, 20, budget, fused) for budget in (10_000, 300, 1)]
    backbone.model.set_attn_implementation("eager")
    expected = [manual_greedy(backbone, prompts[row.owner], row, 20) for row in rows]
    assert len({len(tokens) for tokens in expected}) > 1, "rows should end at different steps"
    losses = plain_losses(backbone, prompts, rows)
    for sums, tokens in results:
        assert tokens == expected
        torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-5)
    untold = [dataclasses.replace(row, target=False) for row in rows]
    sums, tokens = packed_generate(backbone, prompts, untold, 20, 300, fused)
    assert tokens == expected, "the target must not help"
    assert sums.isnan().all()
    assert plain_generate(backbone, prompts, rows, 20) == expected
    backbone.model.set_attn_implementation(NAME)
    mixed = [dataclasses.replace(row, target=number % 3 > 0) for number, row in enumerate(rows)]
    sums, tokens = packed_generate(backbone, prompts, mixed, 20, 300, fused)
    assert tokens == expected
    told = torch.tensor([row.target for row in mixed])
    assert sums[~told].isnan().all()
    torch.testing.assert_close(sums[told], losses[told], rtol=1e-5, atol=1e-5)


def test_generation_stops_at_the_end_of_the_context():
    backbone = tiny_backbone("gpt2")
    prompts, rows = prompts_of(backbone, 1, 230), rows_of(1)
    _, tokens = packed_generate(backbone, prompts, rows, 300, 10_000)
    backbone.model.set_attn_implementation("eager")
    assert tokens == plain_generate(backbone, prompts, rows, 300)
    assert 0 < max(map(len, tokens)) < 30


def test_a_models_own_way_of_decoding_is_set_aside(monkeypatch):
    backbone = tiny_backbone("gpt2")
    prompts, rows = prompts_of(backbone, 2), rows_of(2)
    backbone.model.set_attn_implementation("eager")
    expected = [manual_greedy(backbone, prompts[row.owner], row, 12) for row in rows]
    own = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "min_new_tokens": 12, "num_beams": 2}
    for name, value in own.items():
        monkeypatch.setattr(backbone.model.generation_config, name, value)
    assert plain_generate(backbone, prompts, rows, 12) == expected
    assert backbone.model.generation_config.num_beams == 2, "and left as it was"
