"""Write a tiny Llama as a GGUF file using only the `gguf` package: the reference for conversion."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tiny import tiny_model, tiny_tokenizer

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path, kind: str = "F32", more: Callable[[gguf.GGUFWriter], object] = lambda writer: None
) -> dict[str, np.ndarray]:
    """Write the tiny Llama with matrices quantized to `kind`; return the dequantized values.

    `more` adds further fields and tensors.
    """
    model, writer = tiny_model("llama"), gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    written = {}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        quantization = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        packed = gguf.quantize(_rotary_order(name, values), quantization)
        writer.add_tensor(_gguf_name(name), packed, raw_dtype=quantization)
        written[name] = _rotary_order(name, gguf.dequantize(packed, quantization), back=True)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    vocabulary = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    words = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def _rotary_order(name: str, values: np.ndarray, back: bool = False) -> np.ndarray:
    """Interleave the two rotary halves of each query and key head, as in Llama's GGUF files."""
    heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
    if not heads:
        return values
    inner = (-1, 2) if back else (2, -1)
    return np.ascontiguousarray(values.reshape(heads, *inner, 32).swapaxes(1, 2).reshape(values.shape))
