"""Make a backbone from a model and a tokenizer in memory, for example in a notebook."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedprofit.backbone.fingerprint import tokenizer_text
from fedprofit.backbone.load import Backbone, check_causal, check_fit
from fedprofit.core.files import content_hash


def backbone_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> Backbone:
    """Freeze a transformers model and wrap it as a backbone; keep its device and dtype.

    Args:
        model: a causal language model. `requires_grad` is set to False for all its parameters.
        tokenizer: the tokenizer that the model was trained with.
        name: name in results; by default the name or class of the model.

    Raises:
        UserError: the model is not causal, or the tokenizer does not belong to the model.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer  # doctest: +SKIP
        >>> backbone = backbone_of(  # doctest: +SKIP
        ...     AutoModelForCausalLM.from_pretrained("owner/model"),
        ...     AutoTokenizer.from_pretrained("owner/model"),
        ... )
    """
    name = name or str(model.config.name_or_path) or type(model).__name__
    check_causal(name, model.config)
    check_fit(name, model, tokenizer)
    frozen: Any = model
    frozen.requires_grad_(False).eval()
    parameter = next(model.parameters())
    return Backbone(name, model, tokenizer, parameter.device, parameter.dtype, _fingerprint(model, tokenizer))


def _fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 16 hexadecimal digits that change with any weight, the configuration or the tokenizer."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    config = model.config.to_dict()
    for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    digest.update(content_hash([config, tokenizer_text(tokenizer)]).encode())
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
