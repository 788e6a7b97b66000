"""Test that GGUF fields that change the function are read or refused by name."""

import numpy as np
import pytest
import torch
from gguf_file import write_gguf
from tiny import tiny_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from fedprofit.backbone import fetch
from fedprofit.core.errors import UserError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))


def logits(model) -> torch.Tensor:
    ids = torch.arange(200).unsqueeze(0) % 300
    with torch.no_grad():
        return model.eval()(ids).logits


def scaled(**rope) -> LlamaForCausalLM:
    """Return the tiny Llama with rotary scaling, configured by transformers only."""
    plain = tiny_model("llama")
    config = plain.config.__class__(**{**plain.config.to_dict(), "rope_parameters": {**rope}})
    model = LlamaForCausalLM(config)
    model.load_state_dict(plain.state_dict())
    return model


def add_llama3(writer) -> None:
    model = scaled(rope_theta=10000.0, **LLAMA3)
    plain = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    factors = plain / model.model.rotary_emb.inv_freq
    assert factors.max() > factors.min()
    writer.add_tensor("rope_freqs.weight", factors.numpy().astype(np.float32))


def add_linear(writer) -> None:
    writer.add_string("llama.rope.scaling.type", "linear")
    writer.add_float32("llama.rope.scaling.factor", 4.0)


def add_yarn(writer) -> None:
    writer.add_string("llama.rope.scaling.type", "yarn")
    writer.add_float32("llama.rope.scaling.factor", 4.0)
    writer.add_uint32("llama.rope.scaling.original_context_length", 64)


@pytest.mark.parametrize(
    ("more", "rope"),
    [(add_llama3, LLAMA3), (add_linear, {"rope_type": "linear", "factor": 4.0}), (add_yarn, YARN)],
    ids=["llama3", "linear", "yarn"],
)
def test_convert_gguf_preserves_rotary_scaling(more, rope, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "F32", more)
    found = logits(AutoModelForCausalLM.from_pretrained(fetch.from_gguf(tmp_path / "tiny.gguf")))
    torch.testing.assert_close(found, logits(scaled(rope_theta=10000.0, **rope)), rtol=1e-4, atol=1e-4)
    assert (found - logits(tiny_model("llama"))).abs().max() > 0.1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (lambda w: w.add_float32("llama.attention.scale", 0.1), r"attention\.scale' = 0\.1.*0\.35"),
        (lambda w: w.add_float32("llama.logit_scale", 0.5), r"logit_scale' = 0\.5.*reads it as 1\.0"),
        (
            lambda w: w.add_uint32("llama.attention.sliding_window", 8),
            r"sliding_window' = 8.*as None",
        ),
        (lambda w: w.add_bool("llama.attention.causal", False), r"causal' = False.*reads it as True"),
        (lambda w: w.add_float32("llama.never.heard_of", 2.0), r"never\.heard_of' = 2\.0.*ignores it"),
        (lambda w: w.add_string("llama.rope.scaling.type", "su"), r"rope\.scaling\.type' = su"),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(32, np.float32)), "tensors with .* values"),
    ],
)
def test_convert_gguf_refuses_fields_that_transformers_ignores(more, message, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "F32", more)
    with pytest.raises(UserError, match=message):
        fetch.from_gguf(tmp_path / "tiny.gguf")


def test_convert_gguf_accepts_fields_that_agree(tmp_path):
    def more(writer) -> None:
        writer.add_float32("llama.attention.scale", 8**-0.5)
        writer.add_uint32("llama.attention.key_length", 8)
        writer.add_uint32("llama.attention.sliding_window", 256)

    write_gguf(tmp_path / "tiny.gguf", "F32", more)
    found = logits(AutoModelForCausalLM.from_pretrained(fetch.from_gguf(tmp_path / "tiny.gguf")))
    assert torch.equal(found, logits(tiny_model("llama")))
