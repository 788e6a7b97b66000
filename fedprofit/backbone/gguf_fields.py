"""GGUF fields that change what a model computes, compared with the configuration that transformers read."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedprofit.core.errors import UserError

# Fields that do not change the function; a context length only limits it.
REMARKS = (
    "vocab_size",
    "context_length",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",  # belongs to a scaling that is itself read or refused
)


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)


def _of(*names: str, default: Any = None) -> Callable[[Any], Any]:
    """Return a function that reads the first of these attributes that a configuration has."""

    def read(config: Any) -> Any:
        return next((getattr(config, name) for name in names if hasattr(config, name)), default)

    return read


def _rotary(config: Any) -> float:
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    return _head_size(config) * float(rope.get("partial_rotary_factor", 1.0))


def _rope_theta(layers: str) -> Callable[[Any], Any]:
    def read(config: Any) -> Any:
        rope = getattr(config, "rope_parameters", None) or {}
        return rope.get(layers, rope).get("rope_theta")

    return read


def _attention_scale(config: Any) -> float:
    size = float(getattr(config, "query_pre_attn_scalar", None) or _head_size(config))
    return 1 / math.sqrt(size)


# The value of each GGUF field according to a configuration. If both agree, the field can be ignored.
EXPECTED: dict[str, Callable[[Any], Any]] = {
    "block_count": _of("num_hidden_layers"),
    "embedding_length": _of("hidden_size"),
    "feed_forward_length": _of("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": _of("num_attention_heads"),
    "attention.head_count_kv": _of("num_key_value_heads", "num_attention_heads"),
    "attention.key_length": _head_size,
    "attention.value_length": _head_size,
    "attention.causal": lambda config: True,
    "attention.layer_norm_epsilon": _of("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": _of("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": _of("sliding_window"),
    "attention.scale": _attention_scale,
    "attn_logit_softcapping": _of("attn_logit_softcapping"),
    "final_logit_softcapping": _of("final_logit_softcapping"),
    "logit_scale": _of("logit_scale", default=1.0),
    "embedding_scale": _of("embedding_multiplier", default=1.0),
    "residual_scale": _of("residual_multiplier", default=1.0),
    "use_parallel_residual": _of("use_parallel_residual", "parallel_attn", default=False),
    "rope.dimension_count": _rotary,
    "rope.freq_base": _rope_theta("full_attention"),
    "rope.freq_base_swa": _rope_theta("sliding_attention"),
    "rope.scaling.type": lambda config: "none",
    "rope.scaling.factor": lambda config: 1.0,
    "rope.scaling.attn_factor": lambda config: 1.0,
    "expert_count": _of("num_experts", "num_local_experts", default=0),
    "expert_used_count": _of("num_experts_per_tok", default=0),
    "expert_feed_forward_length": _of("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": _of("shared_expert_intermediate_size", default=0),
    "expert_weights_norm": _of("norm_topk_prob"),
    "expert_weights_scale": _of("routed_scaling_factor", default=1.0),
}


def check_fields(path: Path, config: Any, fields: dict[str, Any]) -> None:
    """Raise UserError unless every field is in `REMARKS` or agrees with the configuration."""
    for name, value in fields.items():
        if name in REMARKS:
            continue
        expected = EXPECTED[name](config) if name in EXPECTED else None
        if name in EXPECTED and _agree(value, expected):
            continue
        if name == "attention.sliding_window" and value >= config.max_position_embeddings:
            continue  # the window masks nothing
        read = f"transformers reads it as {expected!r}" if name in EXPECTED else "transformers ignores it"
        raise UserError(
            f"{path}: the field {name!r} = {str(value)[:80]} changes what the model computes, but {read}. "
            "Give the model as a folder in Hugging Face format."
        )


def _agree(value: Any, expected: Any) -> bool:
    if isinstance(value, list):
        return all(_agree(one, expected) for one in value)
    if isinstance(value, str) or expected is None or isinstance(expected, str):
        return bool(value == expected)
    return math.isclose(value, expected, rel_tol=1e-5)
