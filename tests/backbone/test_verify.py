"""Test that inexact paths are refused at the relevant lengths, and that the model is restored."""

import dataclasses

import pytest
import torch
from tiny import tiny_backbone, tiny_tokenizer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from fedprofit.backbone import verify
from fedprofit.backbone.engine import make_engine
from fedprofit.backbone.load import Backbone
from fedprofit.core.errors import UserError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32,
}
PER_LAYER = {"vocab_size_per_layer_input": 352, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}


def random_backbone(model_class, config, **settings) -> Backbone:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    model = (
        model_class(config(vocab_size=len(tokenizer), **{**SIZES, **settings})).eval().requires_grad_(False)
    )
    return Backbone(
        model_class.__name__, model, tokenizer, torch.device("cpu"), torch.float32, f"{model_class}{settings}"
    )


def llama4() -> Backbone:
    settings = {"intermediate_size_mlp": 64, "num_local_experts": 4, "head_dim": 8}
    return random_backbone(Llama4ForCausalLM, Llama4TextConfig, **settings, attention_chunk_size=32)


def phi3() -> Backbone:
    return random_backbone(
        Phi3ForCausalLM, Phi3Config, original_max_position_embeddings=32, rope_parameters=LONG
    )


@pytest.mark.parametrize(
    ("make", "reach", "path", "why"),
    [
        (llama4, 30, "packed", ""),
        (llama4, 60, "eager", "not packed: losses differ by .* in a row of "),
        (phi3, 30, "packed", ""),
        (phi3, 60, "single", "not packed: losses differ by .*not eager: losses differ"),
    ],
)
def test_verified_path_depends_on_reach(make, reach, path, why):
    verdict = verify.verified_path(make(), reach=reach)
    assert verdict.path == path
    assert ("not packed" in verdict.reason) == (path != "packed")
    if why:
        with pytest.raises(UserError, match=r"with packed attention \(losses differ"):
            make_engine(make(), "packed", reach=reach)


def test_verified_path_refuses_packed_for_two_attentions():
    verdict = verify.verified_path(random_backbone(DiffLlamaForCausalLM, DiffLlamaConfig))
    assert verdict.path == "eager"
    assert "answers differ" in verdict.refused["packed"]


def test_verified_path_is_single_for_special_models():
    assert verify.verified_path(random_backbone(RobertaForCausalLM, RobertaConfig, is_decoder=True)).path == (
        "single"
    )
    gpt = random_backbone(OpenAIGPTLMHeadModel, OpenAIGPTConfig)
    assert verify.verified_path(gpt).path == "single"


@pytest.mark.parametrize(
    ("model_class", "config", "settings", "why"),
    [
        (BertLMHeadModel, BertConfig, {}, "bidirectional"),
        (Gemma4ForCausalLM, Gemma4TextConfig, PER_LAYER, "hidden_size_per_layer_input is 8"),
    ],
)
def test_make_engine_refuses_models_without_soft_prompts(model_class, config, settings, why):
    with pytest.raises(UserError, match=f"{model_class.__name__}.*{why}"):
        make_engine(random_backbone(model_class, config, **settings))


def test_verified_path_restores_model_after_refusal():
    backbone = phi3()
    implementation = backbone.model.config._attn_implementation
    verify.verified_path(backbone, reach=60)
    assert backbone.model.config._attn_implementation == implementation
    assert not any("forward" in vars(module) for module in backbone.model.modules())


def test_verified_path_caches_verdict_by_model_and_lengths(monkeypatch):
    backbone = dataclasses.replace(tiny_backbone("mistral"), fingerprint="cached")
    assert verify.lengths_of(backbone.model.config, 100) == [8]
    first = verify.verified_path(backbone, reach=100)

    def never(*_):
        raise AssertionError("decided again")

    monkeypatch.setattr(verify, "_decide", never)
    assert verify.verified_path(backbone, reach=90) == first
    with pytest.raises(AssertionError, match="decided again"):
        verify.verified_path(backbone, reach=300)
    with pytest.raises(AssertionError, match="decided again"):
        verify.verified_path(dataclasses.replace(backbone, fingerprint="other"), reach=100)
