"""One architecture as a frozen value, and the layers it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from spaceevo import plugins
from spaceevo.spaces.layers import INPUT, Activation, Feature, Layer, Norm, Tracer

BLOCKS = "spaceevo.spaces.blocks"


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """What a block's declaration depends on.

    Attributes:
        in_width: Input channels.
        out_width: Output channels.
        kernel_size: As the block type reads it; odd in most.
        expand_ratio: Hidden over input width (inverted residuals) or over output width (bottlenecks).
        stride: 1 or 2.
        activation: Of the block.
    """

    in_width: int
    out_width: int
    kernel_size: int
    expand_ratio: float
    stride: int
    activation: Activation


class BlockType(NamedTuple):
    """A kind of block (a file of `blocks/`) with its activation."""

    kind: str
    activation: Activation

    def __str__(self) -> str:
        return f"{self.kind}-{self.activation.replace('_', '-')}"


class Block(NamedTuple):
    """The elastic choices of one block. `expand_ratio` 0 means that the block type has none."""

    width: int
    kernel_size: int
    expand_ratio: float


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
    def cost(self) -> Cost:
        """What the network costs, for one image."""
        width, size = 3, self.resolution
        costs = []
        for stage in self.stages:
            for index, block in enumerate(stage.blocks):
                costs.append(block_cost(stage.block_type, stage.stride if index == 0 else 1, width, size, block))
                width, size = block.width, costs[-1].out_size
        costs.append(head_cost(self.head, self.num_classes, width, size))
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
    """What layers cost, for one image.

    Attributes:
        macs: Multiply-accumulates.
        num_params: Trained parameters, without quantizers.
        num_weighted: Convolutions and linear layers.
        out_size: Height = width put out.
    """

    macs: int
    num_params: int
    num_weighted: int
    out_size: int


def total_cost(costs: Sequence[Cost]) -> Cost:
    """The sum, with the last one's output."""
    macs, num_params, num_weighted, out_sizes = zip(*costs, strict=True)
    return Cost(sum(macs), sum(num_params), sum(num_weighted), out_sizes[-1])


@cache
def block_cost(block_type: BlockType, stride: int, in_width: int, in_size: int, block: Block) -> Cost:
    """What one block costs; computed once for each argument, since few differ among many subnets."""
    return _cost(block_layers(Stage("", block_type, stride, (block,)), 0, in_width, in_size))


@cache
def head_cost(head: Head, num_classes: int, in_width: int, in_size: int) -> Cost:
    """What follows the stages costs."""
    net = Tracer()
    _trace_head(head, num_classes, Feature(INPUT, in_width, in_size), net)
    return _cost(net.layers)


def _cost(layers: Sequence[Layer]) -> Cost:
    weighted = sum(layer.kind in ("conv", "linear") for layer in layers)
    macs, num_params = sum(layer.macs for layer in layers), sum(layer.num_params for layer in layers)
    return Cost(macs, num_params, weighted, layers[-1].out_size)


@lru_cache(maxsize=4096)
def network_layers(subnet: Subnet) -> tuple[Layer, ...]:
    """The layers of a whole network in execution order; the input is `INPUT`, [3, resolution, resolution]."""
    net = Tracer()
    x = Feature(INPUT, 3, subnet.resolution)
    for stage in subnet.stages:
        x = _trace_stage(stage, x, net)
    _trace_head(subnet.head, subnet.num_classes, x, net)
    return tuple(net.layers)


@lru_cache(maxsize=65536)
def stage_layers(stage: Stage, in_width: int, in_size: int) -> tuple[Layer, ...]:
    """The layers of one stage alone; its input is `INPUT`, [in_width, in_size, in_size]."""
    net = Tracer()
    _trace_stage(stage, Feature(INPUT, in_width, in_size), net)
    return tuple(net.layers)


def block_layers(stage: Stage, index: int, in_width: int, in_size: int) -> tuple[Layer, ...]:
    """The layers of one block of a stage alone, named as in the stage; its input is `INPUT`."""
    net = Tracer()
    _trace_block(stage, index, Feature(INPUT, in_width, in_size), net)
    return tuple(net.layers)


def stage_outputs(subnet: Subnet) -> dict[str, str]:
    """For each stage, the name of the layer that puts out its result."""
    outputs: dict[str, str] = {}
    names = {stage.name for stage in subnet.stages}
    for layer in network_layers(subnet):
        stage = layer.name.split("/", 1)[0]
        if stage in names:
            outputs[stage] = layer.name
    return outputs


def _trace_head(head: Head, num_classes: int, x: Feature, net: Tracer) -> None:
    with net.scope("head"):
        if head.final_expand:
            x = net.conv("final_expand", x, head.final_expand, activation=head.activation)
        x = net.pool("pool", x)
        if head.feature_mix:
            x = net.conv("feature_mix", x, head.feature_mix, activation=head.activation, norm=head.feature_mix_norm)
        net.linear("logits", x, num_classes)


def _trace_stage(stage: Stage, x: Feature, net: Tracer) -> Feature:
    for index in range(len(stage.blocks)):
        x = _trace_block(stage, index, x, net)
    return x


def _trace_block(stage: Stage, index: int, x: Feature, net: Tracer) -> Feature:
    block = stage.blocks[index]
    spec = BlockSpec(
        in_width=x.channels,
        out_width=block.width,
        kernel_size=block.kernel_size,
        expand_ratio=block.expand_ratio,
        stride=stage.stride if index == 0 else 1,
        activation=stage.block_type.activation,
    )
    declare = plugins.load(BLOCKS, stage.block_type.kind).declare
    with net.scope(f"{stage.name}/{index}"):
        output: Feature = declare(spec, x, net)
    return output
