"""Verify that a computation path is exact for a model, before the path is used.

The reference is the `single` path: plain transformers, one row at a time, without cache, mask or explicit
positions. It is computed before any layer is changed. A path must give the same losses, gradients and greedy
answers. The prompts are not vocabulary embeddings. The rows are shorter and longer than every length in the
configuration (windows, chunks, original contexts) that the run reaches. Models that cannot be trained
through input embeddings are refused by name.

A model in half precision is first compared as a float32 copy, which separates wrong formulas from rounding.
The model itself is then compared with larger tolerances. The verdict is cached under the hash of the model,
the code of this package and the versions of the libraries.
"""

import copy
import inspect
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedprofit.backbone import paths
from fedprofit.backbone.convert import quiet_transformers
from fedprofit.backbone.forward import Row, row_inputs, single_logits
from fedprofit.backbone.fused import fuse, unavailable, unfuse
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.probe import NEW, Probe
from fedprofit.core import files
from fedprofit.core.errors import UserError, first_line, is_out_of_memory
from fedprofit.core.reading import read_json
from fedprofit.core.sealed import write_record

AUTO = ("fused", "packed", "eager", paths.SINGLE)  # the candidates of "auto", in order

# Names of configuration values that are lengths in tokens.
LENGTH = re.compile(
    r"window|chunk|original_max|floor|local|block_size|max_position|n_positions|context"
    r"|index_topk|budget|extent|max_distance"
)

# Tolerances: relative differences of losses or logits, and of gradients. In bfloat16, two attention
# implementations of transformers differed by 1% in losses and 36% in a gradient on SmolLM2-135M: for prompts
# outside the vocabulary, small differences grow from layer to layer.
EXACT, ROUNDED = (1e-3, 1e-3), (3e-2, 0.7)


@dataclass(frozen=True)
class Verdict:
    """The selected path, and why each earlier path in `AUTO` was refused."""

    path: str
    refused: dict[str, str]

    @property
    def reason(self) -> str:
        """Explain the selection in one line."""
        others = "; ".join(f"not {path}: {why}" for path, why in self.refused.items())
        return f"{self.path}, equal to the plain model" + (f" ({others})" if others else "")


def verified_path(backbone: Backbone, attention: str = "auto", reach: int = 0) -> Verdict:
    """Return the first path that is exact for a model, and prepare the model for it.

    Args:
        backbone: the model; the path `fused` changes its layers.
        attention: "auto", or the path to verify.
        reach: tokens of the longest row, including prompt and generated tokens.

    Raises:
        UserError: the model cannot be trained through input embeddings, or the requested path is not exact.
    """
    lengths = lengths_of(backbone.model.config, reach)
    file = _cache_file(backbone, attention, lengths)
    verdict = _cached(file)
    if verdict is None or (verdict.path == "fused" and not fuse(backbone.model)):
        with quiet_transformers():
            verdict = _decide(backbone, AUTO if attention == "auto" else (attention,), lengths)
        _store(file, verdict)
    return verdict


def lengths_of(config: Any, reach: int) -> list[int]:
    """Return the lengths in tokens in a configuration, up to `reach`, ascending.

    >>> from transformers import MistralConfig
    >>> lengths_of(MistralConfig(sliding_window=64, max_position_embeddings=512), reach=600)
    [64, 512]
    """
    found: set[int] = set()

    def visit(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(str(key), inner)
        elif LENGTH.search(name) and isinstance(value, int | float) and 1 < value <= reach:
            found.add(int(value))

    visit("", config.get_text_config().to_dict())
    return sorted(found)


def _decide(backbone: Backbone, candidates: Sequence[str], lengths: Sequence[int]) -> Verdict:
    _restore(backbone)  # an earlier verdict with a smaller reach may have changed the model
    _check_embeddings_suffice(backbone)
    exact = _in_float32(backbone)
    try:
        probe = Probe.draw(exact, lengths)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _cannot_run(backbone, "trained", error) from error
    refused: dict[str, str] = {}
    for path in candidates:
        if path == paths.SINGLE:
            return Verdict(path, refused)
        why = _why_not(exact, path, probe)
        if why is None and exact is not backbone:
            why = _why_not(backbone, path, Probe.draw(backbone, (), few=True), answers=False)
        if why is None:
            return Verdict(path, refused)
        refused[path] = why
    raise UserError(
        f"backbone {backbone.name!r}: losses, gradients or answers differ from the plain model with "
        f"{', '.join(f'{path} attention ({why})' for path, why in refused.items())}. "
        "Set backbone.attention to auto."
    )


def _check_embeddings_suffice(backbone: Backbone) -> None:
    """Raise UserError unless the model is causal and input embeddings can replace token ids."""
    model, name = backbone.model, backbone.name
    per_layer = getattr(model.config.get_text_config(), "hidden_size_per_layer_input", 0)
    if per_layer:
        raise _needs_ids(backbone, f"hidden_size_per_layer_input is {per_layer}")
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"backbone {name!r}: {type(model).__name__} does not accept input embeddings. Soft prompts need "
            "them. Choose another model."
        )
    ids = torch.arange(8).unsqueeze(0) * 3 % backbone.vocabulary_size
    ids = ids.to(backbone.device)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % backbone.vocabulary_size
    with torch.no_grad():
        try:
            by_ids = model(input_ids=ids, use_cache=False).logits[0].float()
            changed = model(input_ids=other, use_cache=False).logits[0].float()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _cannot_run(backbone, "run", error) from error
        try:
            by_embedding = single_logits(backbone, backbone.embed(ids), ids.shape[1])
        except Exception as error:
            raise _needs_ids(backbone, first_line(error, True)) from error
    if not _close(by_ids[:-1], changed[:-1], backbone):
        raise UserError(
            f"backbone {name!r}: {type(model).__name__} is bidirectional: it uses later tokens to predict "
            "earlier ones. Choose a decoder."
        )
    if not _close(by_ids, by_embedding, backbone):
        raise _needs_ids(backbone, f"logits differ by {float((by_ids - by_embedding).abs().max()):.2g}")


def _needs_ids(backbone: Backbone, why: str) -> UserError:
    return UserError(
        f"backbone {backbone.name!r}: {type(backbone.model).__name__} does not compute the same from input "
        f"embeddings as from token ids ({why}). A soft prompt has no token ids. Choose another model."
    )


def _cannot_run(backbone: Backbone, verb: str, error: Exception) -> UserError:
    # Model code can raise anything for a configuration or a mode that it does not support.
    return UserError(
        f"backbone {backbone.name!r}: {type(backbone.model).__name__} cannot be {verb} by transformers "
        f"({first_line(error, True)}). Choose another model."
    )


def _tolerances(backbone: Backbone) -> tuple[float, float]:
    """Return the relative tolerances of losses or logits, and of gradients."""
    return EXACT if backbone.dtype == torch.float32 else ROUNDED


def _close(first: Tensor, second: Tensor, backbone: Backbone) -> bool:
    tolerance, _ = _tolerances(backbone)
    return bool((first - second).abs().max() <= tolerance * (1 + first.abs().max()))


def _in_float32(backbone: Backbone) -> Backbone:
    """Return a float32 copy; return the backbone itself if it is float32 or memory is insufficient."""
    if backbone.dtype == torch.float32:
        return backbone
    needed = 4 * sum(parameter.numel() for parameter in backbone.model.parameters())
    if backbone.device.type == "cuda":
        free = torch.cuda.mem_get_info(backbone.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * needed > free:
        return backbone
    model: Any = copy.deepcopy(backbone.model)
    return replace(backbone, model=model.float(), dtype=torch.float32)


def _why_not(backbone: Backbone, path: str, probe: Probe, answers: bool = True) -> str | None:
    """Return how a path differs from the plain model; if it does not, prepare the model and return None."""
    try:
        why = _difference(backbone, path, probe)
        if why is None and answers:
            why = _wrong_answer(backbone, path, probe)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Model code can raise anything for a layout or an argument that it does not support.
        why = first_line(error, True)
    if why is not None:
        _restore(backbone)
    return why


def _restore(backbone: Backbone) -> None:
    """Restore the layers and the attention that the model was loaded with."""
    unfuse(backbone.model)
    backbone.use_own_attention()


def _difference(backbone: Backbone, path: str, probe: Probe) -> str | None:
    if path == "fused":
        why = unavailable(backbone.device, backbone.dtype)
        if why:
            return why
        if not fuse(backbone.model):
            return "its layers are not Llama-like"
    tolerance, gradient_tolerance = _tolerances(backbone)
    losses, gradients = paths.gradients(backbone, path, probe.prompts, probe.rows, probe.weights)
    errors = (losses - probe.losses).abs()
    wrong = ~(errors <= tolerance * (1 + probe.losses.abs()))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        tokens = probe.prompts.shape[1] + len(probe.rows[row].example.prefix) + probe.rows[row].tokens
        return f"losses differ by {float(errors[row]):.2g} nats in a row of {tokens} tokens"
    error = float((gradients - probe.gradients).norm() / probe.gradients.norm())
    if not error <= gradient_tolerance:
        return f"gradients differ by {error:.0%}"
    return None


def _wrong_answer(backbone: Backbone, path: str, probe: Probe) -> str | None:
    """Check that each token of a path's answers is a greedy choice of the plain model.

    Targets are drafts of answers. Those of the probe are random; the second time they are the first answers.
    """
    rows = probe.rows
    for _ in range(2 if path in paths.PACKED else 1):  # other paths read no drafts
        budget = sum(row.tokens for row in rows) + 1
        _, answers = paths.answer(backbone, path, probe.prompts, rows, NEW, budget)
        why = _not_greedy(backbone, probe.prompts, rows, answers)
        if why is not None:
            return why
        rows = [_with_target(row, answer, backbone) for row, answer in zip(rows, answers, strict=True)]
    return None


def _with_target(row: Row, answer: list[int], backbone: Backbone) -> Row:
    target = np.array([*answer, backbone.eos_token_ids[0]][:NEW], np.int32)
    return replace(row, example=replace(row.example, target=target))


def _not_greedy(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], answers: Sequence[list[int]]
) -> str | None:
    backbone.use_own_attention()
    for row, answer in zip(rows, answers, strict=True):
        inputs = row_inputs(backbone, prompts, row, target=False)
        # A model that processes longer texts differently must be checked token by token.
        if not any(_is_greedy(backbone, inputs, answer, together) for together in (True, False)):
            return f"answers differ after {inputs.shape[1]} tokens"
    return None


def _is_greedy(backbone: Backbone, inputs: Tensor, answer: list[int], together: bool) -> bool:
    """Return whether the plain model chooses the tokens of `answer` after `inputs [1, tokens, width]`."""
    stop = backbone.eos_token_ids
    chosen = [*answer, stop[0]] if len(answer) < NEW else answer
    read = torch.cat([inputs, backbone.embed(torch.tensor([chosen[:-1]], dtype=torch.long))], dim=1)
    with torch.no_grad():
        if together:
            logits = single_logits(backbone, read, len(chosen))
        else:
            ends = range(inputs.shape[1], read.shape[1] + 1)
            logits = torch.cat([single_logits(backbone, read[:, :end], 1) for end in ends])
    best = logits.max(-1).values
    found = logits.gather(1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0]
    if len(answer) < NEW:
        found[-1] = logits[-1, stop].max()
    return bool((best - found <= _tolerances(backbone)[0] * (1 + best.abs())).all())


def _cache_file(backbone: Backbone, attention: str, lengths: Sequence[int]) -> Path:
    code = [files.file_hash(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    versions = [version(package) for package in ("fedprofit", "torch", "transformers")]
    kind = [str(backbone.dtype), backbone.device.type, unavailable(backbone.device, backbone.dtype)]
    facts = [backbone.fingerprint, kind, attention, list(lengths)]
    return files.cache_folder() / "verified" / f"{files.content_hash([facts, versions, code])}.json"


def _cached(file: Path) -> Verdict | None:
    try:
        found = read_json(file, "", ["path", "refused"])
        return Verdict(found["path"], found["refused"])
    except UserError:
        return None  # absent or damaged: verify again


def _store(file: Path, verdict: Verdict) -> None:
    with suppress(OSError, UserError):  # if the cache is unwritable, verify again each time
        write_record(file, asdict(verdict))
