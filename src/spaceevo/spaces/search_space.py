"""A search space: one block type and one width window per stage; everything inside is elastic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

from spaceevo.graph.largest import elementwise_maximum
from spaceevo.graph.nodes import HEAD, INPUT, Node
from spaceevo.graph.tensors import Shape
from spaceevo.graph.trace import Placement, published
from spaceevo.spaces.choices import Axis, Block
from spaceevo.spaces.subnet import BlockType, Head, Stage, Subnet, block_program, network_program


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """A block type with what is elastic in it.

    Attributes:
        block_type: A file of `blocks/`, and its activation.
        kernel_sizes: Ascending; tuples where the block type has several kernel sizes.
        expand_ratios: Ascending.
        added: The axes that the block type adds.
    """

    block_type: BlockType
    kernel_sizes: tuple[int | tuple[int, ...], ...]
    expand_ratios: tuple[float, ...] = (0.0,)
    added: tuple[Axis, ...] = ()


@dataclass(frozen=True)
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

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """What is chosen in a block, in the order of `Block.choices`."""
        choice = self.choice
        return (
            Axis("width", self.widths),
            Axis("kernel_size", choice.kernel_sizes),
            Axis("expand_ratio", choice.expand_ratios),
            *choice.added,
        )

    def blocks(self) -> tuple[Block, ...]:
        """All choices of one block."""
        return self._blocks

    @cached_property
    def _blocks(self) -> tuple[Block, ...]:
        values = product(*(axis.values for axis in self.axes))
        return tuple(Block.of(choices, self.choice.added) for choices in values)

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
        return Block.of([rng.choice(axis.values) for axis in self.axes], self.choice.added)

    def contains(self, stage: Stage) -> bool:
        """Whether the stage is one of those that this elastic stage stands for."""
        return (stage.name, stage.block_type, stage.stride) == (
            self.name,
            self.choice.block_type,
            self.stride,
        ) and self.contains_blocks(stage.blocks)

    def contains_blocks(self, blocks: Sequence[Block]) -> bool:
        """Whether a stage of this elastic stage may have these blocks."""
        return len(blocks) in self.depths and self._all_blocks.issuperset(blocks)

    @cached_property
    def _all_blocks(self) -> frozenset[Block]:
        return frozenset(self.blocks())

    def largest_nodes(self, in_shapes: Sequence[Shape], placement: Placement = "device") -> dict[str, Node]:
        """Per id the largest node over all stages: the parameters that a supernet needs for them.

        Args:
            in_shapes: Shapes that the stage's input may have.
            placement: Where tensors are quantized.
        """
        blocks = self.blocks()
        later = [in_shapes[0]._replace(channels=width) for width in self.widths]
        largest = elementwise_maximum(
            _placed(block_program(self.stage((block,) * (index + 1)), index, shape), placement)
            for index in range(self.depths[-1])
            for shape in (in_shapes if index == 0 else later)
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
        stage is fed by its predecessor's last shared block, which may be wider than a later one. Where a block type
        has several kernel sizes, it may be none of the space: two blocks of which each has a convolution that the other
        lacks share the rest.
        """
        stages = []
        for a, b in zip(first.stages, second.stages, strict=True):
            pairs = zip(a.blocks, b.blocks, strict=False)  # as many as the shallower one has
            stages.append(replace(a, blocks=tuple(block.common(other) for block, other in pairs)))
        return self.subnet(first.resolution, tuple(stages))

    def largest_nodes(self, placement: Placement = "device") -> dict[str, Node]:
        """Per id the largest node over all subnets: the parameters of the supernet."""
        program = _placed(network_program(self.largest()), placement)
        # What a stage reads: that of its first node, at every width of the stage before
        shapes = {node.role.stage: node.in_shape for node in reversed(program)}
        largest = {node.id: node for node in program if node.id == INPUT}
        in_widths: tuple[int, ...] = (program[0].in_shape.channels,)
        for stage in self.stages:
            in_shapes = [shapes[stage.name]._replace(channels=width) for width in in_widths]
            largest |= stage.largest_nodes(in_shapes, placement)
            in_widths = stage.widths
        return largest | elementwise_maximum([[node for node in program if node.role.stage == HEAD]])


def _placed(program: tuple[Node, ...], placement: Placement) -> tuple[Node, ...]:
    return published(program) if placement == "published" else program


def _mutate_stage(elastic: ElasticStage, stage: Stage, rng: random.Random, probability: float) -> Stage:
    depth = rng.choice(elastic.depths) if rng.random() < probability else len(stage.blocks)
    blocks = []
    added, values = elastic.choice.added, [axis.values for axis in elastic.axes]
    for index in range(depth):
        old = stage.blocks[index] if index < len(stage.blocks) else elastic.sample_block(rng)
        drawn = list(map(rng.choice, values))
        choices = [new if rng.random() < probability else kept for kept, new in zip(old.choices, drawn, strict=True)]
        blocks.append(Block.of(choices, added))
    return replace(stage, blocks=tuple(blocks))
