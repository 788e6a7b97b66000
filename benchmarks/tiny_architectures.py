"""Tiny random models of every causal architecture in transformers, for `architectures.py`.

Fields are made small by name, because most architectures share their names; `OVERRIDES` has the exceptions.
Windows, chunks and original contexts become 16 to 32 tokens, so that short rows can be shorter or longer. All
weights are drawn with a large standard deviation, also those that are initialized to zero or one.
"""

import copy
import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from tiny import tiny_tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

SPREAD = 0.2  # standard deviation of weights
LIMIT = 20_000_000  # parameters; a larger model means that a field was not made small

# New values of fields, in every configuration that has the field.
VALUES: list[tuple[Any, str]] = [
    (32, "hidden_size d_model n_embd embedding_size emb_dim embedding_dim lru_width attention_hidden_size"),
    (32, "word_embed_proj_dim input_embedding_size output_embedding_size pronunciation_embed_dim"),
    (32, "shape_embed_dim ple_embed_dim backbone_hidden_size router_hidden_size dim_model_base"),
    (64, "intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim n_inner dff dim_ff ffn_hidden_size"),
    (64, "d_inner intermediate_size_mlp dense_intermediate_size prefix_dense_intermediate_size"),
    (64, "feed_forward_size mamba_d_ssm"),
    (16, "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size"),
    (16, "shared_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size"),
    # Layers: two if each has many parts, else four, so that each type of layer occurs twice.
    (4, "num_hidden_layers num_layers n_layer n_layers"),
    (2, "decoder_layers encoder_layers num_decoder_layers num_encoder_layers num_layers_per_stack"),
    (2, "attn_layer_period expert_layer_period global_attn_every_n_layers sliding_window_pattern"),
    (2, "no_rope_layer_interval layer_group_size max_window_layers n_layers_per_attn_res_block"),
    (1, "attn_layer_offset expert_layer_offset first_k_dense_replace num_dense_layers"),
    (0, "num_kv_shared_layers num_nextn_predict_layers num_mtp_layers"),
    # Heads.
    (4, "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads"),
    (4, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads"),
    (4, "swa_num_attention_heads linear_num_value_heads linear_num_heads"),
    (32, "index_n_heads indexer_n_heads"),  # fewer heads would give tied scores
    (2, "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads indexer_kv_heads"),
    (8, "head_dim dim_head d_head swa_head_dim index_head_dim indexer_head_dim linear_head_dim"),
    (8, "linear_key_head_dim linear_value_head_dim attention_head_size kv_channels query_pre_attn_scalar"),
    (8, "qk_rope_head_dim qk_nope_head_dim v_head_dim"),
    (4, "rotary_dim"),
    (16, "q_lora_rank kv_lora_rank"),
    (4, "hc_lowrank adapter_rank gated_norm_rank o_lora_rank laurel_rank d_rel"),
    (2, "o_groups"),
    # State-space layers.
    (8, "mamba_d_head mamba_head_dim mamba_n_heads mamba_num_heads mamba_d_state state_size ssm_state_size"),
    (4, "mamba_dt_rank time_step_rank"),
    (2, "n_groups mamba_n_groups mamba_ngroups"),
    (False, "use_mamba_kernels"),
    # Experts.
    (4, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts moe_num_shared_experts"),
    (1, "n_group topk_group num_expert_group zero_expert_num"),
    # Lengths: short if the computation changes there, long if they only limit the input.
    (16, "sliding_window sliding_window_size attention_window_size window_size local_attention"),
    (16, "local_attention_window_len index_topk indexer_budget local_attn_chunk_length keep_window_size"),
    (16, "lsh_attn_chunk_length mamba_chunk_size chunk_size position_bias_max_distance"),
    (16, "relative_max_distance rel_extent"),
    (24, "attention_chunk_size"),
    (32, "original_max_position_embeddings floor_scale log_scaling_n_floor"),
    (8, "index_block_size block_size position_bias_num_buckets num_buckets"),
    (2, "index_topk_blocks indexer_compress_ratio"),
    (256, "max_position_embeddings n_positions n_ctx context_length max_seq_len max_target_positions"),
    (256, "model_max_length"),
    (True, "use_sliding_window"),
    # Vocabularies.
    (0, "bos_token_id decoder_start_token_id"),
    (1, "eos_token_id forced_eos_token_id"),
    (2, "pad_token_id"),
    (350, "image_token_id image_token_index video_token_id audio_token_id"),
    (64, "encoder_hash_byte_group_vocab ngram_vocab_size_base pronunciation_vocab_size shape_vocab_size"),
    # Factors: not 1, which would hide that a factor is ignored.
    (1.5, "embedding_multiplier embedding_scale scale_emb"),
    (0.7, "residual_multiplier key_multiplier ssm_in_multiplier attention_in_multiplier lm_head_multiplier"),
    (0.4, "attention_multiplier"),
    (SPREAD, "initializer_range init_std"),
    # The rest.
    (2, "rescale_every altup_num_inputs num_mem_blocks"),
    (8, "hidden_size_per_layer_input block_multiple_of prompt_length prompt_types segment_types"),
]
# Like `VALUES`, for fields whose default is not None: caps low enough to be reached, and scales.
WHERE_SET: list[tuple[Any, str]] = [
    (3.0, "final_logit_softcapping logits_soft_cap output_logit_soft_cap"),
    (2.0, "attn_logit_softcapping logits_scaling"),
    (0.5, "logit_scale"),
]

LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}

LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
MIXED = ["sliding_attention", "full_attention"] * 2

# Values for single architectures.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64, "moe_top_k": 2},
    },
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16},
    "dots1": {"n_shared_experts": 1},
    "gemma4_text": {"global_head_dim": 8},
    "gemma4_unified_text": {"global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "index_n_heads": 2},
    "mellum": {"layer_types": MIXED},
    "laguna": {"layer_types": MIXED},
    "phi3": {"rope_parameters": LONG_ROPE},
    "qwen4_exp_text": {"indexer_kv_heads": 1},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"] * 2,
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"] * 2},
}
# Variants of an architecture: options of its configuration.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere (query norms)": ("cohere", {"use_qk_norm": True}),
    "deepseek_v3 (YaRN)": ("deepseek_v3", {"rope_parameters": YARN}),
    "falcon (ALiBi)": ("falcon", {"alibi": True}),
    "falcon (new decoder)": ("falcon", {"new_decoder_architecture": True}),
    "gemma3_text (bidirectional)": ("gemma3_text", {"use_bidirectional_attention": True}),
    "gemma4_text (no layer inputs)": ("gemma4_text", {"hidden_size_per_layer_input": 0}),
    "gpt2 (scaled by layer)": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode (many keys)": ("gpt_bigcode", {"multi_query": False}),
    "llama (biases)": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama (dynamic positions)": (
        "llama",
        {"max_position_embeddings": 48, "rope_parameters": {**LINEAR, "rope_type": "dynamic"}},
    ),
    "llama (linear positions)": ("llama", {"rope_parameters": LINEAR}),
    "llama (Llama 3 positions)": (
        "llama",
        {"rope_parameters": {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    ),
    "llama (long positions)": ("llama", {"rope_parameters": LONG_ROPE}),
    "llama (YaRN)": ("llama", {"rope_parameters": YARN}),
    "olmo (clipped)": ("olmo", {"clip_qkv": 0.5}),
    "opt (norm after)": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "phi (query norms)": ("phi", {"qk_layernorm": True}),
    "stablelm (parallel)": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "xlm (causal)": ("xlm", {"causal": True}),
    "xlnet (one direction)": ("xlnet", {"attn_type": "uni"}),
}
DECODER = " (as decoder)"
ALWAYS_DECODERS = ("gpt_neox", "gpt_neox_japanese", "reformer")  # regardless of is_decoder


def names() -> list[str]:
    """Return the names of all architectures and variants: a model type or "type (variant)"."""
    found = []
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        found.append(kind)
        defaults = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[kind])}
        switched = defaults.get("is_encoder_decoder") is True or defaults.get("is_decoder") is False
        if switched and kind not in ALWAYS_DECODERS:
            found.append(f"{kind}{DECODER}")
        found += [name for name, (of, _) in VARIANTS.items() if of == kind]
    return found


def tiny_config(name: str) -> PreTrainedConfig:
    """Return a small configuration of an architecture or variant."""
    kind, overrides = VARIANTS.get(name, (name.removesuffix(DECODER), {}))
    overrides = {**OVERRIDES.get(kind, {}), **overrides}
    if name.endswith(DECODER):
        overrides["is_decoder"] = True
    return _small(CONFIG_MAPPING[kind], overrides)


def tiny_architecture(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model of an architecture or variant: float32, width 32, 2 to 4 layers."""
    config = tiny_config(name)
    size = _parameters(config)
    if size > LIMIT:
        raise ValueError(f"{size / 1e6:.0f} million parameters: the model is not small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _auto_class(config).from_config(config, dtype=torch.float32).eval()
        _draw(model)
        with torch.no_grad():  # check that it runs
            model(input_ids=torch.randint(3, 300, (1, 40)), use_cache=False)
    return model


def _parameters(config: PreTrainedConfig) -> int:
    with suppress(Exception), torch.device("meta"):  # not every model supports the meta device
        return sum(p.numel() for p in _auto_class(config).from_config(copy.deepcopy(config)).parameters())
    return 0


def _auto_class(config: PreTrainedConfig) -> Any:
    """Return the auto class of a checkpoint: image-text models if it has a text part, else causal models."""
    images = "text_config" in config.sub_configs and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if images else AutoModelForCausalLM


def _small(kind: type[PreTrainedConfig], overrides: Mapping[str, Any]) -> PreTrainedConfig:
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for value, listed in VALUES for name in listed.split() if name in fields}
    words = ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "unpadded_vocab_size")
    values |= {name: len(tiny_tokenizer()) for name in words if name in fields}
    if "kv_lora_rank" in fields:  # every query head has a key, computed from a shared latent vector
        values["num_key_value_heads"] = values["num_attention_heads"]
    try:
        default = kind()
    except Exception:  # some defaults are invalid
        return kind(**{**values, **overrides})
    for value, listed in WHERE_SET:
        values |= {
            name: value for name in listed.split() if name in fields and vars(default).get(name) is not None
        }
    values |= _by_layer(default, fields, values)
    rope = getattr(default, "rope_parameters", None)
    if "original_max" in str(rope):
        values["rope_parameters"] = _shortened(rope)
    for name in kind.sub_configs:
        part = getattr(default, name, None)
        if part is not None:
            values[name] = _small(type(part), OVERRIDES.get(part.model_type, {}))
    return kind(**{**values, **overrides})


def _by_layer(default: Any, fields: set[str], values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return shortened lists with one entry per layer, such as layer types; all values alternate."""
    name = next((name for name in ("num_hidden_layers", "num_layers", "n_layers") if name in fields), "")
    count, found = values.get(name, 0), {}
    for field in fields - values.keys():
        listed = vars(default).get(field)
        if isinstance(listed, list) and len(listed) == vars(default).get(name) and len(set(listed)) > 1:
            found[field] = (list(dict.fromkeys(listed)) * count)[:count]
    return found


def _shortened(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return rotary parameters with a short original context."""
    lengths = {"original_max_position_embeddings": 32, "max_position_embeddings": 256}
    return {
        key: _shortened(value) if isinstance(value, dict) else lengths.get(key, value)
        for key, value in rope.items()
    }


def _draw(model: PreTrainedModel) -> None:
    """Draw matrices at random, add noise to constant tensors, and leave masks and tables unchanged."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        noise = SPREAD * torch.randn_like(tensor)
        first = float(tensor.flatten()[0])
        if name in parameters and tensor.dim() > 1 and not name.endswith("A_log"):
            tensor.copy_(noise)
        elif bool((tensor == first).all()) and abs(first) <= 10:
            tensor.copy_(noise if first == 0 else first * (1 + noise))
        elif not bool(tensor.isfinite().all()):  # uninitialized memory
            tensor.copy_(noise)
