"""A backbone from a model and a tokenizer that are in memory, as a notebook has them."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedprofit.backbone.fingerprint import whole_tokenizer
from fedprofit.backbone.load import Backbone, check_causal, check_fit
from fedprofit.core.files import content_hash


def backbone_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> Backbone:
    """Freeze a transformers model and take it as a backbone, on the device and in the dtype that it has.

    Args:
        model: a causal language model. Its parameters no longer require gradients afterwards.
        tokenizer: the tokenizer that it was trained with.
        name: what results call it; by default the model's own name or class.

    Raises:
        UserError: the model is not causal, or the tokenizer is not its own.

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
    """Return 16 digits that change with any weight, the configuration or the tokenizer."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    config = model.config.to_dict()
    for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    digest.update(content_hash([config, whole_tokenizer(tokenizer)]).encode())
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
