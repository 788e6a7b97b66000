"""Frozen features of inputs, for gates: they depend on the text only, not on trained parameters."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedprofit.backbone.forward import Row, as_given, pack, row_inputs
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.packing import NAME

LAST = -1  # depth of the last hidden state, after the model's final norm


def mean_embeddings(backbone: Backbone, rows: Sequence[Row]) -> Tensor:
    """Return the mean token embedding of each row's source, `[rows, width]`, float32."""
    found = [backbone.embed(torch.as_tensor(row.example.source.copy(), dtype=torch.long)) for row in rows]
    return torch.stack([tokens.float().mean(0) for tokens in found])


def packed_states(backbone: Backbone, rows: Sequence[Row], depth: int) -> Tensor:
    """Return each row's mean hidden state over its source, `[rows, width]`, all rows in one pass.

    The rows are read without a soft prompt.

    Args:
        backbone: the frozen model.
        rows: the examples.
        depth: 0 for the input embeddings, k for the output of layer k, -1 for the last hidden state.
    """
    model = backbone.model
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    bare = [replace(row, owner=0, target=False) for row in rows]
    packed = pack(bare, 0, backbone.device)
    states = _states(
        backbone,
        depth,
        inputs_embeds=backbone.embed(packed.ids).unsqueeze(0),
        position_ids=packed.positions.unsqueeze(0),
        layout=packed.layout,
    )
    means = [
        states[start : start + bare[number].tokens].float().mean(0)
        for number, start in zip(packed.order, packed.row_starts, strict=True)
    ]
    return as_given(packed.order, torch.stack(means))


def single_states(backbone: Backbone, rows: Sequence[Row], depth: int) -> Tensor:
    """Compute `packed_states` with the plain model, one row at a time."""
    nothing, means = torch.zeros(1, 0, backbone.width, device=backbone.device), []
    for row in rows:
        inputs = row_inputs(backbone, nothing, replace(row, owner=0), target=False)
        states = _states(backbone, depth, inputs_embeds=inputs)
        means.append(states[-len(row.example.source) :].float().mean(0))
    return torch.stack(means)


def _states(backbone: Backbone, depth: int, **given: object) -> Tensor:
    """Return the hidden states `[tokens, width]` of one flat row."""
    output = backbone.model.base_model(**given, use_cache=False, output_hidden_states=depth != LAST)
    states: Tensor = output.last_hidden_state if depth == LAST else output.hidden_states[depth]
    return states[0]
