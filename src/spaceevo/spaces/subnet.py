"""One architecture as a frozen value, and the layers it consists of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from spaceevo import plugins
from spaceevo.spaces.layers import INPUT, Activation, Feature, Layer, Tracer

BLOCKS = "spaceevo.spaces.blocks"


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """What a block's declaration depends on.

    Attributes:
        in_width: Input channels.
        out_width: Output channels.
        kernel_size: Odd.
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


@dataclass(frozen=True, slots=True)
class BlockType:
    """A kind of block (a file of `blocks/`) with its activation."""

    kind: str
    activation: Activation

    def __str__(self) -> str:
        return f"{self.kind}-{self.activation.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Block:
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
        final_expand: Width of the last 1x1 convolution on the feature map.
        feature_mix: Width of the 1x1 convolution on the pooled feature.
        activation: Of both.
    """

    final_expand: int
    feature_mix: int
    activation: Activation


@dataclass(frozen=True, slots=True)
class Subnet:
    """One architecture: everything that its layers depend on, nothing else."""

    resolution: int
    stages: tuple[Stage, ...]
    head: Head
    num_classes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in network_layers(self))

    @property
    def num_params(self) -> int:
        """Trained parameters, without quantizers."""
        return sum(layer.num_params for layer in network_layers(self))


@lru_cache(maxsize=4096)
def network_layers(subnet: Subnet) -> tuple[Layer, ...]:
    """The layers of a whole network in execution order; the input is `INPUT`, [3, resolution, resolution]."""
    net = Tracer()
    x = Feature(INPUT, 3, subnet.resolution)
    for stage in subnet.stages:
        x = _trace_stage(stage, x, net)
    with net.scope("head"):
        x = net.conv("final_expand", x, subnet.head.final_expand, activation=subnet.head.activation)
        x = net.pool("pool", x)
        x = net.conv("feature_mix", x, subnet.head.feature_mix, activation=subnet.head.activation)
        net.linear("logits", x, subnet.num_classes)
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
