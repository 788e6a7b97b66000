"""Tiny random models and a byte-level tokenizer, created locally: no test needs the network."""

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fedprofit.backbone.load import Backbone

Family = Literal["llama", "gpt2", "qwen2", "mistral"]

CORPUS = [
    "Definition: Name the capital city of the given country.",
    "Now complete the following example -",
    "Input: France\nOutput: Paris",
    "Input: the old house by the river\nOutput: the new house on the hill",
    "Question: which of the two is larger, 12 or 345? Answer: 345.",
]


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of about 300 to 350 tokens that can write any text; bos `<s>`, eos `</s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=352,
        # The Qwen2 tokenizer class adds `<|endoftext|>` by itself: without it here, past the embeddings.
        special_tokens=["<s>", "</s>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_model(family: Family, seed: int = 0) -> PreTrainedModel:
    """Return a random causal model: width 32, 2 layers, 4 heads, 256 positions, float32.

    Weights are drawn wider than usual (standard deviation 0.2), so that logits differ clearly
    between tokens and a wrong mask or position shows.
    """
    tokenizer = tiny_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **ids}
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**common, **shape))
        if family == "mistral":
            return MistralForCausalLM(MistralConfig(**common, **shape, sliding_window=8))
        if family == "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**common, **shape))
        return GPT2LMHeadModel(
            GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=256, n_inner=64)
        )


def tiny_folder(folder: Path, family: Family = "llama", seed: int = 0) -> Path:
    """Save a tiny model and its tokenizer in Hugging Face format below `folder`; return its path."""
    path = folder / f"tiny-{family}-{seed}"
    tiny_model(family, seed).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@cache
def tiny_backbone(family: str = "llama", seed: int = 0) -> Backbone:
    """Return a tiny random model as a frozen backbone, without any file."""
    model = tiny_model(family, seed).requires_grad_(False).eval()
    return Backbone(
        f"tiny-{family}", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, f"{family}-{seed}"
    )
