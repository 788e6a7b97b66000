"""Test each compiled operation against torch, and the conditions for fused layers."""

import math
import sys
from functools import partial

import pytest
import torch
from test_forward import prompts_of, rows_of
from tiny import tiny_backbone, tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy, silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from fedprofit.backbone import products
from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.operations import AT_ONCE, attended, gated, label_losses, normed, rotated
from fedprofit.core.errors import UserError

TYPES = [torch.float32, torch.bfloat16]
ARITHMETIC = [(torch.float32, "native"), (torch.bfloat16, "native"), (torch.bfloat16, "widened")]
TOKENS, SIZE, HEADS, KV = 21, 16, 6, 2


@pytest.fixture(params=ARITHMETIC, ids=lambda param: f"{param[0]}-{param[1]}")
def dtype(request, monkeypatch):
    """Return a dtype; bfloat16 products are native or computed in float32 and rounded."""
    dtype, arithmetic = request.param
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: arithmetic == "native")
    return dtype


def random(*shape, dtype=torch.float32, scale=1.0, seed=0):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return drawn.to(dtype).requires_grad_()


def check(dtype, ours, theirs, *inputs):
    """Compare values and gradients with those of torch in float32 for the same rounded inputs."""
    plain = [tensor.detach().float().requires_grad_() for tensor in inputs]
    found, expected = ours(*inputs), theirs(*plain)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close([t.float() for t in found], list(expected), **close)
    gradients = [random(*tensor.shape, seed=9).detach() for tensor in expected]
    torch.autograd.backward(found, [gradient.to(dtype) for gradient in gradients])
    torch.autograd.backward(expected, [gradient.to(dtype).float() for gradient in gradients])
    for tensor, reference in zip(inputs, plain, strict=True):
        if not tensor.numel():
            continue  # no prefix
        torch.testing.assert_close(
            tensor.grad.float(), reference.grad, rtol=close["rtol"], atol=2 * close["atol"]
        )


@pytest.mark.parametrize("dtype", TYPES)
def test_normed_matches_transformers_and_returns_input(dtype):
    norm = LlamaRMSNorm(32, eps=1e-5)
    norm.weight.data = (torch.rand(32) + 0.5).to(dtype).float()
    weight = norm.weight.detach().to(dtype)
    ours = partial(normed, weight=weight, epsilon=1e-5)
    check(dtype, ours, lambda x: (x.clone(), norm(x)), random(TOKENS, 32, dtype=dtype, scale=3))


@pytest.mark.parametrize("count", [1, AT_ONCE, AT_ONCE + 5])
def test_label_losses_match_cross_entropy(dtype, count):
    head = random(300, 32, dtype=dtype, seed=1).detach()
    labels = torch.randint(300, (count,), generator=torch.Generator().manual_seed(2))
    hidden = random(count, 32, dtype=dtype, scale=0.3)

    def theirs(x):
        return (cross_entropy(x @ head.float().T, labels, reduction="none"),)

    check(dtype, lambda x: (label_losses(x, head, labels),), theirs, hidden)
    with torch.no_grad():
        scored = label_losses(hidden, head, labels)
    torch.testing.assert_close(scored, theirs(hidden.float())[0], rtol=0.02, atol=0.02)


def test_label_losses_handle_large_logits_and_nan():
    head, labels = torch.eye(3), torch.tensor([0, 1, 2])
    hidden = torch.tensor([[1e4, 0, 0], [1e4, 0, 0], [float("nan"), 0, 0]])
    right, wrong, broken = label_losses(hidden, head, labels).tolist()
    assert (right, wrong) == (0, 1e4)
    assert math.isnan(broken)


@pytest.mark.parametrize("dtype", TYPES)
def test_gated_matches_silu_times_second_half(dtype):
    def theirs(x):
        first, second = x.chunk(2, dim=1)
        return (silu(first) * second,)

    check(dtype, lambda x: (gated(x),), theirs, random(TOKENS, 80, dtype=dtype, scale=2))
    # The exponentials of these values overflow or underflow float32.
    large = torch.tensor([[-1000.0, -90.0, 0.0, 90.0, 1000.0] + [1.0] * 5], dtype=dtype)
    torch.testing.assert_close(gated(large), silu(large[:, :5]), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", TYPES)
def test_rotated_matches_transformers(dtype):
    angles = torch.rand(TOKENS, SIZE // 2) * 7
    cos, sin = (f(torch.cat([angles, angles], 1)).to(dtype) for f in (torch.cos, torch.sin))

    def theirs(qkv):
        heads = qkv.reshape(1, TOKENS, -1, SIZE).transpose(1, 2)
        query, key, value = heads.split([HEADS, KV, KV], dim=1)
        query, key = apply_rotary_pos_emb(query, key, cos[None].float(), sin[None].float())
        return tuple(t[0].transpose(0, 1) for t in (query * 0.25, key, value))

    ours = partial(rotated, cos=cos, sin=sin, scale=0.25, kv=KV)
    check(dtype, ours, theirs, random(TOKENS, (HEADS + 2 * KV) * SIZE, dtype=dtype))


def visible(seen, tokens, shared, before):
    """Return the attention mask `[rows, tokens * shared, before + tokens]` from plain loops."""
    rows = []
    for count in seen.tolist():
        queries = [
            [key < count for key in range(before)] + [key <= query for key in range(tokens)]
            for query in range(tokens)
            for _ in range(shared)
        ]
        rows.append(queries)
    return torch.tensor(rows)


@pytest.mark.parametrize("before", [0, 9])
def test_attended_matches_masked_softmax(dtype, before):
    rows, tokens, shared, groups = 6, 5, 3, 2
    seen = torch.tensor([9, 9, 9, 4, 4, 4]) if before else torch.zeros(6, dtype=torch.long)

    def theirs(query, key, value, key_before, value_before):
        keys = torch.cat([key_before.repeat_interleave(rows // groups, 0), key], 1)
        values = torch.cat([value_before.repeat_interleave(rows // groups, 0), value], 1)
        scores = query @ keys.transpose(1, 2)
        hidden = ~visible(seen, tokens, shared, before)
        return (torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ values,)

    def ours(query, key, value, key_before, value_before):
        return (attended(query, key, value, seen, key_before, value_before),)

    shapes = [(rows, tokens * shared), (rows, tokens), (rows, tokens), (groups, before), (groups, before)]
    inputs = [random(*shape, SIZE, dtype=dtype, scale=0.5, seed=j) for j, shape in enumerate(shapes)]
    check(dtype, ours, theirs, *inputs)


@pytest.mark.parametrize("dtype", TYPES)
def test_operations_confine_nan_to_its_row(dtype):
    for bad in (float("nan"), float("inf")):
        wide = torch.ones(3, 8, dtype=dtype)
        wide[1, 2] = bad
        for found in (gated(wide), normed(wide, torch.ones(8, dtype=dtype), 1e-5)[1]):
            assert torch.isfinite(found).all(1).tolist() == [True, False, True]
        query, key = torch.ones(3, 4, SIZE, dtype=dtype), torch.ones(3, 4, SIZE, dtype=dtype)
        query[1, 2] = bad
        none = torch.zeros(3, dtype=torch.long)
        mixed = attended(query, key, key, none, key[:, :0], key[:, :0])
        assert torch.isfinite(mixed).all(2).all(1).tolist() == [True, False, True]


@pytest.mark.parametrize(("family", "path"), [("llama", "fused"), ("qwen2", "fused"), ("gpt2", "packed")])
def test_make_engine_auto_selects_fused_when_possible(family, path):
    assert make_engine(tiny_backbone(family), workers=1).attention == path


def test_make_engine_explains_why_fused_is_impossible():
    with pytest.raises(UserError, match=r"losses.* with fused attention \(its layers are not Llama-like\)"):
        make_engine(tiny_backbone("gpt2"), "fused", workers=1)


def lookalike():
    """Return a model with Llama's modules and names whose MLP output is halved."""
    model = tiny_model("llama").requires_grad_(False).eval()
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: output * 0.5)
    return Backbone("lookalike", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, "lookalike")


def test_make_engine_rejects_fused_for_different_computation():
    backbone = lookalike()
    assert make_engine(backbone, workers=1).attention == "packed"


def test_make_engine_selects_single_for_custom_attention():
    """The attention of Llama-like layers accepts neither a layout nor a cache."""
    model = tiny_model("llama", seed=5).requires_grad_(False).eval()
    for layer in model.model.layers:

        def custom(hidden_states, position_embeddings, attention_mask, plain=layer.self_attn.forward, **_):
            return plain(hidden_states, position_embeddings, attention_mask)

        layer.self_attn.forward = custom
    backbone = Backbone("custom", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, "custom")
    assert make_engine(backbone).attention == "single"
    with pytest.raises(UserError, match=r"losses.* with fused attention \("):
        make_engine(backbone, "fused")


def test_fuse_leaves_other_uses_of_model_unchanged():
    model, ids = tiny_model("llama").requires_grad_(False).eval(), torch.arange(3, 40)[None]
    backbone = Backbone("tiny", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, "tiny")
    before = model(ids).logits
    assert make_engine(backbone, workers=1).attention == "fused"
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(ids).logits, before)
    # The module weights are views of the concatenated weights: no copy is in memory.
    attention = model.model.layers[0].self_attn
    weights = [getattr(attention, name).weight for name in ("q_proj", "k_proj", "v_proj")]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1


@pytest.mark.parametrize("native", [True, False])
def test_fused_bfloat16_is_as_accurate_as_eager(monkeypatch, native):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: native)
    prompts, rows = prompts_of(tiny_backbone("llama"), 3), rows_of(3)
    exact = Engine(tiny_backbone("llama"), "eager").score(prompts, rows)
    model = tiny_model("llama").requires_grad_(False).eval().to(torch.bfloat16)
    backbone = Backbone("half", model, tiny_tokenizer(), torch.device("cpu"), torch.bfloat16, "half")
    fused = make_engine(backbone, workers=1)
    assert fused.attention == "fused"
    errors = {
        path: (Engine(backbone, path).score(prompts, rows) - exact).abs().mean()
        for path in ("fused", "eager")
    }
    assert errors["fused"] <= 1.5 * errors["eager"]


def test_make_engine_selects_packed_when_numba_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "fedprofit.backbone.operations", None)
    engine = make_engine(tiny_backbone("llama"), workers=1)
    assert engine.attention == "packed"
    assert "not fused: the package numba does not work here" in engine.reason
    monkeypatch.undo()
    assert make_engine(tiny_backbone("llama"), workers=1).attention == "fused"
