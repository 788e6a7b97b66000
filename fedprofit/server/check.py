"""Checks of tensors that components return."""

from collections.abc import Sequence

from fedprofit.core.errors import UserError, cut
from fedprofit.core.types import ClientId, Params


def check_tensors(
    what: str, tensors: Params, like: Params | None = None, clients: Sequence[ClientId] | None = None
) -> None:
    """Raise UserError unless tensors have the names and shapes of others and are finite.

    Args:
        what: component and round, for the message.
        tensors: what the component returned.
        like: tensors with the expected names and shapes, if given.
        clients: the clients' names, if the tensors are stacked.
    """
    import torch

    if like is not None:
        found = {key: list(tensor.shape) for key, tensor in tensors.items()}
        expected = {key: list(tensor.shape) for key, tensor in like.items()}
        if found != expected:
            raise UserError(
                f"{what}: returned tensors {cut(str(found))}, expected {cut(str(expected))}. Return the "
                "names and shapes of the parameters."
            )
    for key, tensor in tensors.items():
        if torch.isfinite(tensor).all():
            continue
        whose = ""
        if clients is not None:
            rows = zip(clients, tensor, strict=True)
            whose = next(f" of client {client!r}" for client, row in rows if not torch.isfinite(row).all())
        raise UserError(
            f"{what}: tensor {key!r}{whose} is not finite. Lower the learning rates, or correct the "
            "component."
        )
