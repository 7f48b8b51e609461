"""One architecture as a frozen value, and the program that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from spaceevo.graph.nodes import HEAD, INPUT, Node, Program
from spaceevo.graph.ops import Norm
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Activation, Counter, Feature, Tracer, input_node
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.choices import Block


class BlockType(NamedTuple):
    """A kind of block (a file of `blocks/`) with its activation."""

    kind: str
    activation: Activation

    def __str__(self) -> str:
        return f"{self.kind}-{self.activation.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A sequence of blocks of one type; the first one has the stride."""

    name: str
    block_type: BlockType
    stride: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the stages.

    Attributes:
        final_expand: Width of the last 1x1 convolution on the feature map; 0 for none.
        feature_mix: Width of the 1x1 convolution on the pooled feature; 0 for none.
        activation: Of both.
        feature_mix_norm: What follows the sum of the latter.
    """

    final_expand: int
    feature_mix: int
    activation: Activation
    feature_mix_norm: Norm = "batch_norm"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One architecture: everything that its layers depend on, nothing else."""

    resolution: int
    stages: tuple[Stage, ...]
    head: Head
    num_classes: int

    @property
    def in_shape(self) -> Shape:
        """Shape of the input."""
        return square(3, self.resolution)

    @property
    def cost(self) -> Cost:
        """What the network costs, for one image."""
        shape = self.in_shape
        costs = []
        for stage in self.stages:
            for index, block in enumerate(stage.blocks):
                costs.append(block_cost(stage.block_type, stage.stride if index == 0 else 1, shape, block))
                shape = costs[-1].out_shape
        costs.append(head_cost(self.head, self.num_classes, shape))
        return total_cost(costs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.cost.macs

    @property
    def num_params(self) -> int:
        """Trained parameters, without quantizers."""
        return self.cost.num_params


class Cost(NamedTuple):
    """What a part of a network costs, for one image.

    Attributes:
        macs: Multiply-accumulates.
        num_params: Trained parameters, without quantizers.
        num_weighted: Convolutions and linear layers.
        out_shape: Shape put out.
    """

    macs: int
    num_params: int
    num_weighted: int
    out_shape: Shape


def total_cost(costs: Sequence[Cost]) -> Cost:
    """The sum, with the last one's output."""
    macs, num_params, num_weighted, out_shapes = zip(*costs, strict=True)
    return Cost(sum(macs), sum(num_params), sum(num_weighted), out_shapes[-1])


@cache
def block_cost(block_type: BlockType, stride: int, in_shape: Shape, block: Block) -> Cost:
    """What one block costs; computed once for each argument, since few differ among many subnets."""
    net = Counter(in_shape)
    output = _declare(block_type, stride, block, net.input, net)
    return Cost(net.macs, net.num_params, net.num_weighted, output.shape)


@cache
def head_cost(head: Head, num_classes: int, in_shape: Shape) -> Cost:
    """What follows the stages costs."""
    net = Counter(in_shape)
    output = _declare_head(head, num_classes, net.input, net)
    return Cost(net.macs, net.num_params, net.num_weighted, output.shape)


@lru_cache(maxsize=4096)
def network_program(subnet: Subnet) -> Program:
    """The program of a whole network."""
    nodes, x = [input_node(subnet.in_shape)], Feature(INPUT, subnet.in_shape)
    for stage in subnet.stages:
        x = _trace_stage(stage, x, nodes)
    nodes += _trace_head(subnet.head, subnet.num_classes, x)
    return tuple(nodes)


@lru_cache(maxsize=65536)
def stage_program(stage: Stage, in_shape: Shape) -> Program:
    """The program of one stage alone; the first node quantizes its input."""
    nodes = [input_node(in_shape)]
    _trace_stage(stage, Feature(INPUT, in_shape), nodes)
    return tuple(nodes)


def block_program(stage: Stage, index: int, in_shape: Shape) -> Program:
    """The program of one block of a stage alone, named as in the stage; the first node quantizes its input."""
    stride = stage.stride if index == 0 else 1
    x = Feature(INPUT, in_shape)
    nodes, _ = _trace_block(stage.name, stage.block_type, stride, index, stage.blocks[index], x)
    return (input_node(in_shape), *nodes)


def stage_outputs(subnet: Subnet) -> dict[str, str]:
    """For each stage, the id of the node that puts out its result."""
    names = {stage.name for stage in subnet.stages}
    return {node.role.stage: node.id for node in network_program(subnet) if node.role.stage in names}


@lru_cache(maxsize=4096)
def _trace_head(head: Head, num_classes: int, x: Feature) -> Program:
    net = Tracer(x.shape)
    with net.part(HEAD):
        _declare_head(head, num_classes, x, net)
    return tuple(net.nodes)


def _declare_head(head: Head, num_classes: int, x: Feature, net: Tracer) -> Feature:
    if head.final_expand:
        x = net.conv("final_expand", x, head.final_expand, activation=head.activation)
    x = net.pool("pool", x)
    if head.feature_mix:
        x = net.conv("feature_mix", x, head.feature_mix, activation=head.activation, norm=head.feature_mix_norm)
    return net.linear("logits", x, num_classes)


def _trace_stage(stage: Stage, x: Feature, nodes: list[Node]) -> Feature:
    for index, block in enumerate(stage.blocks):
        stride = stage.stride if index == 0 else 1
        traced, x = _trace_block(stage.name, stage.block_type, stride, index, block, x)
        nodes += traced
    return x


@lru_cache(maxsize=65536)
def _trace_block(
    stage: str, block_type: BlockType, stride: int, index: int, block: Block, x: Feature
) -> tuple[Program, Feature]:
    """The nodes of a block, and what it puts out; remembered, since few blocks differ among many subnets."""
    net = Tracer(x.shape)
    with net.part(stage, index):
        output = _declare(block_type, stride, block, x, net)
    return tuple(net.nodes), output


def _declare(block_type: BlockType, stride: int, block: Block, x: Feature, net: Tracer) -> Feature:
    spec = BlockSpec(
        in_width=x.channels,
        out_width=block.width,
        kernel_sizes=block.kernel_size if isinstance(block.kernel_size, tuple) else (block.kernel_size,),
        expand_ratio=block.expand_ratio,
        stride=stride,
        activation=block_type.activation,
        added=block.added,
    )
    output: Feature = BLOCKS.load(block_type.kind).declare(spec, x, net)
    return output
