"""Convert a GGUF file to a Hugging Face folder that computes the same function, or refuse it.

transformers reads the weights and the common fields of a GGUF file. It ignores others, such as rotary
scaling. This module adds rotary scaling to the configuration. It refuses the file if any other field or
tensor would change the function and disagrees with the configuration that transformers read.
"""

import errno
import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from fedprofit.backbone.gguf_fields import check_fields
from fedprofit.core.errors import UserError, first_line

# Tensors whose values divide the rotary frequencies.
FACTORS = {
    "all": "rope_freqs.weight",
    "long": "rope_factors_long.weight",
    "short": "rope_factors_short.weight",
}


def check_magic(path: Path) -> None:
    """Raise UserError unless a file starts with the GGUF magic bytes."""
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if magic != b"GGUF":
        raise UserError(
            f"{path} is not a GGUF file: it starts with {magic!r} instead of b'GGUF'. Give another file, "
            "or a folder in Hugging Face format."
        )


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a plain Hugging Face folder in float32.

    The weights are dequantized by transformers' GGUF reader. Q4 and Q5 values are products of a float16
    scale and a small integer; neither bfloat16 nor float16 represents all of them exactly.

    Raises:
        UserError: the file is damaged, transformers cannot read its architecture, or a field or tensor that
            changes the function is not read.
    """
    from safetensors import SafetensorError

    check_magic(gguf)
    with quiet_transformers():
        try:
            # The reader's progress bar ignores the settings of transformers: redirect its stderr.
            with redirect_stderr(io.StringIO()):
                model, tokenizer = _read(gguf)
        except UserError:
            raise
        except Exception as error:
            # Damaged bytes can raise anything here: ValueError, IndexError, KeyError, …
            raise UserError(f"{gguf} cannot be read as a language model in GGUF ({_why(error)}") from error
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:
            # safetensors wraps the system error: only its text identifies a full disk.
            raise (OSError(errno.ENOSPC, str(error)) if "No space left" in str(error) else error) from error
        tokenizer.save_pretrained(folder)


def _why(error: Exception) -> str:
    reason = first_line(error, True)
    if isinstance(error, ImportError) or "pip install" in reason:
        return f"{reason}). Install the missing package."
    return (
        f"{reason}). The file may be truncated: compare its size with the source and download it again. Or "
        "transformers cannot read this architecture from GGUF: give a folder in Hugging Face format."
    )


def _read(path: Path) -> tuple[Any, Any]:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, gguf_file=path.name, output_loading_info=True
    )
    read, info = loaded
    reader = GGUFReader(path)
    fields = _fields(reader)
    _scale_positions(read.config, fields, _factors(reader))
    check_fields(path, read.config, fields)
    _check_tensors(path, read, reader, info)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers marks a model read from GGUF as quantized and cannot save it: rebuild it with its tensors.
    config = read.config
    del config.quantization_config
    config._name_or_path = ""
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model, tokenizer


def _fields(reader: Any) -> dict[str, Any]:
    """Return the fields of the architecture without its name as prefix: `{"rope.freq_base": 1e4}`."""
    prefix = f"{reader.fields['general.architecture'].contents()}."
    return {
        name.removeprefix(prefix): field.contents()
        for name, field in reader.fields.items()
        if name.startswith(prefix)
    }


def _factors(reader: Any) -> dict[str, list[float]]:
    """Return the divisors of the rotary frequencies, by their key in `FACTORS`."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    return {kind: tensors[name].data.ravel().tolist() for kind, name in FACTORS.items() if name in tensors}


def _scale_positions(config: Any, fields: dict[str, Any], factors: dict[str, list[float]]) -> None:
    """Write the file's rotary base and scaling into `config.rope_parameters`."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return  # `check_fields` then refuses the fields
    # If layers with a sliding window have separate parameters, scaling applies to the full-attention layers.
    rope = rope.get("full_attention", rope)
    if "rope.freq_base" in fields:
        rope["rope_theta"] = fields["rope.freq_base"]
    scaling = _scaling(config, fields, factors)
    if scaling:
        rope.update(scaling)
        for name in [name for name in fields if name.startswith("rope.scaling.")]:
            del fields[name]


def _scaling(config: Any, fields: dict[str, Any], factors: dict[str, list[float]]) -> dict[str, Any]:
    kind = fields.get("rope.scaling.type", "none")
    factor = fields.get("rope.scaling.factor", 1.0)
    original = fields.get("rope.scaling.original_context_length", config.max_position_embeddings)
    attention = fields.get("rope.scaling.attn_factor")
    if factors.get("all") and kind in ("none", "llama3"):
        # Arbitrary factors, such as those of Llama 3.1, equal a "longrope" with two identical sets.
        both = {"long_factor": factors["all"], "short_factor": factors["all"], "attention_factor": 1.0}
        return {"rope_type": "longrope", "original_max_position_embeddings": original, **both}
    if factors.get("long") and factors.get("short"):
        parts = {"long_factor": factors["long"], "short_factor": factors["short"], "factor": factor}
        if attention is not None:
            parts["attention_factor"] = attention
        elif original < config.max_position_embeddings:
            parts["factor"] = config.max_position_embeddings / original
        return {"rope_type": "longrope", "original_max_position_embeddings": original, **parts}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and not fields.get("rope.scaling.yarn_log_multiplier"):
        betas = {
            f"beta_{side}": fields[name]
            for side in ("fast", "slow")
            if (name := f"rope.scaling.yarn_beta_{side}") in fields
        }
        scale = fields.get("rope.scaling.yarn_attn_factor", 1.0) * (attention or 1.0)
        attention = scale * (0.1 * math.log(factor) + 1.0) if factor > 1 else scale
        parts = {"factor": factor, "attention_factor": attention, **betas}
        return {"rope_type": "yarn", "original_max_position_embeddings": original, **parts}
    if kind == "none" and factor == 1.0:
        return {"rope_type": "default"}
    return {}


def _check_tensors(path: Path, model: Any, reader: Any, info: dict[str, Any]) -> None:
    """Raise UserError unless the file contains all tensors of the model and no others."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{path}: {len(missing)} tensors of the model are missing, the first is {missing[0]!r}. "
            "The file is incomplete: download it again."
        )
    sizes = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    for name in FACTORS.values():
        sizes.pop(name, None)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    read = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    if sum(sizes.values()) - tied * sizes.get("output.weight", 0) > sum(read.values()):
        raise UserError(
            f"{path}: contains {len(sizes)} tensors with {sum(sizes.values())} values, but transformers "
            f"reads only {sum(read.values())} of them (it may ignore biases, for example). Give the model "
            "as a folder in Hugging Face format."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the log lines and progress bars of transformers within the block."""
    from transformers.utils import logging as transformers_logging

    bars_off: Callable[[], None] = transformers_logging.disable_progress_bar
    bars_on: Callable[[], None] = transformers_logging.enable_progress_bar
    hub_logger = logging.getLogger("huggingface_hub")
    verbosity, hub_level = transformers_logging.get_verbosity(), hub_logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub_logger.setLevel(logging.CRITICAL)
    bars_off()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logger.setLevel(hub_level)
        if bars:
            bars_on()
