"""Soft prompts: a few trained input embeddings in front of a frozen model (Lester et al. 2021).

Prompts are kept in float32 whatever the backbone's type: Adam's epsilon underflows in half precision.
"""

import torch
from torch import Tensor

from fedprofit.backbone.load import Backbone
from fedprofit.core.errors import UserError
from fedprofit.core.seeding import torch_generator
from fedprofit.core.types import Params

KEY = "prompt"


def initial_prompt(backbone: Backbone, length: int, seed: int, text: str | None = None) -> Params:
    """Make the one initialization that all clients share, `{"prompt": [length, width]}`.

    Embeddings of sampled vocabulary tokens, special ones left out, or of a text, repeated or cut to the
    length. Never random numbers: those lie off the manifold of embeddings and train worse.

    Raises UserError if the text has no tokens.
    """
    if text is None:
        special = set(backbone.tokenizer.all_special_ids)
        known = min(len(backbone.tokenizer), backbone.vocabulary_size)
        usable = torch.tensor([i for i in range(known) if i not in special])
        drawn = torch.randint(len(usable), (length,), generator=torch_generator(seed, "prompt"))
        ids = usable[drawn]
    else:
        tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise UserError(f"tuner.text: {text!r} has no tokens. Give a text that says what the task is.")
        ids = torch.tensor((tokens * length)[:length])
    with torch.no_grad():
        return {KEY: backbone.embed(ids).float().clone()}


def no_prompt(backbone: Backbone) -> Params:
    """Make the empty prompt of the base model, `{"prompt": [0, width]}`."""
    return {KEY: torch.zeros(0, backbone.width, device=backbone.device)}


def stacked_prompts(params: Params) -> Tensor:
    """Return the prompts `[clients, length, width]` of stacked parameters."""
    return params[KEY]
