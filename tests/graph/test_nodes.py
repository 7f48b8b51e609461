"""Names, costs, layers, blocks and memory of programs, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from spaceevo.graph.nodes import (
    HEAD,
    INPUT,
    Node,
    Role,
    blocks,
    hard_swish_gates,
    last_reads,
    layers,
    peak_activation_bytes,
)
from spaceevo.graph.ops import Add, Conv, Depthwise, Linear
from spaceevo.graph.tensors import Shape, Tensor, square
from spaceevo.graph.trace import Tracer
from spaceevo.spaces.blocks import BLOCKS, BlockSpec


def test_names_and_wiring(small_network):
    assert {node.id: node.inputs for node in small_network} == {
        "input": (INPUT,),
        "stem": (INPUT,),
        "block/depthwise:linear": ("stem",),
        "block/depthwise:gate": ("block/depthwise:linear",),
        "block/depthwise": ("block/depthwise:linear", "block/depthwise:gate"),
        "block/se/pool": ("block/depthwise",),
        "block/se/reduce": ("block/se/pool",),
        "block/se/expand:linear": ("block/se/reduce",),
        "block/se/expand": ("block/se/expand:linear",),
        "block/se/scale": ("block/depthwise", "block/se/expand"),
        "block/add": ("block/se/scale", "stem"),
        "pool": ("block/add",),
        "logits": ("pool",),
    }


def test_shapes(small_network, small_rectangle):
    def shapes(program):
        return {layer[-1].id: (layer[0].in_shape, layer[-1].out_shape) for layer in layers(program)}

    vector = Shape(8, 1, 1)
    for program, x, feature in (
        (small_network, Shape(3, 9, 9), Shape(8, 5, 5)),  # 9 pixels, stride 2, padding 1: at 0, 2, 4, 6, 8
        (small_rectangle, Shape(3, 9, 13), Shape(8, 5, 7)),
    ):
        assert shapes(program) == {
            "input": (x, x),
            "stem": (x, feature),
            "block/depthwise": (feature, feature),
            "block/se/pool": (feature, vector),
            "block/se/reduce": (vector, Shape(4, 1, 1)),
            "block/se/expand": (Shape(4, 1, 1), vector),
            "block/se/scale": (feature, feature),
            "block/add": (feature, feature),
            "pool": (feature, vector),
            "logits": (vector, Shape(10, 1, 1)),
        }


def test_costs(small_network, small_rectangle):
    def costs(program):
        return {node.id: (node.macs, node.num_params) for node in program if node.has_weights}

    weights = {
        "stem": 3 * 3 * 3 * 8,  # 216, and two numbers per channel of the batch norm
        "block/depthwise:linear": 5 * 5 * 8,
        "block/se/reduce": 32,  # with a bias, not batch norm
        "block/se/expand:linear": 32,
        "logits": 80,
    }
    added = {"stem": 16, "block/depthwise:linear": 16, "block/se/reduce": 4, "block/se/expand:linear": 8, "logits": 10}
    for program, positions in ((small_network, 5 * 5), (small_rectangle, 5 * 7)):
        assert costs(program) == {
            name: (count * (positions if name in ("stem", "block/depthwise:linear") else 1), count + added[name])
            for name, count in weights.items()
        }
    assert sum(node.macs for node in small_network) == 10544
    assert sum(node.macs for node in small_rectangle) == 35 * (216 + 200) + 144
    assert all((node.macs, node.num_params, node.weight_shape) == (0, 0, ())
               for node in small_network if not node.has_weights)  # fmt: skip


X = square(8, 4)


def node_of(op, in_shape=X, weights=None):
    return Node("x", op, (INPUT,), in_shape, Tensor(op.out_shape(in_shape), "free"), Role("", None, "x"), weights)


def test_what_a_node_knows_of_itself():
    dense, shared = node_of(Conv(16, 3)), node_of(Depthwise(3), weights="y")
    assert (dense.out_shape, dense.weight_shape, dense.has_weights) == (square(16, 4), (16, 8, 3, 3), True)
    assert (dense.weights_id, shared.weights_id) == ("x", "y")
    assert dense.has_batch_norm
    assert not node_of(Conv(16, norm="bias")).has_batch_norm
    linear, add = node_of(Linear(10), Shape(8)), node_of(Add())
    assert (linear.has_weights, linear.has_batch_norm) == (True, False)
    assert (add.has_weights, add.has_batch_norm) == (False, False)


def test_a_layer_is_an_operator_with_its_activation(small_network):
    found = [[node.id for node in layer] for layer in layers(small_network)]
    assert found == [
        ["input"],
        ["stem"],
        ["block/depthwise:linear", "block/depthwise:gate", "block/depthwise"],
        ["block/se/pool"],
        ["block/se/reduce"],
        ["block/se/expand:linear", "block/se/expand"],
        ["block/se/scale"],
        ["block/add"],
        ["pool"],
        ["logits"],
    ]


def test_a_block_is_what_has_one_number_in_one_stage():
    net = Tracer(square(3, 8))
    x = net.input
    for stage, index in (("a", 0), ("a", 1), ("b", 0)):
        with net.part(stage, index):
            x = net.depthwise("first", x, kernel_size=3)
            x = net.depthwise("second", x, kernel_size=3)
    with net.part(HEAD):
        net.linear("logits", net.pool("pool", x), 2)
    assert [[node.id for node in block] for block in blocks(net.program)] == [
        ["input"],
        ["a/0/first", "a/0/second"],
        ["a/1/first", "a/1/second"],
        ["b/0/first", "b/0/second"],
        ["head/pool"],
        ["head/logits"],
    ]


def test_last_reads(small_network):
    numbers = {node.id: number for number, node in enumerate(small_network)}
    found = last_reads(small_network)
    assert found["stem"] == numbers["block/add"], "the shortcut reads it last"
    assert found["block/depthwise"] == numbers["block/se/scale"]
    assert found[INPUT] == numbers["stem"]
    assert "logits" not in found


def test_hard_swish_gates(small_network):
    assert hard_swish_gates(small_network) == {"block/depthwise:gate"}


def test_a_gate_of_another_tensor_or_with_another_reader_is_no_half_of_a_hard_swish():
    net = Tracer(square(4, 8))
    net.conv("conv", net.input, 4, activation="hard_swish")
    first, conv, gate, product = net.program
    assert hard_swish_gates((first, conv, gate, product)) == {"conv:gate"}
    assert hard_swish_gates((first, conv, gate)) == frozenset()
    assert hard_swish_gates((first, conv, gate, replace(product, inputs=(INPUT, "conv:gate")))) == frozenset()
    again = Node("again", Add(), ("conv", "conv:gate"), product.out_shape, product.out, product.role)
    assert hard_swish_gates((first, conv, gate, product, again)) == frozenset()


def test_peak_activation_bytes(small_network, small_rectangle):
    # Alive: input 243 + stem 200 = 443. Then stem 200 + depthwise 200 = 400; with the SE vectors 400 + 8 + 4;
    # at the product: stem, depthwise, gate 8, product = 608; at the addition: stem, product, sum = 600.
    assert peak_activation_bytes(small_network) == 608
    assert peak_activation_bytes(small_network, 4) == 4 * 608
    assert peak_activation_bytes(small_network[:2]) == 443
    # The same with 280 bytes instead of 200
    assert peak_activation_bytes(small_rectangle) == 3 * 280 + 8
    assert peak_activation_bytes(small_rectangle[:2]) == 3 * 9 * 13 + 280


def test_peak_counts_a_tensor_until_its_last_reader():
    net = Tracer(square(2, 4))  # 32 bytes
    source = net.input
    a = net.conv("a", source, 1)  # 16
    b = net.conv("b", a, 1)  # 16
    net.shortcut(b, source, stride=1)  # 1x1 to one channel: 16, then the sum 16
    # The input stays for the shortcut: at "b" 32 + 16 + 16, at "shortcut" 32 + 16 + 16 ("a" is gone)
    assert peak_activation_bytes(net.program) == 64


def test_peak_of_a_stack_of_depthwise():
    net = Tracer(square(8, 4))  # 128 bytes
    spec = BlockSpec(8, 8, (5,), 2.0, 1, "relu")
    BLOCKS.load("mbv2-k3").declare(spec, net.input, net)
    # expand 16 x 16 = 256 beside the input: 384. Two depthwise 3x3 of 256, the input kept for the shortcut:
    # 128 + 256 + 256 = 640 while either runs. project: 128 + 256 + 128; add: 3 x 128.
    assert [node.id for node in net.nodes] == ["expand", "depthwise0", "depthwise", "project", "add"]
    assert peak_activation_bytes(net.program) == 640


@pytest.mark.parametrize(("shape", "peak"), [(square(3, 8), 192 + 256), (Shape(3, 8, 12), 288 + 384)])
def test_peak_of_a_max_pool(shape, peak):
    net = Tracer(shape)
    x = net.conv("conv", net.input, 16, kernel_size=7, stride=2)  # 192 in, 256 out: 448
    x = net.max_pool("pool", x)  # 256 in, 64 out
    net.linear("logits", net.pool("mean", x), 10)
    assert peak_activation_bytes(net.program) == peak
    assert peak_activation_bytes(net.program, 4) == 4 * peak
