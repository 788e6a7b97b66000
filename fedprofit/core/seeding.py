"""Random generators derived from (seed, purpose, keys).

This package uses no global random state. Each caller names the purpose of a draw. Therefore results do not
depend on the execution order, the number of workers, or a resumed run.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, purpose: str, keys: tuple[int | str, ...]) -> bytes:
    text = "\x1f".join([str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)])
    return hashlib.sha256(text.encode()).digest()


def numpy_generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """Return the NumPy generator for a purpose and keys, such as `("batches", round, client)`.

    >>> draw = lambda: int(numpy_generator(0, "cohort", 3).integers(1000))
    >>> draw() == draw()
    True
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(_entropy(seed, purpose, keys)[:16], "little")))


def torch_generator(seed: int, purpose: str, *keys: int | str) -> "torch.Generator":
    """Return the torch generator (CPU) for a purpose and keys; draw on the CPU, then move to the device."""
    import torch  # slow to import, and not needed to read results

    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(_entropy(seed, purpose, keys)[:8], "little", signed=True))
    return generator
