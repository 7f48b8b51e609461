"""Shapes, costs and memory against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo import plugins
from spaceevo.spaces.layers import INPUT, Feature, Layer, Tracer, make_divisible, peak_activation_bytes
from spaceevo.spaces.subnet import BLOCKS, BlockSpec


@given(st.floats(0, 5000), st.sampled_from([1, 2, 4, 8, 16]))
def test_make_divisible(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value
    nearest = abs(rounded - value) <= divisor / 2
    too_far_down = rounded - divisor < 0.9 * value and rounded - value < divisor
    assert nearest or too_far_down or rounded == divisor


@pytest.mark.parametrize(("value", "rounded"), [(0, 8), (11.9, 16), (12, 16), (19, 24), (36, 40), (35, 32), (100, 104)])
def test_make_divisible_by_hand(value, rounded):
    # 11.9 and 19 would go down to 8 and 16, which is more than 10 %
    assert make_divisible(value) == rounded


@pytest.fixture
def small_network():
    """A stem, a depthwise layer with SE, an addition, and a head, on 3 x 9 x 9."""
    net = Tracer()
    x = net.conv("stem", Feature(INPUT, 3, 9), 8, kernel_size=3, stride=2, activation="relu")
    with net.scope("block"):
        source = x
        x = net.depthwise("depthwise", x, kernel_size=5, activation="hard_swish")
        x = net.squeeze_excite("se", x, 4)
        x = net.shortcut(x, source, stride=1)
    x = net.pool("pool", x)
    net.linear("logits", x, 10)
    return net.layers


def test_names_and_wiring(small_network):
    assert {layer.name: layer.inputs for layer in small_network} == {
        "stem": (INPUT,),
        "block/depthwise": ("stem",),
        "block/se/pool": ("block/depthwise",),
        "block/se/reduce": ("block/se/pool",),
        "block/se/expand": ("block/se/reduce",),
        "block/se/scale": ("block/depthwise", "block/se/expand"),
        "block/add": ("block/se/scale", "stem"),
        "pool": ("block/add",),
        "logits": ("pool",),
    }


def test_shapes(small_network):
    shapes = {layer.name: (layer.in_channels, layer.in_size, layer.out_channels, layer.out_size)
              for layer in small_network}  # fmt: skip
    assert shapes == {
        "stem": (3, 9, 8, 5),  # 9 pixels, stride 2, padding 1: at 0, 2, 4, 6, 8
        "block/depthwise": (8, 5, 8, 5),
        "block/se/pool": (8, 5, 8, 1),
        "block/se/reduce": (8, 1, 4, 1),
        "block/se/expand": (4, 1, 8, 1),
        "block/se/scale": (8, 5, 8, 5),
        "block/add": (8, 5, 8, 5),
        "pool": (8, 5, 8, 1),
        "logits": (8, 1, 10, 1),
    }


def test_costs(small_network):
    costs = {layer.name: (layer.macs, layer.num_params) for layer in small_network}
    assert costs == {
        "stem": (5 * 5 * 3 * 3 * 3 * 8, 3 * 3 * 3 * 8 + 16),  # 5400, 232
        "block/depthwise": (5 * 5 * 5 * 5 * 8, 5 * 5 * 8 + 16),  # 5000, 216
        "block/se/pool": (0, 0),
        "block/se/reduce": (32, 32 + 4),  # with a bias, not batch norm
        "block/se/expand": (32, 32 + 8),
        "block/se/scale": (0, 0),
        "block/add": (0, 0),
        "pool": (0, 0),
        "logits": (80, 80 + 10),
    }
    assert sum(layer.macs for layer in small_network) == 10544


def test_shortcut_by_convolution():
    net = Tracer()
    source = Feature(INPUT, 8, 6)
    x = net.conv("conv", source, 16, kernel_size=3, stride=2)
    net.shortcut(x, source, stride=2, activation="relu")
    _, shortcut, add = net.layers
    assert shortcut == Layer("shortcut", "conv", (INPUT,), 8, 16, 6, 3, kernel_size=1, stride=2)
    assert add == Layer("add", "add", ("conv", "shortcut"), 16, 16, 3, 3, activation="relu")


@pytest.mark.parametrize(
    ("size", "stride", "kernel_size"), [(s, t, k) for s in (1, 7, 8) for t in (1, 2) for k in (1, 3, 5)]
)
def test_out_size_is_that_of_a_padded_convolution(size, stride, kernel_size):
    padded = size + 2 * (kernel_size // 2)
    positions = len(range(0, padded - kernel_size + 1, stride))
    x = Tracer().conv("conv", Feature(INPUT, 1, size), 1, kernel_size=kernel_size, stride=stride)
    assert x.size == positions


def test_scopes_end():
    net = Tracer()
    with net.scope("a"), net.scope("b"):
        pass
    assert net.pool("pool", Feature(INPUT, 1, 2)).name == "pool"


def test_peak_activation_bytes(small_network):
    # Alive: input 243 + stem 200 = 443. Then stem 200 + depthwise 200 = 400; with the SE vectors 400 + 8 + 4;
    # at the product: stem, depthwise, gate 8, product = 608; at the addition: stem, product, sum = 600.
    assert peak_activation_bytes(small_network) == 608
    assert peak_activation_bytes(small_network, 4) == 4 * 608
    assert peak_activation_bytes(small_network[:1]) == 443


def test_peak_counts_a_tensor_until_its_last_reader():
    net = Tracer()
    source = Feature(INPUT, 2, 4)  # 32 bytes
    a = net.conv("a", source, 1)  # 16
    b = net.conv("b", a, 1)  # 16
    net.shortcut(b, source, stride=1)  # 1x1 to one channel: 16, then the sum 16
    # The input stays for the shortcut: at "b" 32 + 16 + 16, at "shortcut" 32 + 16 + 16 ("a" is gone)
    assert peak_activation_bytes(net.layers) == 64


def test_peak_of_a_stack_of_depthwise():
    x, net = Feature(INPUT, 8, 4), Tracer()  # 128 bytes
    spec = BlockSpec(8, 8, 5, 2.0, 1, "relu")
    plugins.load(BLOCKS, "mbv2-k3").declare(spec, x, net)
    # expand 16 x 16 = 256 beside the input: 384. Two depthwise 3x3 of 256, the input kept for the shortcut:
    # 128 + 256 + 256 = 640 while either runs. project: 128 + 256 + 128; add: 3 x 128.
    assert [layer.name for layer in net.layers] == ["expand", "depthwise0", "depthwise", "project", "add"]
    assert peak_activation_bytes(net.layers) == 640


def test_peak_of_a_max_pool():
    net = Tracer()
    x = net.conv("conv", Feature(INPUT, 3, 8), 16, kernel_size=7, stride=2)  # 192 in, 256 out: 448
    x = net.max_pool("pool", x)  # 256 in, 64 out
    net.linear("logits", net.pool("mean", x), 10)
    assert peak_activation_bytes(net.layers) == 448
    assert peak_activation_bytes(net.layers, 4) == 4 * 448
