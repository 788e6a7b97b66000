"""The device and number format of a backbone, from settings and from what the machine computes natively."""

from functools import lru_cache
from pathlib import Path

import torch

from fedprofit.core.errors import UserError, first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a setting such as "auto", "cpu" or "cuda:1"; raise UserError if absent."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # The device of a tensor has an index ("cuda:0", not "cuda"): one model, one cache entry.
        found = torch.empty(1, device=device).device
    except Exception as error:
        # The error type depends on the device and on the build of torch.
        raise UserError(
            f"The device {device!r} cannot be used on this machine ({first_line(error, True)}). Use 'auto' "
            "or 'cpu', or 'cuda' if torch finds a GPU."
        ) from error
    if found.type not in ("cpu", "cuda"):
        raise UserError(
            f"The device {device!r} cannot be used: clients are averaged in float64, which this device may "
            "not support. Use 'auto', 'cpu' or 'cuda'."
        )
    return found


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of a setting; "auto" is bfloat16 if `device` computes it natively.

    >>> resolve_dtype("float32", torch.device("cpu"))
    torch.float32
    """
    if dtype == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise UserError(f"The dtype {dtype!r} is unknown. Use auto, float32, bfloat16 or float16.")
    return DTYPES[dtype]


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device has native bfloat16 arithmetic."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as listed by Linux; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())
