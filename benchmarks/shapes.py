"""Benchmark training throughput by model shape and cohort size, with random weights.

    python benchmarks/shapes.py --device cuda --out runs/benchmarks

The script needs no network. The models have random weights and the shapes of SmolLM2-135M and of Llama with
one and eight billion parameters. The rows have random tokens and lengths like those of
Super-NaturalInstructions. Methods, timing and the check of the losses are those of throughput.py.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from command import start
from table import Measurement, show, write
from throughput import NEEDS, measure_work
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from work import Settings, Work

from fedprofit.backbone.load import Backbone
from fedprofit.backbone.workers import shared_workers
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientBatches, Example

# name -> width, inner width, layers, heads, key-value heads, vocabulary, tied embeddings
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 512, True),
    "smollm2-135m": (576, 1536, 30, 9, 3, 49_152, True),
    "llama-1b": (2048, 8192, 16, 32, 8, 128_256, True),
    "llama-8b": (4096, 14_336, 32, 32, 8, 128_256, False),
}
# Median tokens of a definition, an input and a target, and the standard deviation of their logarithms.
LENGTHS = {"prefix": (60, 0.5), "source": (60, 0.7), "target": (8, 0.7)}


@dataclass(frozen=True, eq=False)
class RandomWork(Work):
    """Random rows for a random model."""

    @cached_property
    def clients(self) -> list[ClientBatches]:
        """The batches of each client: one definition and distinct rows."""
        return [self._client(number) for number in range(self.settings.clients)]

    @cached_property
    def start(self) -> torch.Tensor:
        """The initial prompt of all clients, `[length, width]`: embeddings of random tokens."""
        ids = torch.tensor(self._tokens(numpy_generator(0, "start"), self.settings.length))
        return self.backbone.embed(ids.long().to(self.backbone.device)).float()

    def _client(self, number: int) -> ClientBatches:
        draw = numpy_generator(self.settings.seed, "benchmark", number)
        size = {
            name: lambda m=m, s=s: 1 + int(m * np.exp(s * draw.standard_normal()))
            for name, (m, s) in LENGTHS.items()
        }
        prefix = self._tokens(draw, size["prefix"]())
        batches = [
            [
                Example(
                    prefix,
                    self._tokens(draw, size["source"]()),
                    self._tokens(draw, size["target"]()),
                    "task",
                    (),
                )
                for _ in range(self.settings.rows)
            ]
            for _ in range(self.settings.steps)
        ]
        return ClientBatches(f"client-{number}", batches, 1.0)

    def _tokens(self, draw: np.random.Generator, count: int) -> np.ndarray:
        return draw.integers(0, self.backbone.vocabulary_size, count).astype(np.int32)


def random_backbone(shape: str, dtype: torch.dtype, device: torch.device) -> Backbone:
    """Return a model of a shape with weights drawn on the device."""
    width, inner, layers, heads, shared, vocabulary, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=8192,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.to(device).eval().requires_grad_(False)
    words = Tokenizer(WordLevel({f"word{number}": number for number in range(vocabulary)}, "word0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="word1")
    return Backbone(shape, model, tokenizer, device, dtype, shape)


def measure(backbone: Backbone, cohort: int, args: argparse.Namespace) -> Measurement:
    """Measure one model with one cohort size."""
    names = {
        "clients": cohort,
        "rows": args.rows,
        "steps": 1,
        "length": args.length,
        "threads": torch.get_num_threads(),
        "token_budget": args.token_budget,
    }
    settings = Settings(backbone.name, args.dtype, "random", True, seed=0, **names)
    return measure_work(RandomWork(settings, backbone), args.methods, args.repetitions, "random rows")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all shapes and cohorts; report and skip those that do not fit into memory."""
    parser = argparse.ArgumentParser(description="Training throughput by shape and cohort.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES)[1:])
    parser.add_argument("--cohorts", nargs="+", type=int, default=[1, 8, 64, 256])
    methods = [name for name in NEEDS if name != "peft-float32"]  # a random model has one dtype
    parser.add_argument("--methods", nargs="+", choices=methods, default=["engine", "sequential", "peft"])
    parser.add_argument("--token-budget", type=int, help="default: 32768 on a GPU, as in gpu.yaml, else 2048")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    args.token_budget = args.token_budget or (32768 if args.device == "cuda" else Settings.token_budget)
    args.methods = [name for name in methods if name == "engine" or name in args.methods]
    found: list[Measurement] = []
    unequal: list[str] = []
    for shape in args.shapes:
        # Drop all references to the previous model: only one is in memory at a time.
        backbone = None
        shared_workers.cache_clear()
        backbone = random_backbone(shape, getattr(torch, args.dtype), torch.device(args.device))
        for cohort in args.cohorts:
            try:
                found.append(measure(backbone, cohort, args))
            except torch.OutOfMemoryError as error:
                print(f"{shape}, {cohort} clients: {str(error).splitlines()[0]}")
                continue
            except SystemExit as error:  # the losses differ: the other tables remain valid
                unequal.append(f"{shape}, {cohort} clients: {error}")
                print(unequal[-1])
                continue
            show(found[-1])
            if args.out:  # after every table: a later failure loses nothing
                settings = {name: value for name, value in vars(args).items() if name != "out"}
                write(args.out, "shapes", found, settings)
    if unequal:
        raise SystemExit("\n".join(unequal))


if __name__ == "__main__":
    start(main)
