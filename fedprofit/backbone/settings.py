"""The configuration's part on the backbone."""

from typing import Literal

from fedprofit.config.base import Positive, Section


class BackboneConfig(Section):
    """The frozen language model and how it is computed."""

    name: str = "smollm2-135m-q4"  # a named backbone, a folder, a .gguf file, or a hub id owner/name
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    # packed: all tokens of all clients in one flat row; fused: packed, and Llama's layers by compiled loops
    # (CPU); eager, sdpa: the model's own padded attention; auto: the first of fused and packed that is
    # verified, at load, to equal the model's own, else eager.
    attention: Literal["auto", "fused", "packed", "eager", "sdpa"] = "auto"
    # tokens in flight at once: bounds memory; another budget rounds sums otherwise, in every number type
    token_budget: Positive = 2048
    # processes that share the budget, one core each; auto: one a core, on a GPU one
    workers: Positive | Literal["auto"] = "auto"
