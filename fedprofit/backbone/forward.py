"""Losses of many clients' rows under many clients' prompts, in shared forward passes.

`packed_losses` is the fast path. `plain_losses` concatenates, pads and lets the model's own attention run;
`single_losses` does so row by row. All take and return the same, differentiably; tests compare them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedprofit.backbone.load import Backbone
from fedprofit.backbone.packing import NAME, Layout
from fedprofit.backbone.products import projected
from fedprofit.backbone.segments import FLAT, Segment, rounded
from fedprofit.core.types import Example, Tokens


@dataclass(frozen=True)
class Row:
    """An example to be read under the prompt of client `owner` (an index into the stacked prompts)."""

    owner: int
    example: Example
    target: bool = True  # whether the target follows; not when it is to be generated

    @property
    def tokens(self) -> int:
        """Tokens behind the prefix. The last target token is predicted but never read."""
        return len(self.example.source) + (len(self.example.target) - 1 if self.target else 0)


@dataclass(frozen=True)
class Packed:
    """A packed batch before the backbone: T tokens, of which some are soft prompts, some padding."""

    order: list[int]  # the rows as laid out: packed row j is the caller's row order[j]
    ids: Tensor  # [T]; 0 where a soft prompt stands
    positions: Tensor  # [T]
    prompt_at: Tensor  # [segments * length]
    owners: list[int]  # [segments]
    row_starts: list[int]  # flat position of each laid-out row
    row_prefixes: list[tuple[int, int]]  # (flat position, length) of each laid-out row's prefix
    layout: Layout


def by_segment(rows: Sequence[Row]) -> dict[tuple[int, bytes], list[int]]:
    """Group row numbers by what they share: owner and prefix, in order of first appearance."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row.owner, row.example.prefix.tobytes()), []).append(number)
    return groups


def share_beginnings(rows: Sequence[Row]) -> list[Row]:
    """Move what all sources behind one prefix begin with to the prefix, where it is read once.

    Inputs of a task are often worded alike at first ("Input: Sentence: …"). Each row reads the same tokens
    as before, and keeps one of its source at least: the target is predicted from there.
    """
    shared = list(rows)
    for members in by_segment(rows).values():
        sources = [rows[number].example.source for number in members]
        count = _alike(sources) if len(sources) > 1 else 0
        if not count:
            continue
        prefix = np.concatenate([rows[members[0]].example.prefix, sources[0][:count]])
        for number, source in zip(members, sources, strict=True):
            example = replace(rows[number].example, prefix=prefix, source=source[count:])
            shared[number] = replace(rows[number], example=example)
    return shared


def _alike(sources: Sequence[Tokens]) -> int:
    """Count the tokens that all sources begin with, and that leave each one more."""
    most = max(0, min(map(len, sources)) - 1)
    same = np.stack([source[:most] for source in sources]) == sources[0][:most]
    return int(np.logical_and.accumulate(same.all(0)).sum())


def count_tokens(rows: Sequence[Row], prompt_length: int) -> int:
    """Count the tokens that rows make the backbone read, shared prefixes once."""
    prefixes = sum(prompt_length + len(rows[m[0]].example.prefix) for m in by_segment(rows).values())
    return prefixes + sum(row.tokens for row in rows)


def pack(
    rows: Sequence[Row], prompt_length: int, device: torch.device, capture: bool = False, fused: bool = False
) -> Packed:
    """Lay rows out as one flat row (see `packing.py`)."""
    ids: list[Tokens] = []
    positions, prompt_at, segments = [], [], []
    order: list[int] = []
    owners, row_starts, row_prefixes = [], [], []
    blank = torch.zeros(prompt_length, dtype=torch.int32).numpy()
    start = 0
    for (owner, _), members in by_segment(rows).items():
        shared = rows[members[0]].example.prefix
        prefix = prompt_length + len(shared)
        segment = Segment(start, prefix, tuple(rows[m].tokens for m in members))
        owners.append(owner)
        prompt_at.append(torch.arange(start, start + prompt_length))
        ids += [blank, shared]
        positions.append(torch.arange(prefix))
        at = start + prefix
        for number in members:
            row = rows[number]
            ids += [row.example.source, row.example.target[:-1]] if row.target else [row.example.source]
            positions.append(torch.arange(prefix, prefix + row.tokens))
            order.append(number)
            row_starts.append(at)
            row_prefixes.append((start, prefix))
            at += row.tokens
        segments.append(segment)
        start = segment.stop
    layout = Layout(segments, device, capture, fused)
    behind = (0, layout.length - start)
    flat = torch.cat([torch.as_tensor(part.copy(), dtype=torch.long) for part in ids])
    return Packed(
        order=order,
        ids=torch.nn.functional.pad(flat, behind).to(device),
        positions=torch.nn.functional.pad(torch.cat(positions), behind).to(device),
        prompt_at=torch.cat(prompt_at).to(device),
        owners=owners,
        row_starts=row_starts,
        row_prefixes=row_prefixes,
        layout=layout,
    )


def embed(backbone: Backbone, prompts: Tensor, packed: Packed) -> Tensor:
    """Return the input embeddings `[1, T, width]`, soft prompts in their places."""
    tokens = backbone.embed(packed.ids)
    soft = prompts[packed.owners].flatten(0, 1).to(tokens.dtype)
    return tokens.index_copy(0, packed.prompt_at, soft).unsqueeze(0)


@dataclass(frozen=True)
class Predictions:
    """What a packed batch predicts at `count` of its positions; what is behind them is padding."""

    values: Tensor  # logits [padded, vocabulary]; or, where the head is apart, what it reads [padded, width]
    head: Tensor | None  # [vocabulary, width]
    count: int

    def losses(self, labels: Tensor) -> Tensor:
        """Return the negative log-likelihood of labels `[count]`, float32, differentiably."""
        if self.head is None:
            logits = self.values[: self.count].float()
            return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        from fedprofit.backbone.operations import label_losses

        behind = (0, len(self.values) - self.count)
        return label_losses(self.values, self.head, torch.nn.functional.pad(labels, behind))[: self.count]

    def losses_and_best(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses without gradient, and the most probable token at each position, `[count]`."""
        if self.head is None:
            return self.losses(labels), largest(self.values[: self.count])
        from fedprofit.backbone.operations import label_losses_and_best

        padding = (0, len(self.values) - self.count)
        labels = torch.nn.functional.pad(labels, padding)
        losses, best = label_losses_and_best(self.values, self.head, labels)
        return losses[: self.count], best[: self.count]

    def logits(self, which: Tensor) -> Tensor:
        """Return the logits `[len(which), vocabulary]` of some of them."""
        return self.values[which] if self.head is None else projected(self.values[which], self.head)


def predict(backbone: Backbone, prompts: Tensor, packed: Packed, at: Tensor) -> Predictions:
    """Run a packed batch and predict what follows its flat positions `at`."""
    model = backbone.model
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    padded = torch.nn.functional.pad(at, (0, rounded(len(at), FLAT) - len(at)))
    given = {
        "inputs_embeds": embed(backbone, prompts, packed),
        "position_ids": packed.positions.unsqueeze(0),
        "use_cache": False,
        "layout": packed.layout,
    }
    if packed.layout.fused:
        packed.layout.read_at = padded
        hidden = model.base_model(**given).last_hidden_state[0]
        if packed.layout.read_at is not None:
            hidden = hidden[padded]
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return Predictions(hidden, head.weight, len(at))
    return Predictions(model(**given, logits_to_keep=padded).logits[0], None, len(at))


def packed_losses(backbone: Backbone, prompts: Tensor, rows: Sequence[Row], fused: bool = False) -> Tensor:
    """Sum each row's negative log-likelihood over its target, differentiably.

    Args:
        backbone: the frozen model.
        prompts: soft prompts, `[clients, length, width]`; length 0 for none.
        rows: what to read under which prompt; all of it goes through one forward pass.
        fused: whether layers that were prepared for it, and the head, are computed fused (see `fused.py`).

    Returns:
        `[rows]`, in nats, float32, in the order given.
    """
    packed = pack(rows, prompts.shape[1], backbone.device, fused=fused)
    predictions = predict(backbone, prompts, packed, predicted_at(packed, rows).to(backbone.device))
    laid = [rows[number].example.target for number in packed.order]
    return as_given(packed.order, target_losses(predictions, laid))


def predicted_at(packed: Packed, rows: Sequence[Row]) -> Tensor:
    """Return the flat positions that predict each laid-out row's target, or, without one, what follows."""
    at = []
    for number, start in zip(packed.order, packed.row_starts, strict=True):
        first = start + len(rows[number].example.source) - 1
        at.append(
            torch.arange(first, first + (len(rows[number].example.target) if rows[number].target else 1))
        )
    return torch.cat(at)


def target_losses(predictions: Predictions, targets: Sequence[Tokens]) -> Tensor:
    """Sum the negative log-likelihood of each target: what is predicted, to `[targets]`."""
    return summed(predictions.losses(labels_of(targets).to(predictions.values.device)), targets)


def labels_of(targets: Sequence[Tokens]) -> Tensor:
    """Concatenate the targets' tokens, int64."""
    return torch.cat([torch.as_tensor(target.copy(), dtype=torch.long) for target in targets])


def summed(losses: Tensor, targets: Sequence[Tokens]) -> Tensor:
    """Sum the losses of the targets' tokens: `[tokens]` to `[targets]`."""
    parts = torch.split(losses, [len(target) for target in targets])
    return torch.stack([part.sum() for part in parts])


def largest(logits: Tensor) -> Tensor:
    """Return the index of each row's largest value, as argmax does at four times the time on a CPU."""
    return logits.max(-1).indices


def as_given(order: Sequence[int], values: Tensor) -> Tensor:
    """Put `values [rows]` of rows as laid out into the order in which they were given."""
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return values[inverse.to(values.device)]


def row_inputs(backbone: Backbone, prompts: Tensor, row: Row, target: bool = True) -> Tensor:
    """Return a row's input embeddings `[1, tokens, width]`; of its target all but the last token."""
    parts = [row.example.prefix, row.example.source]
    if target:
        parts.append(row.example.target[:-1])
    tokens = backbone.embed(torch.as_tensor(np.concatenate(parts), dtype=torch.long))
    return torch.cat([prompts[row.owner].to(tokens.dtype), tokens]).unsqueeze(0)


def single_logits(backbone: Backbone, inputs: Tensor, count: int) -> Tensor:
    """Return the logits `[count, vocabulary]` of the last positions of one row, by the model and no more."""
    backbone.use_own_attention()
    keep = {"logits_to_keep": count} if _keeps_logits(backbone.model.forward) else {}
    logits: Tensor = backbone.model(inputs_embeds=inputs, use_cache=False, **keep).logits
    return logits[0, -count:].float()


def _keeps_logits(forward: Any) -> bool:
    return "logits_to_keep" in inspect.signature(forward).parameters


def single_losses(backbone: Backbone, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
    """The same as `packed_losses`, one row at a time: the pseudocode that everything is compared with."""
    sums = []
    for row in rows:
        target = torch.as_tensor(row.example.target.copy(), dtype=torch.long, device=backbone.device)
        logits = single_target_logits(backbone, prompts, [row])
        sums.append(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
    return torch.stack(sums)


def single_target_logits(backbone: Backbone, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return the logits `[targets, vocabulary]` of all rows' target positions, one row at a time."""
    return torch.cat(
        [single_logits(backbone, row_inputs(backbone, prompts, r), len(r.example.target)) for r in rows]
    )


def plain_losses(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], attention: str = "eager"
) -> Tensor:
    """The same as `packed_losses` the obvious way: concatenate, pad on the right, run the model."""
    logits, first, lengths = _plain_logits(backbone, prompts, rows, attention)
    labels = torch.full((len(rows), logits.shape[1]), -100, device=backbone.device)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        target = torch.as_tensor(row.example.target.copy(), dtype=torch.long)
        labels[number, length - len(target) - first : length - first] = target.to(backbone.device)
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return nll.reshape(labels.shape).sum(1)


def plain_target_logits(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], attention: str = "eager"
) -> Tensor:
    """Return the logits `[targets, vocabulary]` of all rows' target positions, from one padded batch."""
    logits, first, lengths = _plain_logits(backbone, prompts, rows, attention)
    ends = [length - first for length in lengths]
    counts = [len(row.example.target) for row in rows]
    return torch.cat([one[end - n : end] for one, end, n in zip(logits, ends, counts, strict=True)])


def _plain_logits(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], attention: str
) -> tuple[Tensor, int, list[int]]:
    """Return logits `[rows, kept, vocabulary]`, the position of the first one kept, and the rows' lengths."""
    if backbone.model.config._attn_implementation != attention:
        backbone.model.set_attn_implementation(attention)
    inputs = [row_inputs(backbone, prompts, row)[0] for row in rows]
    lengths = torch.tensor([len(sequence) for sequence in inputs], device=backbone.device)
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    positions = torch.arange(padded.shape[1], device=backbone.device)
    first = int(min(length - len(row.example.target) for length, row in zip(lengths, rows, strict=True)))
    logits = backbone.model(
        inputs_embeds=padded,
        attention_mask=(positions < lengths[:, None]).long(),
        use_cache=False,
        logits_to_keep=torch.arange(first, padded.shape[1], device=backbone.device),
    ).logits
    logits = logits[:, first - padded.shape[1] :].float()  # some models ignore what is to be kept
    return logits, first, lengths.tolist()
