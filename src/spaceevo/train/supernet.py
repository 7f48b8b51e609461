"""Quantized-for-all supernet training (SpaceEvo, Section 4.3): sandwich rule, FP32 then LSQ+."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from spaceevo.nets.network import Network, program_of
from spaceevo.seeding import python_random
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import torch_generator
from spaceevo.train.loop import ProgramSampler

#: Random subnets that meet a condition, of which the largest teaches the others.
NUM_LARGE = 300
#: Of a random subnet, before one that does not meet the condition is crossed with the smallest until it does.
MAX_DRAWS = 20


def make_supernet(space: SearchSpace, w_qmax: int, seed: int, per_channel: bool = True) -> Network:
    """A supernet with fresh weights for every subnet of a space."""
    return Network(space.maximal_operators(), w_qmax, torch_generator(seed, "supernet", "weights"), per_channel)


def sandwich(space: SearchSpace, num_random: int) -> ProgramSampler:
    """The sandwich rule: the largest subnet, the smallest, and random ones."""
    return sandwich_within(Within.all_of(space), num_random, 0)


def sandwich_within(within: Within, num_random: int, seed: int) -> ProgramSampler:
    """The sandwich rule among the subnets that meet a condition."""
    draw = within.sandwich(num_random, seed)
    return lambda rng: [program_of(subnet) for subnet in draw(rng)]


@dataclass(frozen=True)
class Within:
    """The subnets of a space that meet a condition, such as a latency budget.

    Attributes:
        space: Where they are drawn.
        fits: Whether a subnet meets the condition; must be a pure function.
        small: A small one that does.
    """

    space: SearchSpace
    fits: Callable[[Subnet], bool]
    small: Subnet

    @classmethod
    def all_of(cls, space: SearchSpace) -> Self:
        """Every subnet."""
        return cls(space, lambda subnet: True, space.smallest())

    def sandwich(self, num_random: int, seed: int) -> Callable[[random.Random], list[Subnet]]:
        """Draws what a step trains: the large one and the small one, which stay, and random ones.

        Args:
            num_random: How many random ones.
            seed: Decides the large one.
        """
        extremes = self.extremes(seed)
        return lambda rng: [*extremes, *(self.draw(rng) for _ in range(num_random))]

    def extremes(self, seed: int) -> tuple[Subnet, Subnet]:
        """The large one and the small one.

        Args:
            seed: Decides the large one.
        """
        return self.large(seed), self.small

    def draw(self, rng: random.Random) -> Subnet:
        """A random one: uniform over the choices, unless few meet the condition."""
        for _ in range(MAX_DRAWS):
            subnet = self.space.sample(rng)
            if self.fits(subnet):
                return subnet
        while not self.fits(subnet):
            subnet = self.space.crossover(subnet, self.small, rng)
        return subnet

    def large(self, seed: int) -> Subnet:
        """The largest of the space; where that does not meet the condition, of many random ones that of most MACs.

        Args:
            seed: Of the draws.
        """
        if self.fits(largest := self.space.largest()):
            return largest
        rng = python_random(seed, "supernet", "large")
        return max((self.draw(rng) for _ in range(NUM_LARGE)), key=lambda subnet: subnet.macs)
