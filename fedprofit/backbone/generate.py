"""Greedy generation for many clients' rows under many clients' prompts at once.

A packed pass reads a batch, each shared prefix once, and fills a cache of keys and values. Each following
step reads one token per row, all in one flat row; attention uses each row's own cache. Finished rows are
dropped from the batch.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from fedprofit.backbone.batches import GROWTH, micro_batches
from fedprofit.backbone.forward import (
    Packed,
    Row,
    labels_of,
    largest,
    pack,
    predict,
    predicted_at,
    row_inputs,
    single_logits,
    summed,
)
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.segments import AttentionRule, rounded

NOTHING = np.zeros(1, dtype=np.int32)  # placeholder for a missing target
TOGETHER = 8  # rows are dropped in multiples of this: few batch sizes (see segments.FLAT)


class RowCache:
    """Keys and values of a batch of rows, layer by layer, as a layout for `packed_attention`.

    Each is `[rows, kv heads, capacity, size]`; row r has seen `lengths[r]` tokens.
    """

    read_at = None  # all outputs are read

    def __init__(
        self, captured: Sequence[tuple[Tensor, Tensor]], gather: Tensor, lengths: Tensor, fused: bool = False
    ) -> None:
        """Copy the keys and values of a packed pass; `gather [rows, longest]` has each row's positions."""
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
        """Append one token per row and attend to the row's previous tokens: `[rows, heads, size]`."""
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
    """Extend the cache by at least `GROWTH` positions; the capacity becomes a multiple of it."""
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

    A row is read once, with its target if it has one. The logits at the target's positions give its loss, and
    verify it as a draft of the answer: while the most probable token is the target's, the next position's
    logits equal those of greedy decoding. Decoding continues from the first other token.

    Args:
        backbone: the frozen model.
        prompts: soft prompts, `[clients, length, width]`.
        rows: the examples to continue, each with its client.
        max_new_tokens: maximum tokens per row; fewer if the model's context ends before.
        budget: tokens in memory at once (see `batches.py`); does not change results.
        fused: whether prepared layers use their fused forward (see `fused.py`).

    Returns:
        Each row's summed negative log-likelihood over its target, `[rows]`, NaN for a row without target; and
        its new tokens, without the end-of-sequence token.
    """
    losses = torch.full((len(rows),), torch.nan, device=backbone.device)
    outputs: list[list[int]] = [[] for _ in rows]
    ending = Ending.of(backbone, max_new_tokens)
    with torch.no_grad():
        for batch in micro_batches(rows, prompts.shape[1], budget, max_new_tokens):
            members = [rows[number] for number in batch]
            packed = pack(members, prompts.shape[1], backbone.device, capture=True, fused=fused)
            laid = [members[number] for number in packed.order]
            sums, answers, going = _read(backbone, prompts, packed, members, laid, ending)
            if going:
                cache = row_cache(packed, laid, going, [len(answer) - 1 for answer in answers], fused)
                _continue(backbone, [answers[number] for number in going], cache, ending)
            for position, answer, loss in zip(packed.order, answers, sums, strict=True):
                outputs[batch[position]], losses[batch[position]] = answer, loss
    return losses, outputs


@dataclass(frozen=True)
class Ending:
    """Conditions that end an answer."""

    stop: frozenset[int]  # tokens that end a text
    context: int  # positions of the model
    most: int  # tokens of an answer

    @classmethod
    def of(cls, backbone: Backbone, most: int) -> "Ending":
        """Return the conditions of a model, for answers of at most that many tokens."""
        return cls(frozenset(backbone.eos_token_ids), backbone.context_length or sys.maxsize, most)

    def extend(self, answer: list[int], token: int, length: int) -> bool:
        """Append a token that was selected after `length` tokens; return whether another one follows."""
        if token in self.stop or length >= self.context:
            return False
        answer.append(token)
        return len(answer) < self.most


def _read(
    backbone: Backbone,
    prompts: Tensor,
    packed: Packed,
    rows: Sequence[Row],
    laid: Sequence[Row],
    ending: Ending,
) -> tuple[Tensor, list[list[int]], list[int]]:
    """Read a batch once.

    Returns, for the rows as laid out: their targets' losses, NaN for a row without target; the known tokens
    of their answers; and the numbers of the rows whose answers continue.
    """
    predictions = predict(backbone, prompts, packed, predicted_at(packed, rows).to(backbone.device))
    drafts = [row.example.target if row.target else NOTHING for row in laid]
    found, best = predictions.losses_and_best(labels_of(drafts).to(backbone.device))
    has_target = torch.tensor([row.target for row in laid], device=found.device)
    sums = summed(found, drafts).where(has_target, torch.nan)
    answers: list[list[int]] = [[] for _ in laid]
    going = []
    choices = torch.split(best, [len(draft) for draft in drafts])
    for number, (row, draft, chosen) in enumerate(zip(laid, drafts, choices, strict=True)):
        length = packed.row_prefixes[number][1] + len(row.example.source)
        for token, drafted in zip(chosen.tolist(), draft.tolist(), strict=True):
            continues = ending.extend(answers[number], token, length)
            if not continues or token != drafted:
                break
            length += 1
        if continues:
            going.append(number)
    return sums, answers, going


def row_cache(
    packed: Packed, laid: Sequence[Row], which: Sequence[int], read: Sequence[int], fused: bool
) -> RowCache:
    """Return the cache of some laid-out rows, from a pass that captured it.

    Args:
        packed: the batch.
        laid: its rows as laid out.
        which: the numbers of the rows to keep.
        read: number of target tokens to keep after the source, for each laid-out row.
        fused: as in the pass.
    """
    starts = [packed.row_starts[number] for number in which]
    ends = [packed.row_starts[number] + len(laid[number].example.source) + read[number] for number in which]
    gather, lengths = _gather([packed.row_prefixes[number] for number in which], starts, ends)
    assert packed.layout.captured is not None
    device = packed.ids.device
    return RowCache(packed.layout.captured, gather.to(device), lengths.to(device), fused)


def _continue(backbone: Backbone, answers: Sequence[list[int]], cache: RowCache, ending: Ending) -> None:
    """Extend answers greedily; the cache has all tokens before each answer's last one."""
    active = list(range(len(answers)))  # rows of the cache; some may have ended
    going = set(active)
    while going:
        ended = [row for row in active if row not in going]
        kept = going | set(ended[: rounded(len(going), TOGETHER) - len(going)])
        if len(kept) < len(active):
            places = [place for place, row in enumerate(active) if row in kept]
            active = [active[place] for place in places]
            cache.keep(torch.tensor(places, device=cache.lengths.device))
        last = torch.tensor([answers[row][-1] for row in active], device=cache.lengths.device)
        logits = backbone.model(
            inputs_embeds=backbone.embed(last).unsqueeze(0),
            # Rows that ended at the end of the context remain for a while; their logits are not read.
            position_ids=cache.lengths.clamp(max=ending.context - 1).unsqueeze(0),
            use_cache=False,
            layout=cache,
        ).logits[0]
        cache.lengths = cache.lengths + 1
        for row, token, length in zip(active, largest(logits).tolist(), cache.lengths.tolist(), strict=True):
            if row in going and not ending.extend(answers[row], token, length):
                going.remove(row)


def _gather(
    prefixes: Sequence[tuple[int, int]], starts: Sequence[int], ends: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the positions of each row's prefix and own tokens, `[rows, longest]`, and their number."""
    places = [
        torch.cat([torch.arange(at, at + length), torch.arange(start, end)])
        for (at, length), start, end in zip(prefixes, starts, ends, strict=True)
    ]
    lengths = torch.tensor([len(place) for place in places])
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True), lengths


@contextmanager
def _greedy(backbone: Backbone) -> Iterator[None]:
    """Disable the model's generation settings, such as a repetition penalty: all paths decode greedily."""
    own, bare = backbone.model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    backbone.model.generation_config = bare
    try:
        yield
    finally:
        backbone.model.generation_config = own


def plain_generate(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int, attention: str = "eager"
) -> list[list[int]]:
    """Compute `packed_generate` with the model's own `generate`, one row at a time."""
    if backbone.model.config._attn_implementation != attention:
        backbone.model.set_attn_implementation(attention)
    stop = set(backbone.eos_token_ids)
    context = backbone.context_length or sys.maxsize
    outputs = []
    for row in rows:
        inputs = row_inputs(backbone, prompts, row, target=False)
        with torch.no_grad(), _greedy(backbone):
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
    """Compute `packed_generate` row by row, without a cache: slow, for any model."""
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
