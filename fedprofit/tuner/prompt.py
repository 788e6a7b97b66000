"""Soft prompts: trained input embeddings before the text of a frozen model.

Prompts are float32 for every dtype of the backbone: Adam's epsilon underflows in half precision.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Positive
from fedprofit.core.errors import UserError, cut
from fedprofit.core.seeding import torch_generator
from fedprofit.core.types import Params
from fedprofit.tuner.base import Tuner, TunerSettings

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.load import Backbone

KEY = "prompt"


class SoftPrompt(TunerSettings, kind="prompt", paper="Lester et al. 2021, arXiv 2104.08691"):
    """A soft prompt: trained input embeddings, with one initialization for all clients."""

    tokens_field: ClassVar[str] = "tuner.length"

    length: Positive = 20
    """Vectors of the prompt; each takes the place of a token."""
    init: Literal["vocabulary", "text"] = "vocabulary"
    """Start from the embeddings of sampled tokens, or of a text."""
    text: str | None = None
    """The text to start from, repeated or cut to the length."""

    @model_validator(mode="after")
    def _text_is_given(self) -> Self:
        if (self.init == "text") != (self.text is not None):
            raise ValueError("init: text needs a text, and no other init takes one")
        return self

    @property
    def tokens(self) -> int:
        """Tokens that the prompt adds to each input."""
        return self.length

    def expected_numbers(self, width: int) -> int:
        """Return how many numbers one client's prompt has."""
        return self.length * width

    def build(self) -> Tuner:
        """Make the tuner.

        >>> import torch
        >>> tuner = SoftPrompt(length=1).build()
        >>> personal, federated = {"prompt": torch.ones(2, 1, 3)}, {"prompt": torch.zeros(1, 3)}
        >>> tuner.mix(personal, federated, 0.25)["prompt"][:, 0, 0].tolist()
        [0.25, 0.25]
        """

        def init(backbone: "Backbone", seed: int) -> Params:
            return initial_prompt(backbone, self.length, seed, self.text)

        return Tuner(self.kind, {KEY: 2}, init, _no_prompt, _input_embeddings, _write)


def initial_prompt(backbone: "Backbone", length: int, seed: int, text: str | None = None) -> Params:
    """Make the one initialization that all clients share, `{"prompt": [length, width]}`.

    Embeddings of sampled vocabulary tokens without the special ones, or of a text, repeated or cut to the
    length. Random numbers lie off the manifold of embeddings and train worse.

    Raises:
        UserError: the text has no tokens.
    """
    import torch

    if text is None:
        special = set(backbone.tokenizer.all_special_ids)
        known = min(len(backbone.tokenizer), backbone.vocabulary_size)
        usable = torch.tensor([i for i in range(known) if i not in special])
        drawn = torch.randint(len(usable), (length,), generator=torch_generator(seed, "prompt"))
        ids = usable[drawn]
    else:
        tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise UserError(f"tuner.text: {cut(repr(text))} has no tokens. Describe the task in words.")
        ids = torch.tensor((tokens * length)[:length])
    with torch.no_grad():
        return {KEY: backbone.embed(ids).float().clone()}


def _no_prompt(backbone: "Backbone") -> Params:
    import torch

    return {KEY: torch.zeros(0, backbone.width, device=backbone.device)}


def _input_embeddings(params: Params) -> "Tensor":
    return params[KEY]


def _write(params: Params, backbone: "Backbone", folder: Path) -> None:
    """Write the files of peft's `PromptTuningConfig`."""
    from safetensors.torch import save_file

    prompt = params[KEY].detach().cpu().contiguous()
    facts = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone.name,
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    save_file({"prompt_embeddings": prompt}, folder / "adapter_model.safetensors", metadata={"format": "pt"})


SOFT_PROMPT = SoftPrompt().build()  # of any length: only its `init` depends on the settings
