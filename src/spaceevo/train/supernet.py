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

#: Random subnets that meet a condition, of which the best one is taken for every step.
NUM_DRAWN = 300
#: Of a random subnet, before one that does not meet the condition is crossed with the smallest until it does.
MAX_DRAWS = 20


def make_supernet(space: SearchSpace, w_qmax: int, seed: int, per_channel: bool = True) -> Network:
    """A supernet with fresh weights for every subnet of a space."""
    return Network(space.largest_nodes(), w_qmax, torch_generator(seed, "supernet", "weights"), per_channel)


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
            seed: Decides what is drawn.
        """
        if self.fits(largest := self.space.largest()):
            return largest
        return max(self._drawn(seed, "large"), key=lambda subnet: subnet.macs)

    def part_of(self, other: Subnet, seed: int) -> Subnet:
        """Another subnet itself; where that does not meet the condition, of many random ones the largest part of it.

        That is the one of most MACs, counting only those with weights that the other has too.

        Args:
            other: Another subnet of the space.
            seed: Decides what is drawn.
        """
        if self.fits(other):
            return other
        return max(self._drawn(seed, "small"), key=lambda subnet: self.space.common(subnet, other).macs)

    def _drawn(self, seed: int, purpose: str) -> list[Subnet]:
        rng = python_random(seed, "supernet", purpose)
        return [self.draw(rng) for _ in range(NUM_DRAWN)]


@dataclass(frozen=True)
class Sandwich:
    """The sandwich rule: every step trains a large subnet, a small one, and random ones.

    Attributes:
        large: Teaches the others.
        small: Another that stays.
        within: Where the random ones are drawn.
    """

    large: Subnet
    small: Subnet
    within: Within

    @classmethod
    def all_of(cls, space: SearchSpace) -> Self:
        """As published: the largest subnet of a space, the smallest, and any."""
        smallest = space.smallest()
        return cls(space.largest(), smallest, Within(space, lambda subnet: True, smallest))

    @classmethod
    def of(cls, within: Within, smaller: Within | None, seed: int) -> Self:
        """The subnets that meet a condition.

        Args:
            within: The subnets of a space that meet it.
            smaller: Those of them that the small one is to be one of: it shares as many weights with the large one as
                it can. None: it is `within.small`.
            seed: Decides the two.
        """
        large = within.large(seed)
        return cls(large, smaller.part_of(large, seed) if smaller else within.small, within)

    def draw(self, num_random: int, rng: random.Random) -> list[Subnet]:
        """What a step trains, the large one first."""
        return [self.large, self.small, *(self.within.draw(rng) for _ in range(num_random))]

    def programs(self, num_random: int) -> ProgramSampler:
        """Draws the programs of a step."""
        return lambda rng: [program_of(subnet) for subnet in self.draw(num_random, rng)]
