"""Load a frozen language model and its tokenizer from a name or a path, once per process."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file

from fedprofit.backbone import fetch
from fedprofit.backbone.convert import quiet_transformers
from fedprofit.backbone.device import resolve_device, resolve_dtype
from fedprofit.backbone.fingerprint import PROBE, fingerprint_folder
from fedprofit.backbone.registry import DEFAULT, REGISTRY
from fedprofit.core.errors import UserError, first_line, nearest
from fedprofit.core.files import expanded

DECODERS = "Only decoder models with a causal head can be used, such as Llama, Qwen, Mistral or GPT-2."

# Suffixes of class names whose head is for another task.
OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "RewardModel")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen language model, its tokenizer, and the metadata that runs record.

    `fingerprint` identifies weights, configuration and tokenizer, independent of `dtype` and `device`:
    16 hexadecimal digits, see `fingerprint_folder`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    attention: str = ""  # the attention implementation that the model was loaded with

    def __post_init__(self) -> None:
        """Store the model's attention implementation; an engine may set another."""
        if not self.attention:
            object.__setattr__(self, "attention", self.model.config._attn_implementation)

    def use_own_attention(self) -> None:
        """Compute attention as the model does by itself, whatever an engine has set."""
        if self.model.config._attn_implementation != self.attention:
            self.model.set_attn_implementation(self.attention)

    @property
    def width(self) -> int:
        """Width of the input embeddings and of the vectors of a soft prompt."""
        return int(self._embedding.shape[1])

    @property
    def vocabulary_size(self) -> int:
        """Number of rows of the input embedding; the tokenizer may use fewer."""
        return int(self._embedding.shape[0])

    @property
    def context_length(self) -> int | None:
        """Largest number of positions, including the soft prompt; None if the model sets no limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for name, module in self.model.named_modules():
            # RoBERTa-like models start counting positions after the padding index of the same table.
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                return int(module.num_embeddings) - int(module.padding_idx) - 1
        return limit if limit is not None and limit > 0 else None  # XLNet has -1

    @property
    def eos_token_ids(self) -> list[int]:
        """All tokens that end a text; the first is the tokenizer's, which is used for training."""
        return _eos_token_ids(self.model, self.tokenizer)

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, if the tokenizer has one; the tokenizer may not add it to texts."""
        bos = self.tokenizer.bos_token_id
        return bos if isinstance(bos, int) else None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up token embeddings: ids of any shape to `[..., width]` on the backbone's device."""
        # Call the module instead of indexing its weight: some models scale embeddings in it.
        embedded = self.model.get_input_embeddings()(ids.to(self.device))
        assert isinstance(embedded, torch.Tensor)
        return embedded

    @property
    def _embedding(self) -> torch.Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        return weight


def load_backbone(
    name: str = DEFAULT,
    dtype: str = "auto",
    device: str = "auto",
    progress: fetch.Progress | None = None,
) -> Backbone:
    """Load a frozen causal language model; repeated calls in a process return the same object.

    Args:
        name: a registry name (fetched on first use), a folder in Hugging Face format, a `.gguf` file
            (converted on first use), or a hub id "owner/name"; tried in this order.
        dtype: "auto" is bfloat16 if the machine computes it natively, else float32.
        device: "auto" is CUDA if available, else the CPU.
        progress: called with a line of text before each slow step.

    Raises:
        UserError: the name, dtype or device is unknown; the model cannot be fetched; the source is not a
            complete causal language model with its tokenizer.
    """
    found = resolve_device(device)
    return _load(name, *_locate(name, progress), resolve_dtype(dtype, found), found)


def _locate(name: str, progress: fetch.Progress | None) -> tuple[str, bool]:
    """Return the source for transformers, a folder or a hub id, and whether it is a folder."""
    path = expanded(name)
    if name in REGISTRY:
        return str(fetch.get(name, progress)), True
    if name and path.is_dir():
        return str(path.resolve()), True
    if path.is_file():
        return str(fetch.from_gguf(path.resolve(), progress)), True
    if name.endswith(".gguf") or name.startswith((".", "~", "/")):
        raise UserError(
            f"The backbone {name!r} is not an existing file or folder. Check the path {path.absolute()}."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name, False
    raise UserError(
        f"The backbone {name!r} is unknown ({nearest(name, REGISTRY)}). Give a named backbone "
        "(`fedprofit models list`), a folder in Hugging Face format, a .gguf file, or a hub id owner/name."
    )


@lru_cache(maxsize=2)
def _load(name: str, source: str, local: bool, dtype: torch.dtype, device: torch.device) -> Backbone:
    if local:
        _check_folder(name, Path(source))
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            check_causal(name, config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
        except UserError:
            raise
        except Exception as error:
            # transformers, safetensors and the hub raise about ten types of error for a bad source.
            raise _cannot_load(name, local, error) from error
        model, info = loaded
        _check_weights(name, config, model, info)
        tokenizer = _load_tokenizer(name, source)
        folder = Path(source) if local else Path(str(cached_file(source, "config.json"))).parent
    check_fit(name, model, tokenizer)
    model.requires_grad_(False).eval().to(device)
    return Backbone(name, model, tokenizer, device, dtype, fingerprint_folder(folder, tokenizer))


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"The folder of the backbone {name!r} has no config.json (it contains: {found}), so it is not a "
            "model in Hugging Face format. Give a folder that save_pretrained wrote, or a .gguf file."
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise UserError(
            f"The folder of the backbone {name!r} has a config.json but no weights (*.safetensors). Download "
            "the weights too, or give another folder."
        )


def check_causal(name: str, config: Any) -> None:
    """Raise UserError unless transformers has a causal model for the checkpoint or its text part."""
    if config.is_encoder_decoder:
        raise UserError(f"The backbone {name!r} is an encoder-decoder ({config.model_type}). {DECODERS}")
    if not {type(config), type(config.get_text_config())} & set(MODEL_FOR_CAUSAL_LM_MAPPING):
        raise _headless(name, config)


def _headless(name: str, config: Any) -> UserError:
    saved = ", ".join(config.architectures or []) or config.model_type
    return UserError(f"The backbone {name!r} is {saved}, which has no causal language-model head. {DECODERS}")


def _load_tokenizer(name: str, source: str) -> PreTrainedTokenizerBase:
    remedy = "Save the model's tokenizer in the folder (tokenizer.save_pretrained), or give another folder."
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        ids = tokenizer(PROBE)["input_ids"]
    except Exception as error:
        # tokenizers raises bare Exception for a damaged file.
        raise UserError(
            f"The backbone {name!r} has no usable tokenizer ({first_line(error, True)}). {remedy}"
        ) from error
    if len(ids) < 2:
        # Without files, transformers creates some tokenizers with an empty vocabulary.
        raise UserError(
            f"The backbone {name!r} has no tokenizer files: every text encodes to nothing. {remedy}"
        )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _check_weights(name: str, config: Any, model: Any, info: dict[str, Any]) -> None:
    """Raise UserError if weights are missing, or if the saved head is for another task."""
    missing = sorted(info["missing_keys"])
    saved = config.architectures or []
    base = {key for key, _ in model.named_parameters() if key.startswith(f"{model.base_model_prefix}.")}
    if (missing and not base & set(missing)) or any(one.endswith(OTHER_HEADS) for one in saved):
        raise _headless(name, config)
    if missing:
        raise UserError(
            f"The weights of the backbone {name!r} lack {len(missing)} tensors that config.json requires; "
            f"the first is {missing[0]!r}. The files are incomplete or of another model: fetch them again."
        )


def check_fit(name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer does not fit the model, or if no token ends an answer."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    words = max(tokenizer.get_vocab().values()) + 1
    if words > rows:
        raise UserError(
            f"The tokenizer of the backbone {name!r} has {words} tokens, its model only {rows} embeddings. "
            "They do not belong together, or tokens were added without resizing the model. Save the "
            "tokenizer that the model was trained with in the folder, or resize and train the model."
        )
    if not _eos_token_ids(model, tokenizer):
        raise UserError(
            f"The backbone {name!r} has no end-of-sequence token: answers would not end. Set "
            "eos_token in its tokenizer_config.json or eos_token_id in its generation_config.json."
        )


def _eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(i for i in [tokenizer.eos_token_id, *listed] if isinstance(i, int)))


def _cannot_load(name: str, local: bool, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        remedy = "It needs custom code, which is not executed: choose a model that transformers implements."
    elif isinstance(error, ImportError):
        remedy = "Install the missing package."
    elif local:
        remedy = "Its files may be truncated or unfinished downloads: compare sizes, then fetch them again."
    else:
        remedy = (
            "Check the id and the network; for a gated model, log in with `hf auth login`. Without a "
            "network, give the path of a local folder, or use a named backbone "
            f"(`fedprofit models get {DEFAULT}`)."
        )
    return UserError(f"The backbone {name!r} could not be loaded ({first_line(error, True)}). {remedy}")
