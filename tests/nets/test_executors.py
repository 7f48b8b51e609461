"""Both executors and ONNX Runtime against numbers worked out by hand, and against each other."""

import random

import numpy as np
import pytest
import torch

from made_models import made_node
from spaceevo.graph.graphs import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.ops import Add, Conv, Gate, Linear, Multiply, Pool, Quantize, Relabel, Sigmoid
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Tracer
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.nets.executors import run_fake_quantized, run_integer
from spaceevo.nets.network import single_network
from spaceevo.records import Arithmetic
from spaceevo.runtimes import onnxruntime as runtime
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program

pytestmark = pytest.mark.usefixtures("one_thread")


def onnx_runtime(graph, images, folder):
    runtime.export_int8(graph, folder / "part.onnx", {})
    assert runtime.float_operators(folder / "part.onnx") == ()
    return torch.from_numpy(runtime.Session(folder / "part.onnx").run(images.numpy()))


EXECUTORS = {
    "integer": lambda graph, images, _: run_integer(graph, images),
    "fake_quantized": lambda graph, images, _: run_fake_quantized(graph, images),
    "onnxruntime": onnx_runtime,
}


SQUARE = square(1, 2)
INPUT = made_node("input", Quantize(), ("input",), SQUARE)
IMAGE = torch.tensor([[[[1.0, -1.0], [2.0, 0.5]]]])
# At scale 0.5 and zero point 3, IMAGE has the codes 5, 1, 7, 4: 2, -2, 4, 1 above the zero point.
X = QuantParams(0.5, 3)
# 2 - 2 + 4 + 1 = 5 times 0.5 / 4 is 0.625, at scale 0.25 2.5 steps: half to even gives 2, code 9, value 0.5.
POOL, POOLED = made_node("pool", Pool(), ("input",), SQUARE), QuantParams(0.25, 7)


def weights(codes, scale, bias):
    codes = np.array(codes, np.int8).reshape(1, 1, *np.shape(codes))
    return IntegerWeights(codes, np.array([scale], np.float32), np.array([bias], np.int32))


@pytest.fixture(params=EXECUTORS)
def check(request, tmp_path):
    def run(program, quant_params, own, codes, image=IMAGE):
        graph = IntegerGraph(program, quant_params, own)
        params = quant_params[program[-1].id]
        expected = params.scale * (torch.tensor(codes, dtype=torch.float32) - params.zero_point)
        output = EXECUTORS[request.param](graph, image, tmp_path)
        torch.testing.assert_close(output[0, 0], expected, rtol=0, atol=1e-6)

    return run


def test_conv(check):
    # Accumulators, with the zero padding exact (row by row: left -3, centre 2, right 1), bias 1:
    #   2*2 + 1*-2 + 1 = 3    -3*2 + 2*-2 + 1 = -9    2*4 + 1*1 + 1 = 10    -3*4 + 2*1 + 1 = -9
    # times 0.5 * 0.25 / 0.25 = 0.5 is 1.5, -4.5, 5, -4.5: half to even 2, -4, 5, -4, plus the zero point 10
    conv = made_node("conv", Conv(1, 3), ("input",), SQUARE)
    own = {"conv": weights([[0, 0, 0], [-3, 2, 1], [0, 0, 0]], 0.25, 1)}
    check((INPUT, conv), {"input": X, "conv": QuantParams(0.25, 10)}, own, [[12, 6], [15, 6]])


def test_add_with_relu(check):
    # The convolution doubles: values 2, -2, 4, 1. Sums 3, -3, 6, 1.5; at scale 0.7: 4.29, -4.29, 8.57, 2.14.
    double = made_node("double", Conv(1), ("input",), SQUARE)
    add = made_node("add", Add(), ("input", "double"), SQUARE, "relu")
    params = {"input": X, "double": QuantParams(0.25, 100), "add": QuantParams(0.7, 0)}
    check((INPUT, double, add), params, {"double": weights([[2]], 1.0, 0)}, [[4, 0], [9, 2]])


class Value:
    """What a made-up runtime makes of sums: values in steps of 0.5 that an addition reads as they are."""

    def __init__(self, sums, x, weights):
        self.values = 0.5 * sums

    def codes(self, y):
        return np.rint(self.values / y.scale).clip(0, 255) + y.zero_point

    def codes_of_sum(self, a, b_codes, b, y):
        assert (a.zero_point, b.zero_point) == (100, 3)
        return np.rint((self.values + b.scale * (b_codes - b.zero_point)) / y.scale) + y.zero_point


@pytest.mark.parametrize("summands", [("input", "half"), ("half", "input")])
@pytest.mark.parametrize("run", [run_integer, run_fake_quantized])
def test_a_convolution_that_a_runtime_adds_unrounded(run, summands):
    # Values 1, -1, 2, 0.5 above; the convolution's are the same, which it has no codes for (its scale is 64)
    half = made_node("half", Conv(1), ("input",), SQUARE)
    add = made_node("add", Add(), summands, SQUARE)
    params = {"input": X, "half": QuantParams(64.0, 100), "add": QuantParams(0.25, 50)}
    graph = IntegerGraph((INPUT, half, add), params, {"half": weights([[1]], 1.0, 7)})  # whose bias it leaves out
    codes = {}
    unrounded = Arithmetic(convolution=Value, added_unrounded=lambda program: frozenset({program[1].id}))
    run(graph, IMAGE, codes.__setitem__, unrounded)
    assert codes["half"].flatten().tolist() == [100] * 4
    assert codes["add"].flatten().tolist() == [50 + 8 * value for value in (1, -1, 2, 0.5)]
    run(graph, IMAGE, codes.__setitem__, Arithmetic(convolution=Value))
    assert codes["half"].flatten().tolist() == [100] * 4
    assert codes["add"].flatten().tolist() == [50 + 4 * value for value in (1, -1, 2, 0.5)], "of the codes"


def test_gate(check):
    # x / 6 + 0.5 in units of 1 / 256: 170.67, 85.33, then 298.67 and -42.67, which are clamped
    gate = made_node("gate", Gate(), ("input",), SQUARE, "gate")
    params = {"input": QuantParams(0.5, 20), "gate": QuantParams(1 / 256, 0)}
    check((INPUT, gate), params, {}, [[171, 85], [255, 0]], torch.tensor([[[[1.0, -1.0], [4.0, -4.0]]]]))


def test_sigmoid(check):
    # 256 / (1 + exp(-x)): 187.15, 68.85, 225.49, 159.35
    sigmoid = made_node("sigmoid", Sigmoid(), ("input",), SQUARE, "gate")
    check((INPUT, sigmoid), {"input": X, "sigmoid": QuantParams(1 / 256, 0)}, {}, [[187, 69], [225, 159]])


def test_relabel(check):
    # A convolution by 1 to scale 6 / 256, zero point 128: x * 256 / 6 = 42.67, -42.67, 85.33, 21.33.
    # The same codes at 1 / 256 are x / 6 + 0.5.
    conv = made_node("linear", Conv(1), ("input",), SQUARE, "hard_sigmoid_input")
    relabel = made_node("hard_sigmoid", Relabel(), ("linear",), SQUARE, "gate")
    params = {"input": X, "linear": QuantParams(6 / 256, 128), "hard_sigmoid": QuantParams(1 / 256, 0)}
    check((INPUT, conv, relabel), params, {"linear": weights([[1]], 1.0, 0)}, [[171, 85], [213, 149]])


def test_pool(check):
    check((INPUT, POOL), {"input": X, "pool": POOLED}, {}, [[9]])


def test_multiply_by_one_gate_per_channel(check):
    # The pool gives 0.5: products 0.5, -0.5, 1, 0.25 are 4, -4, 8, 2 steps of 0.125 above the zero point 50
    multiply = made_node("multiply", Multiply(per_channel=True), ("input", "pool"), SQUARE)
    params = {"input": X, "pool": POOLED, "multiply": QuantParams(0.125, 50)}
    check((INPUT, POOL, multiply), params, {}, [[54, 46], [58, 52]])


def test_linear(tmp_path):
    # The pool's code is 2 above its zero point: (2 * 3 + 5) * 0.25 * 0.5 and (2 * -4 - 1) * 0.25 * 2
    linear = made_node("logits", Linear(2), ("pool",), Shape(1), "none")
    own = IntegerWeights(np.array([[3], [-4]], np.int8), np.array([0.5, 2.0], np.float32), np.array([5, -1], np.int32))
    graph = IntegerGraph((INPUT, POOL, linear), {"input": X, "pool": POOLED}, {"logits": own})
    for run in EXECUTORS.values():
        torch.testing.assert_close(run(graph, IMAGE, tmp_path), torch.tensor([[1.375, -4.5]]))


def random_graph(block, w_qmax):
    space = load_hyperspace("micro").space(SpaceChoice((block,) * 3, (0, 1, 2)), 10)
    program = network_program(space.sample(random.Random(block)))
    return random_integer_graph(program, seed=block, w_qmax=w_qmax)


def coarse_images(size, count=24):
    """Images that differ clearly: random 4 x 4 patterns."""
    patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(patterns * 1.5, size=(size, size), mode="bilinear")


@pytest.mark.parametrize("w_qmax", [63, 127])
def test_executors_agree(w_qmax):
    same = total = 0
    for block in range(5):
        graph = random_graph(block, w_qmax)
        images = coarse_images(graph.nodes[0].in_shape.height)
        codes, fake_codes = {}, {}
        logits = run_integer(graph, images, codes.__setitem__)
        fake_logits = run_fake_quantized(graph, images, fake_codes.__setitem__)
        assert list(codes) == list(fake_codes) == [node.id for node in graph.nodes[:-1]]
        # Rounding ties fall differently now and then; a random network amplifies that from layer to layer
        assert (codes["stem/0/conv"] - fake_codes["stem/0/conv"]).abs().max() <= 1
        for name in list(codes)[:5]:
            assert (codes[name] != fake_codes[name]).float().mean() < 1e-3, name
        assert (logits - fake_logits).abs().mean() < 0.1 * logits.std(dim=0).mean()
        same += int((logits.argmax(1) == fake_logits.argmax(1)).sum())
        total += len(images)
    assert same / total >= 0.96  # untrained networks have near-ties


@pytest.mark.parametrize("block", [2, 4])
def test_integer_executor_is_independent_of_the_batch(block):
    graph = random_graph(block, 127)
    images = coarse_images(graph.nodes[0].in_shape.height, 17)
    alone = torch.cat([run_integer(graph, image[None]) for image in images])
    assert torch.equal(run_integer(graph, images), alone)


def test_accumulators_beyond_float32_are_exact(tmp_path):
    # 4608 products of up to 255 * 63 leave the range in which float32 counts every integer
    quantize = made_node("input", Quantize(), ("input",), square(512, 3))
    conv = made_node("conv", Conv(8, 3), ("input",), square(512, 3))
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 64, conv.weight_shape, dtype=np.int8)
    image = rng.integers(0, 256, (512, 3, 3))
    total = (codes.astype(np.int64) * image).sum(axis=(1, 2, 3))  # of the middle pixel, which sees all others
    bias = (100 + np.arange(8) - total).astype(np.int32)
    params = {"input": QuantParams(1.0, 0), "conv": QuantParams(1.0, 0)}
    graph = IntegerGraph((quantize, conv), params, {"conv": IntegerWeights(codes, np.ones(8, np.float32), bias)})
    assert abs(total).max() > 2**24
    for run in (EXECUTORS["integer"], EXECUTORS["onnxruntime"]):
        output = run(graph, torch.from_numpy(image).float()[None], tmp_path)
        assert output[0, :, 1, 1].tolist() == [100.0 + i for i in range(8)]


@pytest.mark.parametrize("stem_activation", ["relu", None])
def test_max_pool_picks_codes_as_onnx_runtime_does(stem_activation, tmp_path):
    net = Tracer(square(3, 17))
    x = net.conv("stem", net.input, 8, kernel_size=7, stride=2, activation=stem_activation)
    x = net.max_pool("max_pool", x)
    x = net.conv("conv", x, 16, kernel_size=3, activation="relu")
    x = net.squeeze_excite("se", x, 8, activation="swish", gate="sigmoid")
    net.linear("logits", net.pool("pool", x), 10)
    program = net.program
    network = single_network(program, 63, torch.Generator().manual_seed(0))
    images = torch.randn(4, 3, 17, 17, generator=torch.Generator().manual_seed(1))
    network.start_quantization([(images, program)])
    graph = network.eval().integer_graph(program)
    assert graph.quant_params["max_pool"] == graph.quant_params["stem"]
    assert (graph.quant_params["stem"].zero_point > 0) == (stem_activation is None)
    expected = run_integer(graph, images)
    assert torch.equal(onnx_runtime(graph, images, tmp_path), expected)
    steps = expected.std() / 100
    with torch.no_grad():
        assert (run_fake_quantized(graph, images) - expected).abs().mean() < steps
        assert (network(images, program) - expected).abs().mean() < steps
