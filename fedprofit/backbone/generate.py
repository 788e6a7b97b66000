"""Greedy generation for many clients' rows under many clients' prompts at once.

A batch is read packed, each shared prefix once, and leaves its keys and values behind. From then on
each step feeds one token a row, all rows in one flat row again, and attention looks up each row's own
cache. Rows that are finished are dropped from the batch, so that late ones cost only themselves.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedprofit.backbone.forward import Row, pack, packed_logits
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.packing import Rule, rounded

GROWTH = 16  # cache positions added at a time: few copies, little room unused
TOGETHER = 8  # rows are dropped by this many at a time: few sizes of batch (see packing.FLAT)


class RowCache:
    """Keys and values of a batch of rows, layer by layer, as a layout for `packed_attention`.

    Each is `[rows, kv heads, capacity, size]`; row r has seen `lengths[r]` tokens.
    """

    def __init__(self, captured: Sequence[tuple[Tensor, Tensor]], gather: Tensor, lengths: Tensor) -> None:
        """Take what a packed pass captured; `gather [rows, longest]` says where each row's tokens lay."""
        self.lengths = lengths
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

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: Rule) -> Tensor:
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
        weights = rule.softmax(scores, rule.hidden(distance))
        return (weights @ values).reshape(rows, heads, size)


def _grown(cache: Tensor) -> Tensor:
    """Add room for at least one position; the capacity stays a multiple of `GROWTH`."""
    room = cache.new_zeros(
        *cache.shape[:2], rounded(cache.shape[2] + 1, GROWTH) - cache.shape[2], cache.shape[3]
    )
    return torch.cat([cache, room], dim=2)


def packed_generate(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int, budget: int
) -> list[list[int]]:
    """Continue each row greedily until end of sequence or `max_new_tokens`.

    Args:
        backbone: the frozen model.
        prompts: soft prompts, `[clients, length, width]`.
        rows: what to continue under which prompt; a target, where there is one, is ignored.
        max_new_tokens: tokens at most, per row; fewer where the model's context ends before.
        budget: cache positions held at once, which bounds memory and changes no result.

    Returns:
        The new tokens of each row, in the order given, without the end-of-sequence token.
    """
    rows = [replace(row, target=False) for row in rows]
    outputs: list[list[int]] = [[] for _ in rows]
    with torch.no_grad():
        for batch in _cache_batches(rows, prompts.shape[1], max_new_tokens, budget):
            for number, tokens in _generate_batch(backbone, prompts, rows, batch, max_new_tokens):
                outputs[number] = tokens
    return outputs


def _cache_batches(rows: Sequence[Row], length: int, max_new_tokens: int, budget: int) -> Iterator[list[int]]:
    """Yield row numbers, similar lengths together, so that `rows x longest` stays within the budget.

    Rows of one owner and prefix stay neighbours: length decides between groups of four tokens only.
    """

    def size(number: int) -> int:
        return length + len(rows[number].example.prefix) + rows[number].tokens

    def order(number: int) -> tuple[int, int, bytes]:
        row = rows[number]
        return (size(number) // 4, row.owner, row.example.prefix.tobytes())

    batch: list[int] = []
    for number in sorted(range(len(rows)), key=order, reverse=True):
        # Longest first, so the first of a batch bounds every later one (up to the rounding by four).
        longest = size(batch[0]) + 3 if batch else 0
        if batch and (len(batch) + 1) * (longest + min(max_new_tokens, GROWTH)) > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _generate_batch(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], batch: Sequence[int], max_new_tokens: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (row number, its tokens) for one batch."""
    device = backbone.device
    packed = pack([rows[number] for number in batch], prompts.shape[1], device, capture=True)
    numbers = [batch[j] for j in packed.order]
    ends = [start + rows[n].tokens for start, n in zip(packed.row_starts, numbers, strict=True)]
    logits = packed_logits(backbone, prompts, packed, torch.tensor(ends, device=device) - 1)
    gather, lengths = _gather(packed.row_prefixes, packed.row_starts, ends)
    assert packed.layout.captured is not None
    cache = RowCache(packed.layout.captured, gather.to(device), lengths.to(device))
    stop = set(backbone.eos_token_ids)
    context = backbone.context_length or sys.maxsize
    done: dict[int, list[int]] = {number: [] for number in numbers}
    ended: set[int] = set()
    active = numbers
    for step in range(max_new_tokens):
        chosen = logits.argmax(-1)
        for number, token, length in zip(active, chosen.tolist(), cache.lengths.tolist(), strict=True):
            if token in stop or length >= context:
                ended.add(number)
            elif number not in ended:
                done[number].append(token)
        if len(ended) == len(numbers) or step == max_new_tokens - 1:
            break
        going = [j for j, number in enumerate(active) if number not in ended]
        fill = [j for j, number in enumerate(active) if number in ended]
        going = sorted(going + fill[: rounded(len(going), TOGETHER) - len(going)])
        if len(going) < len(active):
            keep = torch.tensor(going, device=device)
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
    yield from done.items()


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
        ids = torch.cat(
            [torch.as_tensor(p.copy(), dtype=torch.long) for p in (row.example.prefix, row.example.source)]
        )
        tokens = backbone.embed(ids)
        inputs = torch.cat([prompts[row.owner].to(tokens.dtype), tokens]).unsqueeze(0)
        with torch.no_grad():
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
