"""Lowering, against programs written out by hand."""

from dataclasses import replace
from typing import get_args

import pytest

from spaceevo.graph.check import program_faults
from spaceevo.graph.nodes import INPUT, Node, Role
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import Shape, Tensor, square
from spaceevo.graph.trace import Activation, Counter, Feature, Tracer, input_node, is_published, published

X = Shape(4, 6, 10)
Y = Shape(8, 3, 5)
ROLE = Role("", None, "conv")


def lowered(activation):
    net = Tracer(X)
    assert net.conv("conv", net.input, 8, kernel_size=3, stride=2, activation=activation) == Feature("conv", Y)
    first, *rest = net.program
    assert first == Node(INPUT, Quantize(), (INPUT,), X, Tensor(X, "free"), Role("", None, INPUT)) == input_node(X)
    return rest


def conv(node_id, quantizer):
    return Node(node_id, Conv(8, 3, 2), (INPUT,), X, Tensor(Y, quantizer), ROLE)


def pointwise(node_id, op, inputs, quantizer):
    return Node(node_id, op, inputs, Y, Tensor(Y, quantizer), ROLE)


@pytest.mark.parametrize(
    ("activation", "program"),
    [
        (None, [conv("conv", "free")]),
        ("relu", [conv("conv", "relu")]),
        ("relu6", [conv("conv", "relu6")]),
        (
            "hard_sigmoid",
            [
                conv("conv:linear", "hard_sigmoid_input"),
                pointwise("conv", Relabel(), ("conv:linear",), "gate"),
            ],
        ),
        (
            "sigmoid",
            [
                conv("conv:linear", "free"),
                pointwise("conv", Sigmoid(), ("conv:linear",), "gate"),
            ],
        ),
        (
            "hard_swish",
            [
                conv("conv:linear", "free"),
                pointwise("conv:gate", Gate(), ("conv:linear",), "gate"),
                pointwise("conv", Multiply(), ("conv:linear", "conv:gate"), "free"),
            ],
        ),
        (
            "swish",
            [
                conv("conv:linear", "free"),
                pointwise("conv:gate", Sigmoid(), ("conv:linear",), "gate"),
                pointwise("conv", Multiply(), ("conv:linear", "conv:gate"), "free"),
            ],
        ),
    ],
)
def test_activations(activation, program):
    assert lowered(activation) == program


def test_every_activation_is_another_program():
    programs = [tuple(lowered(activation)) for activation in (None, *get_args(Activation))]
    assert len(set(programs)) == len(programs) == 7


def test_the_other_operators():
    net = Tracer(X)
    x = net.input
    y = net.depthwise("depthwise", x, kernel_size=5, crop=2)
    y = net.depthwise("again", y, kernel_size=3, norm="none", weights="kept")
    y = net.max_pool("max", y)
    y = net.pool("pool", y)
    net.linear("logits", y, 3)
    small, smaller, vector = Shape(4, 2, 6), Shape(4, 1, 3), Shape(4)

    def role(layer):
        return Role("", None, layer)

    assert net.program[1:] == (
        Node("depthwise", Depthwise(5, crop=2), (INPUT,), X, Tensor(small, "free"), role("depthwise")),
        Node("again", Depthwise(3, norm="none"), ("depthwise",), small, Tensor(small, "free"), role("again"), "kept"),
        Node("max", MaxPool(3, 2), ("again",), small, Tensor(smaller, "input"), role("max")),
        Node("pool", Pool(), ("max",), smaller, Tensor(vector, "free"), role("pool")),
        Node("logits", Linear(3), ("pool",), vector, Tensor(Shape(3), "none"), role("logits")),
    )


def test_squeeze_excite_gates_by_a_relabelled_convolution():
    net = Tracer(square(8, 4))
    net.squeeze_excite("se", net.input, 4)
    assert [(node.id, node.op, node.out.quantizer) for node in net.nodes] == [
        ("se/pool", Pool(), "free"),
        ("se/reduce", Conv(4, norm="bias"), "relu"),
        ("se/expand:linear", Conv(8, norm="bias"), "hard_sigmoid_input"),
        ("se/expand", Relabel(), "gate"),
        ("se/scale", Multiply(per_channel=True), "free"),
    ]
    assert net.nodes[-1].inputs == (INPUT, "se/expand")


def test_squeeze_excite_of_efficient_net():
    net = Tracer(square(8, 4))
    net.squeeze_excite("se", net.input, 4, activation="swish", gate="sigmoid")
    gate = {node.id: (node.op, node.out.quantizer) for node in net.nodes}
    assert gate["se/reduce"] == (Multiply(), "free")
    assert gate["se/expand:linear"] == (Conv(8, norm="bias"), "free")
    assert gate["se/expand"] == (Sigmoid(), "gate")


@pytest.mark.parametrize(("width", "stride"), [(4, 1), (4, 2), (8, 1), (8, 2)])
def test_shortcut(width, stride):
    net = Tracer(X)
    x = net.conv("conv", net.input, width, kernel_size=3, stride=stride)
    net.shortcut(x, net.input, stride=stride, activation="relu")
    _, *convolutions, add = net.nodes
    source = INPUT if (width, stride) == (4, 1) else "shortcut"
    assert add == Node("add", Add(), ("conv", source), x.shape, Tensor(x.shape, "relu"), Role("", None, "add"))
    expected = Node("shortcut", Conv(width, 1, stride), (INPUT,), X, Tensor(x.shape, "free"),
                    Role("", None, "shortcut"))  # fmt: skip
    assert convolutions == ([] if source == INPUT else [expected])


@pytest.mark.parametrize(("width", "stride", "is_added"), [(4, 1, True), (4, 2, False), (8, 1, False)])
def test_residual(width, stride, is_added):
    net = Tracer(X)
    x = net.conv("conv", net.input, width, stride=stride)
    assert net.residual(x, net.input).id == ("add" if is_added else "conv")


def test_roles_and_ids():
    net = Tracer(X)
    with net.part("stage1", 2):
        x = net.conv("conv", net.input, 8, activation="hard_swish")
        with net.scope("se"), net.scope("inner"):
            x = net.depthwise("reduce", x, kernel_size=3, weights="kept")
    with net.part("head"):
        x = net.pool("pool", x)
    net.linear("logits", x, 3)
    assert [(node.id, node.role) for node in net.nodes] == [
        ("stage1/2/conv:linear", Role("stage1", 2, "conv")),
        ("stage1/2/conv:gate", Role("stage1", 2, "conv")),
        ("stage1/2/conv", Role("stage1", 2, "conv")),
        ("stage1/2/se/inner/reduce", Role("stage1", 2, "se/inner/reduce")),
        ("head/pool", Role("head", None, "pool")),
        ("logits", Role("", None, "logits")),
    ]
    assert net.nodes[3].weights == "se/inner/kept"
    assert net.nodes[3].weights_id == "stage1/2/se/inner/kept"


@pytest.mark.parametrize("fails", [False, True])
def test_scopes_and_parts_end(fails):
    net = Tracer(X)
    try:
        with net.part("stage", 0), net.scope("a"), net.scope("b"):
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert net.pool("pool", net.input).id == "pool"
    assert net.nodes[-1].role == Role("", None, "pool")


def test_every_operator_passes_the_check(every_operator, small_network, small_rectangle):
    for program in (every_operator, small_network, small_rectangle):
        assert program_faults(program) == ()


@pytest.mark.parametrize("shape", [square(3, 9), Shape(3, 9, 13)])
def test_counts_without_nodes(shape):
    def declare(net):
        x = net.conv("stem", net.input, 8, kernel_size=3, stride=2, activation="hard_swish")
        y = net.depthwise("depthwise", net.max_pool("smaller", x), kernel_size=5, crop=1, norm="none")
        y = net.squeeze_excite("se", y, 4, activation="swish", gate="sigmoid")
        y = net.shortcut(y, x, stride=2)
        return net.linear("logits", net.pool("pool", net.residual(y, y)), 10)

    counter, tracer = Counter(shape), Tracer(shape)
    assert declare(counter).shape == declare(tracer).shape
    weighted = [node for node in tracer.nodes if node.has_weights]
    assert counter.macs == sum(node.macs for node in weighted) > 0
    assert counter.num_params == sum(node.num_params for node in weighted)
    assert counter.num_weighted == len(weighted) == 6
    assert counter.nodes == []


def test_published_by_hand():
    net = Tracer(X)
    x = net.conv("conv", net.input, 8, kernel_size=3, stride=2, activation="relu")
    x = net.depthwise("deep", x, kernel_size=3, weights="kept")
    net.linear("logits", net.pool("pool", x), 3)
    program = published(net.program)

    def quantize(node_id, source, shape, layer):
        return Node(node_id, Quantize(), (source,), shape, Tensor(shape, "offset"), Role("", None, layer))

    conv, deep, pool, logits = (replace(node, out=node.out._replace(stays_float=True)) for node in net.program[1:])
    assert program == (
        quantize("conv:input", INPUT, X, "conv"),
        replace(conv, inputs=("conv:input",)),
        quantize("kept:input", "conv", Y, "deep"),  # a quantizer goes with the weights
        replace(deep, inputs=("kept:input",)),
        pool,
        quantize("logits:input", "pool", Shape(8), "logits"),
        replace(logits, inputs=("logits:input",)),
    )


def test_which_placement(every_operator):
    assert is_published(published(every_operator))
    assert not is_published(every_operator)
    weighted = [node for node in every_operator if node.has_weights]
    quantizers = [node for node in published(every_operator) if node.out.is_quantized]
    assert [node.id for node in quantizers] == [f"{node.weights_id}:input" for node in weighted]
    costs = [(node.macs, node.num_params) for node in weighted]
    assert [(n.macs, n.num_params) for n in published(every_operator) if n.has_weights] == costs
