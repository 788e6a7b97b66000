"""Randomness as a function: every draw comes from a generator made of (seed, purpose, keys).

There is no global random state in this package. Whoever draws names what the draw is for, so the
order of execution, the number of workers and a resumed run cannot change a result.
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
    """Make the NumPy generator of one purpose, for example `("batches", round, client)`.

    >>> draw = lambda: int(numpy_generator(0, "cohort", 3).integers(1000))
    >>> draw() == draw()
    True
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(_entropy(seed, purpose, keys)[:16], "little")))


def torch_generator(seed: int, purpose: str, *keys: int | str) -> "torch.Generator":
    """Make the (CPU) torch generator of one purpose; draw on the CPU, then move to the device."""
    import torch  # here: whoever reads results draws too, and waits for no torch

    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(_entropy(seed, purpose, keys)[:8], "little", signed=True))
    return generator
