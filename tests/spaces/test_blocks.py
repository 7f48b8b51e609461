"""What every block type must keep; runs over each file of the folder."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spaceevo import plugins
from spaceevo.nets.network import single_network
from spaceevo.spaces.layers import INPUT, Feature, Tracer
from spaceevo.spaces.operators import elementwise_maximum, operators
from spaceevo.spaces.subnet import BLOCKS, BlockSpec

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = plugins.names(BLOCKS)
IDENTITY_ONLY = ("mbv2-identity", "mbv3-identity", "mbconv", "uib", "fused-ib", "fbnet-se")
CROPPED = ("fbnet-cropped", "fbnet-se-cropped")
ACTIVATIONS = ("relu", "relu6", "hard_swish", "swish")
SHAPES = tuple(product((8, 16), (8, 24), (1, 2)))  # in_width, out_width, stride
SIZE = 7


def spec_of(in_width=8, out_width=24, stride=1, kernel_size=3, expand_ratio=2.0, activation="relu"):
    return BlockSpec(in_width, out_width, kernel_size, expand_ratio, stride, activation)


def declared(name, spec):
    net = Tracer()
    output = plugins.load(BLOCKS, name).declare(spec, Feature(INPUT, spec.in_width, SIZE), net)
    return output, tuple(net.layers)


def test_all_block_types_are_here():
    assert {"conv", "mbv1-dual", "mbv2", "mbv3", "bottleneck", "fused-mbconv"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), SHAPES)
def test_output(name, in_width, out_width, stride):
    output, layers = declared(name, spec_of(in_width, out_width, stride))
    size = SIZE - 2 if name in CROPPED else SIZE
    assert output == Feature(layers[-1].name, out_width, (size - 1) // stride + 1)
    assert len({layer.name for layer in layers}) == len(layers)
    known = {INPUT}
    for layer in layers:
        assert set(layer.inputs) <= known, "a layer reads what was put out before it"
        known.add(layer.name)
    unread = known - {source for layer in layers for source in layer.inputs}
    assert unread == {output.name}, "every tensor but the output is read"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), SHAPES)
def test_shortcut_is_the_identity_exactly_where_shapes_agree(name, in_width, out_width, stride):
    _, layers = declared(name, spec_of(in_width, out_width, stride))
    additions = [layer for layer in layers if layer.kind == "add"]
    if name in ("conv", "conv-pool", *CROPPED) or (name in IDENTITY_ONLY and (stride, in_width) != (1, out_width)):
        assert not additions
        return
    (addition,) = additions
    convolutions = [layer for layer in layers if layer.name == "shortcut"]
    if stride == 1 and in_width == out_width:
        assert addition.inputs[1] == INPUT
        assert not convolutions
    else:
        assert addition.inputs[1] == "shortcut"
        assert [(c.inputs, c.kernel_size, c.stride, c.activation) for c in convolutions] == [
            ((INPUT,), 1, stride, None)
        ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_the_one_asked_for(name, activation):
    _, layers = declared(name, spec_of(activation=activation))
    used = {layer.activation for layer in layers if "/" not in layer.name and layer.activation}
    assert used == {activation}


def specs():
    for values in product((8, 16), (8, 16, 24), (1, 2), (3, 5), (0.5, 1.0, 2.0)):
        yield spec_of(*values)


@pytest.mark.parametrize("name", NAMES)
def test_one_elastic_operator_per_name_covers_every_spec(name):
    programs = [operators(declared(name, spec)[1]) for spec in specs()]
    largest = elementwise_maximum(programs)
    for operator in (operator for program in programs for operator in program):
        cover = largest[operator.name]
        assert cover.in_channels >= operator.in_channels
        assert cover.out_channels >= operator.out_channels
        assert cover.kernel_size >= operator.kernel_size
        same = ("kind", "quantizer", "depthwise")
        assert [getattr(cover, key) for key in same] == [getattr(operator, key) for key in same]
        # The slice that a network takes: leading channels and the centre of the kernel
        assert all(a <= b for a, b in zip(operator.weight_shape, cover.weight_shape, strict=True))
        assert (cover.kernel_size - operator.kernel_size) % 2 == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_width", "out_width", "stride"), SHAPES)
def test_costs_are_those_of_the_module(name, in_width, out_width, stride):
    _, layers = declared(name, spec_of(in_width, out_width, stride, kernel_size=5, activation="hard_swish"))
    program = operators(layers)
    network = single_network(program, 127, torch.Generator().manual_seed(0)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(torch.randn(1, in_width, SIZE, SIZE), program)
    assert output.shape[1:] == (layers[-1].out_channels, layers[-1].out_size, layers[-1].out_size)
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops()
    assert sum(layer.macs for layer in layers) == sum(operator.macs for operator in program)
    trained = [p.numel() for key, p in network.weighted.named_parameters() if not key.endswith("weight_scale")]
    assert sum(layer.num_params for layer in layers) == sum(trained)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("basic", "conv", "conv-pool", "mbv1-dual")])
def test_expand_ratio_matters(name):
    narrow, wide = (sum(layer.macs for layer in declared(name, spec_of(expand_ratio=e))[1]) for e in (1.0, 3.0))
    assert wide > narrow


@pytest.mark.parametrize("name", NAMES)
def test_kernel_size_matters(name):
    spec = spec_of()
    three, five = (sum(o.macs for o in declared(name, replace(spec, kernel_size=k))[1]) for k in (3, 5))
    assert five > three


def test_published_forms():
    """Layer names, kernel sizes and hidden widths as the papers have them, for 8 -> 24 channels, ratio 2, stride 2."""
    forms = {}
    for name in NAMES:
        _, layers = declared(name, spec_of(stride=2))
        forms[name] = [
            (x.name, x.kernel_size, x.stride, x.out_channels, x.depthwise) for x in layers if x.kind == "conv"
        ]
    shortcut = ("shortcut", 1, 2, 24, False)
    mbv2 = [("expand", 1, 1, 16, False), ("depthwise", 3, 2, 16, True), ("project", 1, 1, 24, False), shortcut]
    expected = {
        "conv": [("conv", 3, 2, 24, False)],
        "mbv1-dual": [
            ("depthwise1", 3, 2, 8, True),
            ("pointwise1", 1, 1, 24, False),
            ("depthwise2", 3, 1, 24, True),
            ("pointwise2", 1, 1, 24, False),
            shortcut,
        ],
        "mbv2": mbv2,
        "mbv3": [*mbv2[:2], ("se/reduce", 1, 1, 8, False), ("se/expand", 1, 1, 16, False), *mbv2[2:]],
        "bottleneck": [("reduce", 1, 1, 48, False), ("conv", 3, 2, 48, False), ("expand", 1, 1, 24, False), shortcut],
        "fused-mbconv": [("conv", 3, 2, 16, False), ("project", 1, 1, 24, False), shortcut],
    }
    assert {name: forms[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["mbv2", "mbv3"])
def test_inverted_residual_without_expansion(name):
    _, layers = declared(name, spec_of(expand_ratio=1.0))
    assert layers[0].name == "depthwise"
