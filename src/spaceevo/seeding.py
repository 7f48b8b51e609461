"""One named random generator per purpose, none global, none carried from step to step.

A generator is a pure function of (seed, purpose): a step that is done again after an interruption draws
exactly what it drew the first time, so no generator state is ever saved.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose.

    >>> derive(0, "supernet", 3) == derive(0, "supernet", 3) != derive(0, "supernet", 4)
    True
    """
    digest = hashlib.sha256(repr((seed, *map(str, purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def python_random(seed: int, *purpose: object) -> random.Random:
    """Python's generator for one purpose."""
    return random.Random(derive(seed, *purpose))


def numpy_random(seed: int, *purpose: object) -> np.random.Generator:
    """NumPy's generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))
