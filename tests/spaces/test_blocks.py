"""What every block type must keep; runs over each file of the folder."""

from dataclasses import replace
from itertools import product

import pytest

from spaceevo.graph.check import program_faults
from spaceevo.graph.largest import elementwise_maximum
from spaceevo.graph.nodes import INPUT, SHORTCUT, layers
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Multiply, Sigmoid
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Counter, Tracer
from spaceevo.spaces.blocks import BLOCKS, BlockSpec

NAMES = BLOCKS.names()
TWO_KERNELS = ("uib",)
IDENTITY_ONLY = ("mbv2-identity", "mbv3-identity", "mbconv", "uib", "fused-ib", "fbnet-se")
CROPPED = ("fbnet-cropped", "fbnet-se-cropped")
ACTIVATIONS = ("relu", "relu6", "hard_swish", "swish")
WIDTHS = tuple(product((8, 16), (8, 24), (1, 2)))  # in_width, out_width, stride
SHAPES = (square(8, 7), Shape(8, 7, 10))
#: For a block type with two kernel sizes: for each kernel size of the tests the same in the middle, and none first.
KERNELS = {k: (0, k) for k in (3, 5)}


def spec_of(name, in_width=8, out_width=24, stride=1, kernel_size=3, expand_ratio=2.0, activation="relu"):
    kernel_sizes = KERNELS[kernel_size] if name in TWO_KERNELS else (kernel_size,)
    return BlockSpec(in_width, out_width, kernel_sizes, expand_ratio, stride, activation)


def declared(name, spec, shape=SHAPES[0]):
    net = Tracer(shape._replace(channels=spec.in_width))
    output = BLOCKS.load(name).declare(spec, net.input, net)
    return output, net.program


def convolutions(program):
    return [node for node in program if isinstance(node.op, Conv | Depthwise)]


def counts(name, spec, shape):
    """Output, MACs, parameters, and how many nodes have weights, without making the nodes."""
    net = Counter(shape._replace(channels=spec.in_width))
    output = BLOCKS.load(name).declare(spec, net.input, net)
    return output.shape, net.macs, net.num_params, net.num_weighted


def test_all_block_types_are_here():
    assert {"conv", "mbv1-dual", "mbv2", "mbv3", "bottleneck", "fused-mbconv"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output(name, in_width, out_width, stride, shape):
    output, program = declared(name, spec_of(name, in_width, out_width, stride), shape)
    height, width = (side - 2 if name in CROPPED else side for side in shape[1:])
    assert output == (program[-1].id, Shape(out_width, (height - 1) // stride + 1, (width - 1) // stride + 1))
    known = {node.id for node in program}
    assert len(known) == len(program)
    unread = known - {source for node in program[1:] for source in node.inputs}
    assert unread == {output.id}, "every tensor but the output is read"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_contract_is_kept(name, activation, shape):
    for in_width, out_width, stride in WIDTHS:
        _, program = declared(name, spec_of(name, in_width, out_width, stride, activation=activation), shape)
        assert program_faults(program) == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
def test_shortcut_is_the_identity_exactly_where_shapes_agree(name, in_width, out_width, stride):
    _, program = declared(name, spec_of(name, in_width, out_width, stride))
    additions = [node for node in program if isinstance(node.op, Add)]
    if name in ("conv", "conv-pool", *CROPPED) or (name in IDENTITY_ONLY and (stride, in_width) != (1, out_width)):
        assert not additions
        return
    (addition,) = additions
    found = [node for node in program if node.role.layer == SHORTCUT]
    if stride == 1 and in_width == out_width:
        assert addition.inputs[1] == INPUT
        assert not found
    else:
        assert addition.inputs[1] == SHORTCUT
        (convolution,) = found
        assert (convolution.inputs, convolution.op) == ((INPUT,), Conv(out_width, 1, stride))
        assert convolution.out.quantizer == "free", "no activation"


def activation_of(layer):
    """The activation that the nodes of a layer stand for."""
    first, *after = layer
    match [type(node.op) for node in after]:
        case []:
            return first.out.quantizer if first.out.quantizer in ("relu", "relu6") else None
        case [kind, product] if product is Multiply:
            return {Gate: "hard_swish", Sigmoid: "swish"}[kind]
    raise AssertionError(layer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_the_one_asked_for(name, activation):
    _, program = declared(name, spec_of(name, activation=activation))
    outer = [layer for layer in layers(program) if "/" not in layer[0].role.layer]
    assert {activation_of(layer) for layer in outer} - {None} == {activation}


def specs(name):
    for values in product((8, 16), (8, 16, 24), (1, 2), (3, 5), (0.5, 1.0, 2.0)):
        yield spec_of(name, *values)


@pytest.mark.parametrize("name", NAMES)
def test_one_elastic_node_per_id_covers_every_spec(name):
    programs = [declared(name, spec)[1] for spec in specs(name)]
    largest = elementwise_maximum(programs)
    for node in (node for program in programs for node in program):
        cover = largest[node.id]
        assert cover.in_shape.channels >= node.in_shape.channels
        assert cover.out_shape.channels >= node.out_shape.channels
        assert (type(cover.op), cover.out.quantizer) == (type(node.op), node.out.quantizer)
        # The slice that a network takes: leading channels and the centre of the kernel
        assert all(a <= b for a, b in zip(node.weight_shape, cover.weight_shape, strict=True))
        if isinstance(node.op, Conv | Depthwise):
            assert (cover.op.kernel_size - node.op.kernel_size) % 2 == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_costs_are_those_of_the_nodes(name, shape):
    for spec in specs(name):
        output, program = declared(name, spec, shape)
        macs, num_params = sum(node.macs for node in program), sum(node.num_params for node in program)
        num_weighted = sum(node.has_weights for node in program)
        assert counts(name, spec, shape) == (output.shape, macs, num_params, num_weighted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("one_thread")
def test_costs_are_those_of_the_module(name, in_width, out_width, stride, shape):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from spaceevo.nets.network import single_network

    spec = spec_of(name, in_width, out_width, stride, kernel_size=5, activation="hard_swish")
    _, program = declared(name, spec, shape)
    network = single_network(program, 127, torch.Generator().manual_seed(0)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(torch.randn(1, *program[0].in_shape), program)
    assert output.shape[1:] == program[-1].out_shape
    assert 2 * sum(node.macs for node in program) == counter.get_total_flops()
    trained = [p.numel() for key, p in network.weighted.named_parameters() if not key.endswith("weight_scale")]
    assert sum(node.num_params for node in program) == sum(trained)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("basic", "conv", "conv-pool", "mbv1-dual")])
def test_expand_ratio_matters(name):
    narrow, wide = (
        sum(node.macs for node in declared(name, spec_of(name, expand_ratio=ratio))[1]) for ratio in (1.0, 3.0)
    )
    assert wide > narrow


@pytest.mark.parametrize("name", NAMES)
def test_kernel_size_matters(name):
    three, five = (sum(node.macs for node in declared(name, spec_of(name, kernel_size=k))[1]) for k in (3, 5))
    assert five > three


def test_published_forms():
    """Layer names, kernel sizes and hidden widths as the papers have them, for 8 -> 24 channels, ratio 2, stride 2."""
    forms = {}
    for name in NAMES:
        _, program = declared(name, spec_of(name, stride=2))
        forms[name] = [(node.role.layer, node.op) for node in convolutions(program)]
    shortcut = ("shortcut", Conv(24, 1, 2))
    mbv2 = [("expand", Conv(16)), ("depthwise", Depthwise(3, 2)), ("project", Conv(24)), shortcut]
    se = [("se/reduce", Conv(8, norm="bias")), ("se/expand", Conv(16, norm="bias"))]
    expected = {
        "conv": [("conv", Conv(24, 3, 2))],
        "mbv1-dual": [
            ("depthwise1", Depthwise(3, 2)),
            ("pointwise1", Conv(24)),
            ("depthwise2", Depthwise(3)),
            ("pointwise2", Conv(24)),
            shortcut,
        ],
        "mbv2": mbv2,
        "mbv3": [*mbv2[:2], *se, *mbv2[2:]],
        "bottleneck": [("reduce", Conv(48)), ("conv", Conv(48, 3, 2)), ("expand", Conv(24)), shortcut],
        "fused-mbconv": [("conv", Conv(16, 3, 2)), ("project", Conv(24)), shortcut],
    }
    assert {name: forms[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["mbv2", "mbv3"])
def test_inverted_residual_without_expansion(name):
    _, program = declared(name, spec_of(name, expand_ratio=1.0))
    assert program[1].id == "depthwise"


@pytest.mark.parametrize(
    ("kernel_sizes", "form"),
    [
        (
            (3, 5),
            [("start", Depthwise(3)), ("expand", Conv(16)), ("depthwise", Depthwise(5, 2)), ("project", Conv(24))],
        ),
        ((5, 0), [("start", Depthwise(5, 2)), ("expand", Conv(16)), ("project", Conv(24))]),
        ((0, 3), [("expand", Conv(16)), ("depthwise", Depthwise(3, 2)), ("project", Conv(24))]),
        ((0, 0), [("expand", Conv(16, 1, 2)), ("project", Conv(24))]),
    ],
)
def test_forms_of_the_universal_inverted_bottleneck(kernel_sizes, form):
    spec = replace(spec_of("uib", stride=2), kernel_sizes=kernel_sizes)
    _, program = declared("uib", spec)
    assert [(node.role.layer, node.op) for node in convolutions(program)] == form


def test_a_block_type_with_one_kernel_size_is_not_given_two():
    with pytest.raises(ValueError, match="too many values"):
        declared("mbv2", replace(spec_of("mbv2"), kernel_sizes=(3, 5)))
