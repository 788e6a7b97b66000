"""Which paths compute a model's own function: compared with the plain model before one is relied on.

The truth is the `single` path, which is transformers and nothing else: one row, no cache, no mask, no
positions of our making. It is computed before any layer is changed. A path must give the same losses,
gradients and greedy answers, for prompts that are no vocabulary rows, on either side of every length that
the configuration names (windows, chunks, original contexts) as far as the run reaches. A model whose own
function cannot be trained by input embeddings is refused here, by name.

A model in half precision is compared as a copy in float32, where a wrong formula is told from rounding;
then the model itself is compared coarsely. The verdict is kept in the cache folder, by the hashes of the
model, of this package's engine, and of the libraries' versions.
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
from fedprofit.core import files
from fedprofit.core.errors import UserError, first_line, is_out_of_memory
from fedprofit.core.reading import read_json
from fedprofit.core.sealed import write_record
from fedprofit.core.types import Example

AUTO = ("fused", "packed", "eager", paths.SINGLE)  # in the order in which "auto" tries them

# A configuration's values that are lengths in tokens.
LENGTH = re.compile(
    r"window|chunk|original_max|floor|local|block_size|max_position|n_positions|context"
    r"|index_topk|budget|extent|max_distance"
)
NEAR = 6  # tokens on either side of a length
NEW = 6  # tokens generated
GRADIENTS = 1024  # the longest length at which gradients are compared, not losses alone

# Largest relative differences of losses or logits, and of gradients. In bfloat16 the model's own two
# attention implementations differed by 1% in losses and 36% in a gradient on SmolLM2-135M: off the
# vocabulary, small differences grow from layer to layer.
EXACT, ROUNDED = (1e-3, 1e-3), (3e-2, 0.7)


@dataclass(frozen=True)
class Verdict:
    """The path that computes a model, and why none before it in `AUTO` was taken."""

    path: str
    refused: dict[str, str]

    @property
    def reason(self) -> str:
        """Why this path, in one line."""
        others = "; ".join(f"not {path}: {why}" for path, why in self.refused.items())
        return f"{self.path}, equal to the plain model" + (f" ({others})" if others else "")


def verified_path(backbone: Backbone, attention: str = "auto", reach: int = 0) -> Verdict:
    """Return the first path that computes a model's own function; prepare the model for it.

    Args:
        backbone: the model; where the path is `fused`, its layers are changed.
        attention: "auto", or the one path to verify.
        reach: tokens of the longest row that will be read or generated, prompt included.

    Raises:
        UserError: the model cannot be trained by input embeddings, or the path asked for is not exact.
    """
    lengths = lengths_of(backbone.model.config, reach)
    file = _cache_file(backbone, attention, lengths)
    verdict = _remembered(file)
    if verdict is None or (verdict.path == "fused" and not fuse(backbone.model)):
        with quiet_transformers():
            verdict = _decide(backbone, AUTO if attention == "auto" else (attention,), lengths)
        _remember(file, verdict)
    return verdict


def lengths_of(config: Any, reach: int) -> list[int]:
    """Return the lengths in tokens that a configuration names, ascending, as far as `reach`.

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
    _restore(backbone)  # after an earlier verdict, which may not reach as far
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
        f"backbone {backbone.name!r}: does not give this model's own losses, gradients and answers by "
        f"{', '.join(f'{path} attention ({why})' for path, why in refused.items())}. "
        "Set backbone.attention to auto."
    )


def _check_embeddings_suffice(backbone: Backbone) -> None:
    """Raise unless input embeddings say all that token ids do, and a token sees no later one."""
    model, name = backbone.model, backbone.name
    per_layer = getattr(model.config.get_text_config(), "hidden_size_per_layer_input", 0)
    if per_layer:
        raise _needs_ids(backbone, f"hidden_size_per_layer_input is {per_layer}")
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"backbone {name!r}: {type(model).__name__} takes no input embeddings, so that no soft prompt "
            "can be put before a text. Choose another model."
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
            f"backbone {name!r}: {type(model).__name__} reads later tokens to predict earlier ones "
            "(it is bidirectional), so that it cannot be trained to continue a text. Choose a decoder."
        )
    if not _close(by_ids, by_embedding, backbone):
        raise _needs_ids(backbone, f"logits differ by {float((by_ids - by_embedding).abs().max()):.2g}")


def _needs_ids(backbone: Backbone, why: str) -> UserError:
    return UserError(
        f"backbone {backbone.name!r}: {type(backbone.model).__name__} does not compute the same from input "
        f"embeddings as from token ids ({why}), as models with inputs in every layer do not. A soft prompt "
        "has no token ids. Choose another model."
    )


def _cannot_run(backbone: Backbone, verb: str, error: Exception) -> UserError:
    # A model's own code raises what it likes, on a configuration or a mode that it does not support.
    return UserError(
        f"backbone {backbone.name!r}: {type(backbone.model).__name__} cannot be {verb} by transformers "
        f"({first_line(error, True)}). Choose another model."
    )


def _tolerance(backbone: Backbone) -> tuple[float, float]:
    """Return the largest differences of losses or logits, and of gradients, relative."""
    return EXACT if backbone.dtype == torch.float32 else ROUNDED


def _close(first: Tensor, second: Tensor, backbone: Backbone) -> bool:
    most, _ = _tolerance(backbone)
    return bool((first - second).abs().max() <= most * (1 + first.abs().max()))


def _in_float32(backbone: Backbone) -> Backbone:
    """Return a copy in float32, or the backbone where it is in float32 or memory is short."""
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


@dataclass(frozen=True)
class Probe:
    """Rows at the lengths that matter, and what the plain model says of them."""

    prompts: Tensor  # [3, 3, width]
    rows: list[Row]
    weights: Tensor  # [rows]; 0 where gradients are not compared
    losses: Tensor  # [rows]
    slopes: Tensor  # as the prompts

    @classmethod
    def draw(cls, backbone: Backbone, lengths: Sequence[int], few: bool = False) -> "Probe":
        """Draw rows and prompts by a fixed seed, and compute their losses one by one."""
        random = np.random.Generator(np.random.PCG64(0))
        prompts = _off_vocabulary(backbone, random)
        rows = _short_rows(backbone, random)[: 2 if few else None]
        for length in lengths:
            rows += _rows_around(backbone, random, length, prompts.shape[1])
        weights = torch.tensor([float(row.tokens <= GRADIENTS) for row in rows], device=prompts.device)
        losses = torch.zeros(len(rows), device=prompts.device)
        slopes = torch.zeros_like(prompts)
        for number, row in enumerate(rows):
            own = [replace(row, owner=0)]
            prompt = prompts[row.owner : row.owner + 1]
            if weights[number]:
                losses[number], slope = paths.gradients(backbone, paths.SINGLE, prompt, own, weights[:1])
                slopes[row.owner] += slope[0]
            else:
                losses[number] = paths.score(backbone, paths.SINGLE, prompt, own)[0]
        return cls(prompts, rows, weights, losses, slopes)


def _off_vocabulary(backbone: Backbone, random: np.random.Generator) -> Tensor:
    """Return three prompts of three vectors between and off the vocabulary's, as training leaves them."""
    count = backbone.vocabulary_size
    pairs = backbone.embed(torch.as_tensor(random.integers(0, count, (2, 9)))).float()
    noise = torch.as_tensor(random.standard_normal((9, backbone.width)), dtype=torch.float32)
    scale = pairs.std()
    return (pairs.mean(0) + 0.5 * scale * noise.to(scale.device)).reshape(3, 3, -1)


def _short_rows(backbone: Backbone, random: np.random.Generator) -> list[Row]:
    shared = _tokens(backbone, random, 5)
    nothing = _tokens(backbone, random, 0)
    drawn = ((0, shared, 9), (0, shared, 3), (1, nothing, 4))
    return [_row(backbone, random, owner, prefix, length) for owner, prefix, length in drawn]


def _rows_around(backbone: Backbone, random: np.random.Generator, length: int, prompt: int) -> list[Row]:
    """Return rows that end before a length and after it, by their prefix and by their own tokens."""
    limit = backbone.context_length or 2**31
    prefix = _tokens(backbone, random, max(0, length - prompt - NEAR))
    nothing = _tokens(backbone, random, 0)
    drawn = ((0, prefix, 2), (0, prefix, NEAR + 3), (2, nothing, length))
    rows = [_row(backbone, random, owner, before, own) for owner, before, own in drawn]
    return [row for row in rows if prompt + len(row.example.prefix) + row.tokens + NEW <= limit]


def _row(backbone: Backbone, random: np.random.Generator, owner: int, prefix: Any, length: int) -> Row:
    source, target = (_tokens(backbone, random, count) for count in (length, 3))
    return Row(owner, Example(prefix, source, target, "", ()))


def _tokens(backbone: Backbone, random: np.random.Generator, count: int) -> Any:
    return random.integers(0, backbone.vocabulary_size, count).astype(np.int32)


def _why_not(backbone: Backbone, path: str, probe: Probe, answers: bool = True) -> str | None:
    """Say how a path differs from the plain model; None, and the model prepared for it, if it does not."""
    try:
        why = _difference(backbone, path, probe)
        if why is None and answers:
            why = _wrong_answer(backbone, path, probe)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # What a model's own code raises when it meets a layout or an argument that it does not know.
        why = first_line(error, True)
    if why is not None:
        _restore(backbone)
    return why


def _restore(backbone: Backbone) -> None:
    """Make a model compute as it did when it was loaded."""
    unfuse(backbone.model)
    backbone.use_own_attention()


def _difference(backbone: Backbone, path: str, probe: Probe) -> str | None:
    if path == "fused":
        why = unavailable(backbone.device, backbone.dtype)
        if why:
            return why
        if not fuse(backbone.model):
            return "its layers are not of Llama's shape"
    most, most_gradient = _tolerance(backbone)
    losses, slopes = paths.gradients(backbone, path, probe.prompts, probe.rows, probe.weights)
    off = (losses - probe.losses).abs()
    wrong = ~(off <= most * (1 + probe.losses.abs()))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        tokens = probe.prompts.shape[1] + len(probe.rows[row].example.prefix) + probe.rows[row].tokens
        return f"losses differ by {float(off[row]):.2g} nats in a row of {tokens} tokens"
    turned = float((slopes - probe.slopes).norm() / probe.slopes.norm())
    if not turned <= most_gradient:
        return f"gradients differ by {turned:.0%}"
    return None


def _wrong_answer(backbone: Backbone, path: str, probe: Probe) -> str | None:
    """Follow a path's answers with the plain model: each token must be a greedy choice of it."""
    budget = sum(row.tokens for row in probe.rows) + 1
    _, answers = paths.answer(backbone, path, probe.prompts, probe.rows, NEW, budget)
    backbone.use_own_attention()
    for row, answer in zip(probe.rows, answers, strict=True):
        inputs = row_inputs(backbone, probe.prompts, row, target=False)
        # A model that reads a longer text otherwise must be followed step by step.
        if not any(_is_greedy(backbone, inputs, answer, together) for together in (True, False)):
            return f"answers differ after {inputs.shape[1]} tokens"
    return None


def _is_greedy(backbone: Backbone, inputs: Tensor, answer: list[int], together: bool) -> bool:
    """Tell whether the plain model would choose these tokens after `inputs [1, tokens, width]`."""
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
    own = logits.gather(1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0]
    if len(answer) < NEW:
        own[-1] = logits[-1, stop].max()
    return bool((best - own <= _tolerance(backbone)[0] * (1 + best.abs())).all())


def _cache_file(backbone: Backbone, attention: str, lengths: Sequence[int]) -> Path:
    code = [files.file_hash(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    versions = [version(package) for package in ("fedprofit", "torch", "transformers")]
    kind = [str(backbone.dtype), backbone.device.type, unavailable(backbone.device, backbone.dtype)]
    facts = [backbone.fingerprint, kind, attention, list(lengths)]
    return files.cache_folder() / "verified" / f"{files.content_hash([facts, versions, code])}.json"


def _remembered(file: Path) -> Verdict | None:
    try:
        found = read_json(file, "", ["path", "refused"])
        return Verdict(found["path"], found["refused"])
    except UserError:
        return None  # absent or damaged: it is found anew


def _remember(file: Path, verdict: Verdict) -> None:
    with suppress(OSError, UserError):  # an unwritable cache: it is found anew each time
        write_record(file, asdict(verdict))
