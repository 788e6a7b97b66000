"""Greedy generation for many clients' rows under many clients' prompts at once.

A batch is read packed, each shared prefix once, and leaves its keys and values behind. From then on
each step feeds one token a row, all rows in one flat row again, and attention looks up each row's own
cache. Rows that are finished are dropped from the batch, so that late ones cost only themselves.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from fedprofit.backbone.batches import GROWTH, micro_batches
from fedprofit.backbone.forward import (
    Packed,
    Row,
    pack,
    predict,
    predicted_at,
    row_inputs,
    single_logits,
    target_losses,
)
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.segments import AttentionRule, rounded

NOTHING = np.zeros(1, dtype=np.int32)  # in place of a target that is not there
TOGETHER = 8  # rows are dropped by this many at a time: few sizes of batch (see segments.FLAT)


class RowCache:
    """Keys and values of a batch of rows, layer by layer, as a layout for `packed_attention`.

    Each is `[rows, kv heads, capacity, size]`; row r has seen `lengths[r]` tokens.
    """

    read_at = None  # every row's output is read

    def __init__(
        self, captured: Sequence[tuple[Tensor, Tensor]], gather: Tensor, lengths: Tensor, fused: bool = False
    ) -> None:
        """Take what a packed pass captured; `gather [rows, longest]` says where each row's tokens lay."""
        self.lengths = lengths
        self.fused = fused
        rows, longest = gather.shape
        self.layers = []
        for pair in captured:
            keys, values = (
                flat.index_select(0, gather.flatten()).reshape(rows, longest, *flat.shape[1:]).transpose(1, 2)
                for flat in pair
            )
            self.layers.append((_grown(keys), _grown(values)))

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.lengths = self.lengths[rows]
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: AttentionRule) -> Tensor:
        """Append one token a row and attend to the row's own past: `[rows, heads, size]`."""
        keys, values = self.layers[layer]
        if int(self.lengths.max()) >= keys.shape[2]:
            keys, values = _grown(keys), _grown(values)
            self.layers[layer] = (keys, values)
        row = torch.arange(len(key), device=key.device)
        keys[row, :, self.lengths] = key
        values[row, :, self.lengths] = value
        rows, heads, size = query.shape
        grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], size)
        scores = grouped @ keys.transpose(2, 3)
        distance = self.lengths[:, None, None, None] - torch.arange(keys.shape[2], device=key.device)
        weights = rule.softmax(scores, rule.mask(distance, scores.dtype))
        return (weights @ values).reshape(rows, heads, size)


def _grown(cache: Tensor) -> Tensor:
    """Add room for `GROWTH` positions at least; the capacity becomes a multiple of it."""
    more = rounded(cache.shape[2], GROWTH) + GROWTH - cache.shape[2]
    room = cache.new_zeros(*cache.shape[:2], more, cache.shape[3])
    return torch.cat([cache, room], dim=2)


def packed_generate(
    backbone: Backbone,
    prompts: Tensor,
    rows: Sequence[Row],
    max_new_tokens: int,
    budget: int,
    fused: bool = False,
) -> tuple[Tensor, list[list[int]]]:
    """Continue each row greedily until end of sequence or `max_new_tokens`, and score its target.

    A row with a target is read with it: the same reading gives the target's loss, and the keys and
    values of what stands before the target, from which the row is continued.

    Args:
        backbone: the frozen model.
        prompts: soft prompts, `[clients, length, width]`.
        rows: what to continue under which prompt.
        max_new_tokens: tokens at most, per row; fewer where the model's context ends before.
        budget: tokens held at once (see `batches.py`), which bounds memory and changes no result.
        fused: whether layers that were prepared for it are computed fused (see `fused.py`).

    Returns:
        Each row's summed negative log-likelihood over its target, `[rows]`, NaN for a row without; and
        its new tokens, without the end-of-sequence token.
    """
    losses = torch.full((len(rows),), torch.nan, device=backbone.device)
    outputs: list[list[int]] = [[] for _ in rows]
    with torch.no_grad():
        for batch in micro_batches(rows, prompts.shape[1], budget, max_new_tokens):
            numbers, sums, logits, cache = _read(backbone, prompts, rows, batch, fused)
            if sums is not None:
                losses[numbers] = sums
            for number, tokens in zip(
                numbers, _continue(backbone, logits, cache, max_new_tokens), strict=True
            ):
                outputs[number] = tokens
    return losses, outputs


def _read(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], batch: Sequence[int], fused: bool
) -> tuple[list[int], Tensor | None, Tensor, RowCache]:
    """Read a batch once.

    Returns the rows' numbers as laid out; their targets' losses, NaN of a row without, None if all are; the
    logits `[rows, vocabulary]` of the first token to generate; and the cache of what stands before it.
    """
    device = backbone.device
    members = [rows[number] for number in batch]
    packed = pack(members, prompts.shape[1], device, capture=True, fused=fused)
    laid = [members[j] for j in packed.order]
    predictions = predict(backbone, prompts, packed, predicted_at(packed, members).to(device))
    told = torch.tensor([row.target for row in laid])
    count = torch.tensor([len(row.example.target) if row.target else 1 for row in laid])
    first = torch.cumsum(count, 0) - count
    sums = None
    if told.any():
        read = [row.example if row.target else replace(row.example, target=NOTHING) for row in laid]
        sums = target_losses(predictions, read).where(told.to(device), torch.nan)
    cache = row_cache(packed, laid, device, fused)
    return [batch[j] for j in packed.order], sums, predictions.logits(first.to(device)), cache


def row_cache(packed: Packed, laid: Sequence[Row], device: torch.device, fused: bool) -> RowCache:
    """Return the cache of what precedes each laid-out row's target, from a pass that captured it."""
    ends = [start + len(row.example.source) for start, row in zip(packed.row_starts, laid, strict=True)]
    gather, lengths = _gather(packed.row_prefixes, packed.row_starts, ends)
    assert packed.layout.captured is not None
    return RowCache(packed.layout.captured, gather.to(device), lengths.to(device), fused)


def _continue(backbone: Backbone, logits: Tensor, cache: RowCache, max_new_tokens: int) -> list[list[int]]:
    """Generate greedily from the first logits `[rows, vocabulary]` on; return each row's tokens."""
    stop = set(backbone.eos_token_ids)
    context = backbone.context_length or sys.maxsize
    done: list[list[int]] = [[] for _ in range(len(logits))]
    ended: set[int] = set()
    active = list(range(len(done)))
    for step in range(max_new_tokens):
        chosen = logits.max(-1).indices  # as argmax does, which takes four times as long on a CPU in bfloat16
        for row, token, length in zip(active, chosen.tolist(), cache.lengths.tolist(), strict=True):
            if token in stop or length >= context:
                ended.add(row)
            elif row not in ended:
                done[row].append(token)
        if len(ended) == len(done) or step == max_new_tokens - 1:
            break
        going = [j for j, row in enumerate(active) if row not in ended]
        fill = [j for j, row in enumerate(active) if row in ended]
        going = sorted(going + fill[: rounded(len(going), TOGETHER) - len(going)])
        if len(going) < len(active):
            keep = torch.tensor(going, device=logits.device)
            active, chosen = [active[j] for j in going], chosen[keep]
            cache.keep(keep)
        logits = backbone.model(
            inputs_embeds=backbone.embed(chosen).unsqueeze(0),
            # Rows that ended at the end of the context go along for a while; nobody reads them.
            position_ids=cache.lengths.clamp(max=context - 1).unsqueeze(0),
            use_cache=False,
            layout=cache,
        ).logits[0]
        cache.lengths = cache.lengths + 1
    return done


def _gather(
    prefixes: Sequence[tuple[int, int]], starts: Sequence[int], ends: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return where each row's prefix and own tokens lie, `[rows, longest]`, and how many there are."""
    places = [
        torch.cat([torch.arange(at, at + length), torch.arange(start, end)])
        for (at, length), start, end in zip(prefixes, starts, ends, strict=True)
    ]
    lengths = torch.tensor([len(place) for place in places])
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True), lengths


@contextmanager
def _chosen_greedily(backbone: Backbone) -> Iterator[None]:
    """Set the model's own settings aside, such as a penalty of repetitions: every way decodes alike."""
    own, bare = backbone.model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    backbone.model.generation_config = bare
    try:
        yield
    finally:
        backbone.model.generation_config = own


def plain_generate(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int, attention: str = "eager"
) -> list[list[int]]:
    """The same as `packed_generate` with the model's own `generate`, one row at a time."""
    if backbone.model.config._attn_implementation != attention:
        backbone.model.set_attn_implementation(attention)
    stop = set(backbone.eos_token_ids)
    context = backbone.context_length or sys.maxsize
    outputs = []
    for row in rows:
        inputs = row_inputs(backbone, prompts, row, target=False)
        with torch.no_grad(), _chosen_greedily(backbone):
            new = backbone.model.generate(  # type: ignore[operator]
                inputs_embeds=inputs,
                attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=backbone.device),
                do_sample=False,
                max_new_tokens=min(max_new_tokens, context - inputs.shape[1]),
                eos_token_id=sorted(stop),
                pad_token_id=min(stop),
            )[0].tolist()
        end = next((i for i, token in enumerate(new) if token in stop), len(new))
        outputs.append(new[:end])
    return outputs


def single_generate(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int
) -> list[list[int]]:
    """The same as `packed_generate` from the whole text at every token: slow, and right for any model."""
    stop, context = set(backbone.eos_token_ids), backbone.context_length or sys.maxsize
    outputs = []
    for row in rows:
        inputs, new = row_inputs(backbone, prompts, row, target=False), list[int]()
        while len(new) < max_new_tokens and inputs.shape[1] < context:
            with torch.no_grad():
                token = int(single_logits(backbone, inputs, 1)[0].argmax())
                if token in stop:
                    break
                new.append(token)
                inputs = torch.cat([inputs, backbone.embed(torch.tensor([[token]]))], dim=1)
        outputs.append(new)
    return outputs
