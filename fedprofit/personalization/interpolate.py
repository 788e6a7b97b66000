"""Interpolation between a client's own prompt and the federated one, at no further training."""

from fedprofit.core.types import Params


def interpolate(personal: Params, federated: Params, alpha: float) -> Params:
    """Return alpha x personal + (1 - alpha) x federated (Collins et al. 2023).

    Args:
        personal: the clients' prompts, stacked `[clients, ...]`.
        federated: where they started, unstacked, or stacked alike.
        alpha: 1 gives the personal prompts, 0 the federated one.

    >>> import torch
    >>> interpolate({"prompt": torch.ones(2, 1)}, {"prompt": torch.zeros(1)}, 0.25)["prompt"].tolist()
    [[0.25], [0.25]]
    """
    return {key: alpha * tensor + (1 - alpha) * federated[key] for key, tensor in personal.items()}
