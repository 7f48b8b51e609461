"""Random graphs keep the quantization contract and stay alive to the last layer."""

import random

import numpy as np
import pytest
import torch

from spaceevo.graph.tensors import FIXED_QUANTIZERS, RELU6_MAX_SCALE
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.executors import run_integer
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program

pytestmark = pytest.mark.usefixtures("one_thread")


def program(block, seed=0):
    space = load_hyperspace("micro").space(SpaceChoice((block,) * 3, (0, 1, 2)), 10)
    return network_program(space.sample(random.Random(seed)))


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("w_qmax", [63, 127])
def test_contract(block, w_qmax):
    graph = random_integer_graph(program(block), seed=1, w_qmax=w_qmax)
    for node in graph.nodes:
        if node.out.quantizer == "none":
            assert node.id not in graph.quant_params
            continue
        params = graph.quant_params[node.id]
        assert params.scale > 0
        assert params.scale == np.float32(params.scale)
        assert 0 <= params.zero_point <= 255
        if node.out.quantizer in FIXED_QUANTIZERS:
            assert (params.scale, params.zero_point) == FIXED_QUANTIZERS[node.out.quantizer]
        if node.out.quantizer in ("relu", "relu6"):
            assert params.zero_point == 0
        if node.out.quantizer == "relu6":
            assert params.scale <= np.float32(RELU6_MAX_SCALE)
    for node in graph.nodes:
        if node.has_weights:
            own = graph.weights[node.id]
            assert own.codes.dtype == np.int8
            assert own.codes.shape == node.weight_shape
            assert abs(own.codes.astype(int)).max() <= w_qmax
            assert (own.codes < 0).any()
            assert own.scales.dtype == np.float32
            assert (own.scales > 0).all()
            assert own.bias.dtype == np.int32


@pytest.mark.parametrize("block", range(5))
def test_no_tensor_is_dead_or_saturated(block):
    graph = random_integer_graph(program(block), seed=2)
    size = graph.nodes[0].in_shape.height
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    shares = {}

    def see(name, codes):
        zero, top = (float((codes == code).float().mean()) for code in (0, 255))
        shares[name] = (zero, top, len(codes.unique()))

    logits = run_integer(graph, images, see)
    for name, (zero, top, distinct) in shares.items():
        assert zero < 0.9, name
        assert top < 0.3, name
        assert distinct > 8, name
    assert 0.1 < logits.std() < 10


def test_seed_decides():
    first, again, other = (random_integer_graph(program(2), seed) for seed in (1, 1, 2))
    assert first.quant_params == again.quant_params
    name = "head/logits"
    assert (first.weights[name].codes == again.weights[name].codes).all()
    assert (first.weights[name].codes != other.weights[name].codes).any()


def test_float_twin_has_the_same_weights():
    integer, twin = random_integer_graph(program(1), seed=3), random_float_graph(program(1), seed=3)
    own, floats = integer.weights["head/logits"], twin.weights["head/logits"]
    np.testing.assert_allclose(floats.weight, own.codes * own.scales[:, None], rtol=1e-6)
    step = integer.quant_params["head/feature_mix"].scale * own.scales
    np.testing.assert_allclose(floats.bias, own.bias * step, rtol=1e-5)
    assert floats.weight.dtype == floats.bias.dtype == np.float32
