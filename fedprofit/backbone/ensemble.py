"""Losses and greedy generation under an ensemble: one model under several prompts at once.

An ensemble of members m with weights w_m that sum to 1 predicts

    log p(y) = sum_m w_m log p_m(y) - log sum_v exp(sum_m w_m log p_m(v)),

the renormalized weighted mean of its members' log-probabilities. A member's log-probability is its logit
minus a constant that cancels: p is the softmax of the weighted mean of the logits. All members of a row are
read in one pass.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedprofit.backbone.batches import micro_batches
from fedprofit.backbone.forward import (
    Predictions,
    Row,
    pack,
    predict,
    predicted_at,
    row_inputs,
    single_logits,
)
from fedprofit.backbone.generate import NOTHING, RowCache, row_cache
from fedprofit.backbone.load import Backbone


def packed_mixture(
    backbone: Backbone,
    prompts: Tensor,
    rows: Sequence[Row],
    weights: Sequence[float],
    most: int = 0,
    budget: int = 0,
    fused: bool = False,
) -> tuple[Tensor, list[list[int]]]:
    """Score each row's target under its owner's ensemble, and continue the row greedily.

    Args:
        backbone: the frozen model.
        prompts: `[owners, members, length, width]`.
        rows: the examples, each with its owner.
        weights: of the members; they sum to 1.
        most: maximum new tokens per row; 0 generates nothing and reads all rows in one pass.
        budget: tokens of all members in memory at once when generating (see `batches.py`).
        fused: whether prepared layers use their fused forward (see `fused.py`).

    Returns:
        Each row's summed negative log-likelihood over its target, `[rows]`, NaN for a row without target; and
        its new tokens, without the end-of-sequence token.
    """
    losses = torch.full((len(rows),), torch.nan, device=backbone.device)
    outputs: list[list[int]] = [[] for _ in rows]
    every = [list(range(len(rows)))]
    batches = micro_batches(rows, prompts.shape[2], budget / len(weights), most) if most else every
    for batch in batches:
        members = [rows[number] for number in batch]
        sums, first, cache = _read(backbone, prompts, members, weights, bool(most), fused)
        losses[batch] = sums
        if cache is not None:
            found = _continue(backbone, first, cache, weights, most)
            for number, tokens in zip(batch, found, strict=True):
                outputs[number] = tokens
    return losses, outputs


def _read(
    backbone: Backbone,
    prompts: Tensor,
    rows: Sequence[Row],
    weights: Sequence[float],
    capture: bool,
    fused: bool,
) -> tuple[Tensor, Tensor, RowCache | None]:
    """Read rows under all members in one pass.

    Returns the losses `[rows]`; the mean logits of the token after each source, `[rows, vocabulary]`; and, if
    `capture` is set, the cache of the tokens before it: row n under member m is its row n x members + m.
    """
    count, device = len(weights), backbone.device
    spread = [replace(row, owner=row.owner * count + m) for row in rows for m in range(count)]
    packed = pack(spread, prompts.shape[2], device, capture=capture, fused=fused)
    predictions = predict(backbone, prompts.flatten(0, 1), packed, predicted_at(packed, spread).to(device))
    laid = [spread[number] for number in packed.order]
    sizes = torch.tensor([_predicted(row) for row in laid])
    begin = torch.empty(len(spread), dtype=torch.long)  # each spread row's first prediction
    begin[torch.tensor(packed.order)] = torch.cumsum(sizes, 0) - sizes
    lengths = [_predicted(row) for row in rows]
    at = [
        torch.cat([torch.arange(b, b + n) for b, n in zip(begin[m::count].tolist(), lengths, strict=True)])
        for m in range(count)
    ]
    logits = _mean_logits(predictions, at, weights)
    targets = [row.example.target if row.target else NOTHING for row in rows]
    labels = torch.cat([torch.as_tensor(target.copy(), dtype=torch.long) for target in targets])
    nll = torch.nn.functional.cross_entropy(logits, labels.to(device), reduction="none")
    has_target = torch.tensor([row.target for row in rows], device=device)
    sums = torch.stack([part.sum() for part in torch.split(nll, lengths)]).where(has_target, torch.nan)
    first = logits[(torch.cumsum(torch.tensor(lengths), 0) - torch.tensor(lengths)).to(device)]
    if not capture:
        return sums, first, None
    as_given = torch.argsort(torch.tensor(packed.order)).tolist()
    cache = row_cache(packed, laid, as_given, [0] * len(laid), fused)
    return sums, first, cache


def _predicted(row: Row) -> int:
    """Count the positions that a row predicts: its target's, or the one after its source."""
    return len(row.example.target) if row.target else 1


def _mean_logits(predictions: Predictions, at: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of the members' logits, float32, member by member to bound memory."""
    device = predictions.values.device
    mean = weights[0] * predictions.logits(at[0].to(device)).float()
    for which, weight in zip(at[1:], weights[1:], strict=True):
        mean += weight * predictions.logits(which.to(device)).float()
    return mean


def _continue(
    backbone: Backbone, logits: Tensor, cache: RowCache, weights: Sequence[float], most: int
) -> list[list[int]]:
    """Generate greedily, starting from the mean logits `[rows, vocabulary]`; return each row's tokens."""
    stop, context = set(backbone.eos_token_ids), backbone.context_length or sys.maxsize
    count, share = len(weights), torch.tensor(weights, device=logits.device)
    done: list[list[int]] = [[] for _ in range(len(logits))]
    active = list(range(len(done)))
    for step in range(most):
        chosen = logits.max(-1).indices
        lengths = cache.lengths[::count].tolist()
        going = [
            j
            for j, (token, length) in enumerate(zip(chosen.tolist(), lengths, strict=True))
            if token not in stop and length < context
        ]
        for j in going:
            done[active[j]].append(int(chosen[j]))
        if not going or step == most - 1:
            break
        keep = torch.tensor(going, device=logits.device)
        active, chosen = [active[j] for j in going], chosen[keep]
        cache.keep((keep[:, None] * count + torch.arange(count, device=keep.device)).flatten())
        following = backbone.model(
            inputs_embeds=backbone.embed(chosen.repeat_interleave(count)).unsqueeze(0),
            position_ids=cache.lengths.unsqueeze(0),
            use_cache=False,
            layout=cache,
        ).logits[0]
        cache.lengths = cache.lengths + 1
        members = following.float().reshape(len(going), count, -1)
        logits = (members * share[:, None]).sum(1)
    return done


def single_mixture(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], weights: Sequence[float], most: int = 0
) -> tuple[Tensor, list[list[int]]]:
    """Compute `packed_mixture` row by row, without a cache: slow, for any model."""
    stop, context = set(backbone.eos_token_ids), backbone.context_length or sys.maxsize
    losses, outputs = [], []
    for row in rows:
        stacks = [prompts[:, m] for m in range(len(weights))]
        loss = torch.tensor(torch.nan, device=backbone.device)
        if row.target:
            target = torch.as_tensor(row.example.target.copy(), dtype=torch.long, device=backbone.device)
            inputs = [row_inputs(backbone, stack, row) for stack in stacks]
            logits = _single_mean(backbone, inputs, weights, len(target))
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        inputs, new = [row_inputs(backbone, stack, row, target=False) for stack in stacks], list[int]()
        while len(new) < most and inputs[0].shape[1] < context:
            token = int(_single_mean(backbone, inputs, weights, 1)[0].argmax())
            if token in stop:
                break
            new.append(token)
            inputs = [torch.cat([one, backbone.embed(torch.tensor([[token]]))], dim=1) for one in inputs]
        losses.append(loss)
        outputs.append(new)
    return torch.stack(losses), outputs


def _single_mean(
    backbone: Backbone, inputs: Sequence[Tensor], weights: Sequence[float], count: int
) -> Tensor:
    parts = [w * single_logits(backbone, one, count) for one, w in zip(inputs, weights, strict=True)]
    return sum(parts[1:], parts[0])
