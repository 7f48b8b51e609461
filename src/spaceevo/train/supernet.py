"""Quantized-for-all supernet training (SpaceEvo, Section 4.3): sandwich rule, FP32 then LSQ+."""

from __future__ import annotations

import random
from collections.abc import Sequence

from spaceevo.nets.network import Network, Program, program_of
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.train.batches import torch_generator
from spaceevo.train.loop import ProgramSampler


def make_supernet(space: SearchSpace, w_qmax: int, seed: int, per_channel: bool = True) -> Network:
    """A supernet with fresh weights for every subnet of a space."""
    return Network(space.maximal_operators(), w_qmax, torch_generator(seed, "supernet", "weights"), per_channel)


def sandwich(space: SearchSpace, num_random: int) -> ProgramSampler:
    """The sandwich rule: the largest subnet, the smallest, and random ones."""
    largest, smallest = program_of(space.largest()), program_of(space.smallest())

    def sample(rng: random.Random) -> Sequence[Program]:
        return [largest, smallest, *(program_of(space.sample(rng)) for _ in range(num_random))]

    return sample
