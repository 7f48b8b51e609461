"""Programs of networks, stages and blocks, on squares and rectangles."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.graph.check import program_faults
from spaceevo.graph.nodes import HEAD, INPUT, blocks
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Tracer
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import (
    block_cost,
    block_program,
    head_cost,
    network_program,
    stage_outputs,
    stage_program,
    total_cost,
)
from spaceevo.spaces.zoo import load_network, zoo

MICRO = load_hyperspace("micro")
NETWORKS = ("MobileNetV3-Large", "MobileNetV4-Conv-Small", "EfficientNet-B0", "FBNetV3-A", "ResNet-50")
micro_subnets = st.integers(0, 2**32).map(lambda seed: sampled(random.Random(seed)))


def sampled(rng):
    return MICRO.space(MICRO.sample(rng), 10).sample(rng)


def traced(subnet, shape):
    """A network on an input of any shape, written out."""
    net = Tracer(shape)
    x = net.input
    for stage in subnet.stages:
        declare = BLOCKS.load(stage.block_type.kind).declare
        for index, block in enumerate(stage.blocks):
            sizes = block.kernel_size if isinstance(block.kernel_size, tuple) else (block.kernel_size,)
            stride, activation = (1 if index else stage.stride), stage.block_type.activation
            spec = BlockSpec(x.channels, block.width, sizes, block.expand_ratio, stride, activation, block.added)
            with net.part(stage.name, index):
                x = declare(spec, x, net)
    head = subnet.head
    with net.part(HEAD):
        if head.final_expand:
            x = net.conv("final_expand", x, head.final_expand, activation=head.activation)
        x = net.pool("pool", x)
        if head.feature_mix:
            norm = head.feature_mix_norm
            x = net.conv("feature_mix", x, head.feature_mix, activation=head.activation, norm=norm)
        net.linear("logits", x, subnet.num_classes)
    return net.program


def costs(subnet, shape):
    """What the blocks and the head cost, from costs alone."""
    parts = []
    for stage in subnet.stages:
        for index, block in enumerate(stage.blocks):
            parts.append(block_cost(stage.block_type, 1 if index else stage.stride, shape, block))
            shape = parts[-1].out_shape
    parts.append(head_cost(subnet.head, subnet.num_classes, shape))
    return total_cost(parts)


@settings(max_examples=30)
@given(micro_subnets)
def test_a_network_is_its_declarations(subnet):
    assert network_program(subnet) == traced(subnet, square(3, subnet.resolution))
    assert network_program(subnet) is network_program(subnet), "made once"


@pytest.mark.parametrize("name", zoo())
def test_networks_of_the_zoo_are_their_declarations(name):
    subnet = load_network(name).subnet
    assert network_program(subnet) == traced(subnet, subnet.in_shape)


@settings(max_examples=30)
@given(micro_subnets, st.integers(16, 48), st.integers(16, 48))
def test_a_rectangle_has_the_height_of_one_square_and_the_width_of_another(subnet, height, width):
    program = traced(subnet, Shape(3, height, width))
    tall, wide = traced(subnet, square(3, height)), traced(subnet, square(3, width))
    assert program_faults(program) == ()
    for node, a, b in zip(program, tall, wide, strict=True):
        assert (node.id, node.op, node.role) == (a.id, a.op, a.role) == (b.id, b.op, b.role)
        assert a.out_shape.height == a.out_shape.width
        assert node.out_shape == Shape(a.out_shape.channels, a.out_shape.height, b.out_shape.width)
        assert node.num_params == a.num_params
        assert node.macs * a.out_shape.height == a.macs * b.out_shape.width
    found = costs(subnet, Shape(3, height, width))
    assert found == (
        sum(node.macs for node in program),
        sum(node.num_params for node in program),
        sum(node.has_weights for node in program),
        Shape(10),
    )


def test_micro_on_24_x_40():
    subnet = MICRO.space(MICRO.decode("micro-012-000"), 10).smallest()
    program = traced(subnet, Shape(3, 24, 40))
    assert program_faults(program) == ()
    outputs = stage_outputs(subnet)
    shapes = {node.id: node.out_shape for node in program}
    assert [stage.stride for stage in subnet.stages] == [2, 1, 2, 2]
    assert [shapes[outputs[stage.name]][1:] for stage in subnet.stages] == [(12, 20), (12, 20), (6, 10), (3, 5)]
    nodes = {node.id: node for node in program}
    assert nodes["stem/0/conv"].macs == 27 * 16 * 12 * 20
    assert (
        nodes["head/final_expand"].macs == nodes["head/final_expand"].in_shape.channels * subnet.head.final_expand * 15
    )
    assert shapes["head/pool"] == Shape(subnet.head.final_expand)


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_on_rectangles(name):
    subnet = load_network(name).subnet
    program = traced(subnet, Shape(3, 160, 256))
    assert program_faults(program) == ()
    assert costs(subnet, Shape(3, 160, 256)).macs == sum(node.macs for node in program)
    assert sum(node.num_params for node in program) == subnet.num_params


@settings(max_examples=20)
@given(micro_subnets)
def test_parts_are_parts_of_the_network(subnet):
    """A stage, and a block, alone: the nodes of the network, but that the first ones read the input."""
    program = network_program(subnet)
    shape = subnet.in_shape
    for stage in subnet.stages:
        whole = [node for node in program if node.role.stage == stage.name]
        alone = stage_program(stage, shape)
        assert [(n.id, n.op, n.in_shape, n.out, n.role) for n in alone[1:]] == [
            (n.id, n.op, n.in_shape, n.out, n.role) for n in whole
        ]
        in_shape = shape
        for index, block in enumerate(list(blocks(whole))):
            part = block_program(stage, index, in_shape)
            assert [node.id for node in part[1:]] == [node.id for node in block]
            for nodes in (alone, part):
                assert (nodes[0].id, nodes[0].out_shape) == (INPUT, nodes[1].in_shape)
                assert program_faults(nodes) == ()
            in_shape = part[-1].out_shape
        shape = alone[-1].out_shape


def test_costs_add_up():
    subnet = sampled(random.Random(0))
    assert subnet.cost == costs(subnet, subnet.in_shape)
    assert (subnet.macs, subnet.num_params) == subnet.cost[:2]


def test_a_kernel_size_that_is_none():
    spec = BlockSpec(8, 8, (3, 5), 2.0, 1, "relu")
    with pytest.raises(ValueError):
        assert spec.kernel_size
