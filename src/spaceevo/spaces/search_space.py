"""A search space: one block type and one width window per stage; everything inside is elastic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import prod

from spaceevo import plugins
from spaceevo.spaces.layers import INPUT
from spaceevo.spaces.operators import Operator, Placement, elementwise_maximum, operators
from spaceevo.spaces.subnet import (
    BLOCKS,
    Block,
    BlockType,
    Head,
    Stage,
    Subnet,
    block_layers,
    network_layers,
)


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """A block type with the kernel sizes and expand ratios that are elastic in it (ascending)."""

    block_type: BlockType
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class ElasticStage:
    """One stage of a search space.

    Attributes:
        name: For example "stage1".
        choice: Block type, kernel sizes and expand ratios.
        widths: Ascending; elastic per block.
        depths: Ascending; elastic per stage.
        stride: Of the first block.
    """

    name: str
    choice: BlockChoice
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int

    def blocks(self) -> tuple[Block, ...]:
        """All choices of one block."""
        return _blocks(self.widths, self.choice.kernel_sizes, self.choice.expand_ratios)

    @property
    def num_substages(self) -> int:
        """How many stages this elastic stage stands for."""
        return sum(len(self.blocks()) ** depth for depth in self.depths)

    def stage(self, blocks: tuple[Block, ...]) -> Stage:
        """The stage with these blocks."""
        return Stage(self.name, self.choice.block_type, self.stride, blocks)

    def largest(self) -> Stage:
        """Largest depth, width, kernel size and expand ratio."""
        return self.stage((self.blocks()[-1],) * self.depths[-1])

    def smallest(self) -> Stage:
        """Smallest depth, width, kernel size and expand ratio."""
        return self.stage((self.blocks()[0],) * self.depths[0])

    def sample(self, rng: random.Random) -> Stage:
        """Depth uniform, then every block uniform over its choices."""
        return self.stage(tuple(rng.choices(self.blocks(), k=rng.choice(self.depths))))

    def sample_block(self, rng: random.Random) -> Block:
        """One block, uniform over its choices."""
        choice = self.choice
        return Block(rng.choice(self.widths), rng.choice(choice.kernel_sizes), rng.choice(choice.expand_ratios))

    def contains(self, stage: Stage) -> bool:
        """Whether the stage is one of those that this elastic stage stands for."""
        return (stage.name, stage.block_type, stage.stride) == (
            self.name,
            self.choice.block_type,
            self.stride,
        ) and self.contains_blocks(stage.blocks)

    def contains_blocks(self, blocks: Sequence[Block]) -> bool:
        """Whether a stage of this elastic stage may have these blocks."""
        return len(blocks) in self.depths and all(
            block.width in self.widths
            and block.kernel_size in self.choice.kernel_sizes
            and block.expand_ratio in self.choice.expand_ratios
            for block in blocks
        )

    def maximal_operators(
        self, in_widths: tuple[int, ...], in_size: int, placement: Placement = "device"
    ) -> dict[str, Operator]:
        """Per operator name the largest one over all stages, for inputs of any of `in_widths` channels."""
        blocks = self.blocks()
        largest = elementwise_maximum(
            operators(block_layers(self.stage((block,) * (index + 1)), index, width, in_size), placement)
            for index in range(self.depths[-1])
            for width in (in_widths if index == 0 else self.widths)
            for block in blocks
        )
        largest.pop(INPUT, None)
        return largest


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The subnets of one search space.

    Attributes:
        encoding: Its name within its hyperspace, for example "micro-014-120".
        stages: All stages, the stem first.
        head: What follows the stages.
        resolutions: Ascending input resolutions.
        num_classes: Of the logits.
    """

    encoding: str
    stages: tuple[ElasticStage, ...]
    head: Head
    resolutions: tuple[int, ...]
    num_classes: int

    @property
    def num_subnets(self) -> int:
        """How many subnets the space holds."""
        return len(self.resolutions) * prod(stage.num_substages for stage in self.stages)

    def subnet(self, resolution: int, stages: tuple[Stage, ...]) -> Subnet:
        """The subnet with these stages at this resolution."""
        return Subnet(resolution, stages, self.head, self.num_classes)

    def largest(self) -> Subnet:
        """The subnet with the largest value of every choice."""
        return self.subnet(self.resolutions[-1], tuple(stage.largest() for stage in self.stages))

    def smallest(self) -> Subnet:
        """The subnet with the smallest value of every choice."""
        return self.subnet(self.resolutions[0], tuple(stage.smallest() for stage in self.stages))

    def sample(self, rng: random.Random) -> Subnet:
        """A random subnet: every choice uniform and independent."""
        stages = tuple(stage.sample(rng) for stage in self.stages)
        return self.subnet(rng.choice(self.resolutions), stages)

    def contains(self, subnet: Subnet) -> bool:
        """Whether the subnet belongs to the space."""
        return (
            subnet.resolution in self.resolutions
            and (subnet.head, subnet.num_classes) == (self.head, self.num_classes)
            and len(subnet.stages) == len(self.stages)
            and all(elastic.contains(stage) for elastic, stage in zip(self.stages, subnet.stages, strict=True))
        )

    def mutate(
        self,
        subnet: Subnet,
        rng: random.Random,
        probability: float = 0.3,
        resolution_probability: float = 0.5,
    ) -> Subnet:
        """Redraw each choice with a probability (published: 0.3, resolution 0.5); at least one changes."""
        if self.num_subnets == 1:
            return subnet
        while True:
            resolution = subnet.resolution
            if rng.random() < resolution_probability:
                resolution = rng.choice(self.resolutions)
            stages = tuple(
                _mutate_stage(elastic, stage, rng, probability)
                for elastic, stage in zip(self.stages, subnet.stages, strict=True)
            )
            mutant = self.subnet(resolution, stages)
            if mutant != subnet:
                return mutant

    def crossover(self, first: Subnet, second: Subnet, rng: random.Random) -> Subnet:
        """Each choice from one of the two parents, evenly."""
        stages = []
        for a, b in zip(first.stages, second.stages, strict=True):
            deeper, shallower = (a, b) if len(a.blocks) >= len(b.blocks) else (b, a)
            depth = len(rng.choice((a, b)).blocks)
            blocks = [
                rng.choice((deeper.blocks[i], shallower.blocks[min(i, len(shallower.blocks) - 1)]))
                for i in range(depth)
            ]
            stages.append(replace(a, blocks=tuple(blocks)))
        return self.subnet(rng.choice((first, second)).resolution, tuple(stages))

    def common(self, first: Subnet, second: Subnet) -> Subnet:
        """What the blocks of two subnets share, at the resolution of the first: of each choice the smaller one.

        What lies between blocks may be larger: a shortcut's convolution is there where the shared widths differ, and a
        stage is fed by its predecessor's last shared block, which may be wider than a later one. Where the
        kernel sizes of a block type are not one number, it may be none of the space: two blocks of which each has a
        convolution that the other lacks share the rest.
        """
        stages = []
        for a, b in zip(first.stages, second.stages, strict=True):
            common_kernel_size = getattr(plugins.load(BLOCKS, a.block_type.kind), "common_kernel_size", min)
            blocks = (
                Block(
                    min(one.width, two.width),
                    common_kernel_size(one.kernel_size, two.kernel_size),
                    min(one.expand_ratio, two.expand_ratio),
                )
                for one, two in zip(a.blocks, b.blocks, strict=False)  # as many as the shallower one has
            )
            stages.append(replace(a, blocks=tuple(blocks)))
        return self.subnet(first.resolution, tuple(stages))

    def maximal_operators(self, placement: Placement = "device") -> dict[str, Operator]:
        """Per operator name the largest one over all subnets: the parameters of the supernet."""
        program = operators(network_layers(self.largest()), placement)
        sizes = {operator.name: operator.in_size for operator in program}
        largest = {o.name: o for o in program if o.name == INPUT}
        in_widths: tuple[int, ...] = (3,)
        for stage in self.stages:
            first = next(name for name in sizes if name.startswith(f"{stage.name}/0/"))
            largest |= stage.maximal_operators(in_widths, sizes[first], placement)
            in_widths = stage.widths
        return largest | elementwise_maximum([[o for o in program if o.name.startswith("head/")]])


@cache
def _blocks(widths: tuple[int, ...], kernel_sizes: tuple[int, ...], ratios: tuple[float, ...]) -> tuple[Block, ...]:
    return tuple(Block(*values) for values in product(widths, kernel_sizes, ratios))


def _mutate_stage(elastic: ElasticStage, stage: Stage, rng: random.Random, probability: float) -> Stage:
    depth = rng.choice(elastic.depths) if rng.random() < probability else len(stage.blocks)
    blocks = []
    for index in range(depth):
        old = stage.blocks[index] if index < len(stage.blocks) else elastic.sample_block(rng)
        new = elastic.sample_block(rng)
        blocks.append(
            Block(
                new.width if rng.random() < probability else old.width,
                new.kernel_size if rng.random() < probability else old.kernel_size,
                new.expand_ratio if rng.random() < probability else old.expand_ratio,
            )
        )
    return replace(stage, blocks=tuple(blocks))
