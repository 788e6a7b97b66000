"""Sparse updates: each client sends its largest numbers and keeps the rest for later rounds."""

import math
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from fedprofit.core.types import Params
from fedprofit.server.steps.base import AggregationStep, Sent, StepContext

POSITION_BYTES = 4
ERROR = "error"  # name of the client state: the numbers not sent so far


class TopK(AggregationStep, kind="top_k", paper="Stich et al. 2018, arXiv 1809.07599"):
    """Send the numbers of largest magnitude; add the rest to the client's next update (error feedback)."""

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    """The share of each tensor's numbers that a client sends, at least one number."""

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Add the stored error, select, and store the rest."""
        import torch

        like = {key: torch.zeros_like(tensor[0]) for key, tensor in sent.params.items()}
        error = context.clients.get(ERROR, sent.clients, like)
        kept, rest, encodings = {}, {}, {}
        for key, tensor in sent.params.items():
            total = (tensor + error[key]).reshape(len(tensor), -1)
            count = math.ceil(self.share * total.shape[1])
            # Stable, so that equal magnitudes are selected in the same order everywhere.
            chosen = total.abs().sort(dim=1, descending=True, stable=True).indices[:, :count]
            mask = torch.zeros_like(total, dtype=torch.bool).scatter(1, chosen, True)
            kept[key] = torch.where(mask, total, 0.0).reshape(tensor.shape)
            rest[key] = torch.where(mask, 0.0, total).reshape(tensor.shape)
            before = sent.encodings[key]
            encodings[key] = replace(
                before, numbers=min(count, before.numbers), position_bytes=POSITION_BYTES
            )
        here = sent.counted  # a client that returned nothing keeps its error
        context.clients.put(
            ERROR, [sent.clients[k] for k in here], {key: tensor[here] for key, tensor in rest.items()}
        )
        return replace(sent, params=kept, encodings=encodings), state
