"""Packed forward passes against peft's PromptTuning and the plain concatenation, in float32."""

from functools import partial

import peft
import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone, tiny_model

from fedprofit.backbone.forward import Row, packed_losses, plain_losses
from fedprofit.backbone.fused import fuse

FAMILIES = ["llama", "gpt2", "qwen2"]
WAYS = [*((family, False) for family in FAMILIES), ("llama", True), ("qwen2", True)]


def backbone_of(family: str, fused: bool):
    backbone = tiny_backbone(family)
    assert not fused or fuse(backbone.model)
    return backbone


def rows_of(clients: int) -> list[Row]:
    return [Row(k, e) for k in range(clients) for e in ragged_batch(k, 4)]


def prompts_of(backbone, clients: int, length: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clients, length, backbone.width, generator=generator) * 0.3


@pytest.mark.parametrize(("family", "fused"), WAYS)
@pytest.mark.parametrize("length", [0, 1, 5])
def test_packed_equals_plain(family, fused, length):
    backbone = backbone_of(family, fused)
    rows = rows_of(3)
    results = []
    for losses in (partial(packed_losses, fused=fused), plain_losses):
        prompts = prompts_of(backbone, 3, length).requires_grad_()
        values = losses(backbone, prompts, rows)
        values.sum().backward()
        results.append((values.detach(), prompts.grad))
    (packed, packed_grad), (plain, plain_grad) = results
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    if length:
        torch.testing.assert_close(packed_grad, plain_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "fused"), WAYS)
def test_loss_and_gradient_equal_peft(family, fused):
    """peft's own PromptTuning, one row at a time (its batches pad otherwise than ours)."""
    backbone = backbone_of(family, fused)
    rows = rows_of(1)
    start = prompts_of(backbone, 1, 4)
    prompts = start.clone().requires_grad_()
    ours = packed_losses(backbone, prompts, rows, fused)
    ours.sum().backward()

    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    wrapped = peft.get_peft_model(tiny_model(family).eval(), settings)
    embedding = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        embedding.copy_(start[0])
    theirs = []
    for row in rows:
        example = row.example
        context = [*example.prefix, *example.source]
        ids = torch.tensor([[*context, *example.target]])
        labels = torch.tensor([[-100] * len(context) + list(example.target)])
        loss = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        theirs.append(loss * len(example.target))
    torch.stack(theirs).sum().backward()
    torch.testing.assert_close(ours.detach(), torch.stack(theirs).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prompts.grad[0], embedding.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_packed_equals_plain_with_a_sliding_window(fused):
    backbone = backbone_of("mistral", fused)
    assert backbone.model.config.sliding_window < 16
    prompts = prompts_of(backbone, 3, 6)
    rows = rows_of(3)
    packed = packed_losses(backbone, prompts, rows, fused)
    torch.testing.assert_close(packed, plain_losses(backbone, prompts, rows), rtol=1e-5, atol=1e-5)


def test_a_clients_loss_does_not_depend_on_who_else_is_in_the_pass():
    backbone = tiny_backbone("llama")
    prompts, rows = prompts_of(backbone, 3), rows_of(3)
    together = packed_losses(backbone, prompts, rows)
    alone = torch.cat([packed_losses(backbone, prompts, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
