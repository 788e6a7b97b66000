"""The section `backbone` of a configuration."""

from typing import Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Positive, Section


class BackboneConfig(Section):
    """The frozen language model and its execution."""

    name: str = "smollm2-135m-q4"  # a named backbone, a folder, a .gguf file, or a hub id owner/name
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    engine: Literal["vectorized", "reference"] = "vectorized"
    """vectorized: all clients at once. reference: one client and one row at a time, by autograd and
    torch.optim; slow, to check results."""
    # packed: all tokens of all clients in one flat row; fused: packed, with compiled kernels for Llama-like
    # layers (CPU); eager, sdpa: padded batches with the model's own attention; auto: the first of fused and
    # packed that is verified at load to equal the plain model, else eager.
    attention: Literal["auto", "fused", "packed", "eager", "sdpa"] = "auto"
    # maximum tokens of a pass: bounds memory; changes the rounding of sums, in every dtype
    token_budget: Positive = 2048
    # processes that share the budget, one core each; auto: one per core, one on a GPU
    workers: Positive | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _reference_is_plain(self) -> Self:
        if self.engine == "reference" and self.attention != "auto":
            raise ValueError(
                f"engine: reference reads one row at a time; leave out attention, which is {self.attention}"
            )
        return self
