"""One way to seed: a stable hash of what the random numbers are for."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on `parts` alone (Python's own `hash` changes per process)."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*parts: int | str) -> numpy.random.Generator:
    import numpy

    return numpy.random.default_rng(seed_of(*parts))


def seed_all(*parts: int | str) -> torch.Generator:
    """Seed Python, NumPy's global state and torch; return a fresh CPU generator with that seed.

    Called per training step with (name, seed, step), it makes the randomness of a step a pure
    function of those three, so that a resumed run draws what an undisturbed one would.
    """
    import numpy
    import torch

    seed = seed_of(*parts)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 (some libraries still draw from it)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
