"""Exported flatbuffers against the integer executor, and what LiteRT makes of them."""

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spaceevo.errors import ArtifactError, DataError, ExportError, NoSpaceError, TargetError
from spaceevo.graph.graphs import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import INPUT, Node, Role
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Linear, MaxPool, Multiply, Pool, Quantize, Relabel, Sigmoid
from spaceevo.graph.tensors import Shape, Tensor, square
from spaceevo.graph.trace import Tracer, input_node
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.executors import run_integer
from spaceevo.processors import PROFILES
from spaceevo.runtimes import litert as runtime
from spaceevo.runtimes.litert import flatbuffer
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program
from spaceevo.spaces.zoo import load_network
from spaceevo.testing.float_evaluation import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

BLOCK_TYPES = BLOCKS.names()
NUM_MICRO_BLOCKS = 5
SIZE = 15


def micro_program(block, seed=0):
    space = load_hyperspace("micro").space(SpaceChoice((block,) * 3, (0, 1, 2)), 10)
    return network_program(space.sample(random.Random(seed)))


def space_program(name):
    """The largest network of a random space, at a resolution that takes little time."""
    space = load_hyperspace(name).space(load_hyperspace(name).sample(random.Random(0)), 10)
    return network_program(replace(space.sample(random.Random(0)), resolution=64))


def zoo_program(name):
    return network_program(replace(load_network(name).subnet, resolution=64))


def block_program(name, activation="relu", stride=1, kernel_size=3, size=SIZE):
    net = Tracer(square(16, size))
    kernel_sizes = (0, kernel_size) if name == "uib" else (kernel_size,)
    spec = BlockSpec(16, 16 if stride == 1 else 24, kernel_sizes, 2.0, stride, activation)
    BLOCKS.load(name).declare(spec, net.input, net)
    return net.program


def images_of(graph, count=2):
    """Images with large structures, so that codes differ throughout a network; parts take the codes of any input."""
    first, params = graph.nodes[0], graph.quant_params[INPUT]
    shape = (count, *first.out_shape)
    if first.out_shape.channels == 3:
        patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.5
        return F.interpolate(patterns, size=shape[2:], mode="bilinear").numpy()
    codes = np.random.default_rng(0).integers(0, 256, shape)
    return ((codes - params.zero_point) * np.float32(params.scale)).astype(np.float32)


def delegates(session):
    names = [details["op_name"] for details in session._interpreter._get_ops_details()]
    return names.count("DELEGATE")


def assert_identical(graph, path, count=2):
    """Codes of every tensor, and the logits, equal the integer executor's; everything runs in XNNPACK."""
    runtime.export_int8(graph, path, {})
    assert runtime.float_operators(path) == ()
    session = runtime.Session(path)
    assert delegates(session) == 1
    images, expected = images_of(graph, count), {}
    reference = run_integer(
        graph, torch.from_numpy(images), lambda name, codes: expected.update({name: codes.clone()}), runtime.ARITHMETIC
    )
    taps = [node.id for node in graph.nodes if not isinstance(node.op, Relabel | Linear)]
    found = runtime.Session(path, taps=taps).codes(images)
    assert list(found) == taps
    for name in taps:
        assert found[name].dtype == np.uint8
        assert found[name].shape == tuple(expected[name].shape)
        different = int((found[name] != expected[name].numpy()).sum())
        assert not different, f"{different} of {found[name].size} codes of {name} differ"
    logits = session.run(images)
    assert logits.dtype == np.float32
    assert logits.shape == tuple(reference.shape)
    np.testing.assert_allclose(logits, reference.numpy(), rtol=1e-5, atol=2e-6 * float(reference.abs().max()))


def part(op, scale, powers_of_two=False, seed=0, channels=9, shape=(8, 8), quantizer="free"):
    """A graph of one operator behind the input's, with scales that are rough or, for ties, powers of two."""
    rng = np.random.default_rng(seed)

    def params(typical):
        value = 2 ** np.rint(np.log2(typical)) if powers_of_two else typical * rng.uniform(0.5, 1.5)
        return QuantParams(float(np.float32(value)), int(rng.integers(0, 256)))

    def weights(node):
        codes = rng.integers(-127, 128, node.weight_shape).astype(np.int8)
        values = np.full(node.out_shape.channels, 2.0**-7) if powers_of_two else rng.uniform(0.004, 0.01, channels)
        return IntegerWeights(codes, values.astype(np.float32), rng.integers(-900, 900, channels).astype(np.int32))

    def node_of(name, op, inputs, x, quantizer="free"):
        return Node(name, op, inputs, x, Tensor(op.out_shape(x), quantizer), Role("", None, name))

    x = Shape(channels, *shape)
    quant_params, own = {INPUT: params(0.02)}, {}
    inputs, program = [INPUT], [node_of(INPUT, Quantize(), (INPUT,), x)]
    if isinstance(op, Add | Multiply):  # the other input: a convolution that mixes channels
        program.append(node_of("side", Conv(channels), (INPUT,), x))
        quant_params["side"], own["side"] = params(0.03), weights(program[-1])
        inputs.append("side")
        if isinstance(op, Multiply) and op.per_channel:
            program.append(node_of("pooled", Pool(), ("side",), x))
            quant_params["pooled"] = params(0.02)
            inputs[1] = "pooled"
    node = node_of("y", op, tuple(inputs), x, quantizer)
    quant_params["y"] = QuantParams(1 / 256, 0) if quantizer == "gate" else params(scale)
    if quantizer == "input":
        quant_params["y"] = quant_params[INPUT]
    if node.has_weights:
        own["y"] = weights(node)
    return IntegerGraph((*program, node), quant_params, own)


@pytest.mark.parametrize("powers_of_two", [False, True])
@pytest.mark.parametrize(
    ("op", "scale", "fields"),
    [
        (Conv(9), 0.04, {}),
        (Conv(9, 3), 0.1, {}),
        (Conv(9, 3, 2), 0.1, {}),
        (Conv(9, 5, 2), 0.1, {"shape": (9, 9)}),
        (Conv(9, 5, crop=1), 0.1, {}),
        (Depthwise(3), 0.04, {}),
        (Depthwise(7, 2), 0.04, {}),
        (Depthwise(5, crop=2), 0.04, {}),
        (Depthwise(5, 2), 0.04, {"shape": (2, 2)}),
        (Add(), 0.06, {}),
        (Multiply(), 0.04, {}),
        (Multiply(per_channel=True), 0.04, {}),
        (Pool(), 0.004, {}),
        (Pool(), 0.008, {"shape": (3, 3)}),
        (Gate(), 1, {"quantizer": "gate"}),
        (Sigmoid(), 1, {"quantizer": "gate"}),
        (MaxPool(), 1, {"quantizer": "input"}),
        (MaxPool(), 1, {"quantizer": "input", "shape": (7, 7)}),
        (MaxPool(3, 1), 1, {"quantizer": "input"}),
        # What is not square: padded on one axis as LiteRT would, on the other explicitly
        (Conv(9, 3, 2), 0.1, {"shape": (8, 7)}),
        (Depthwise(5, 2), 0.04, {"shape": (5, 12)}),
        (MaxPool(), 1, {"quantizer": "input", "shape": (8, 7)}),
        (Pool(), 0.004, {"shape": (3, 8)}),
    ],
)
def test_operator(tmp_path, op, scale, fields, powers_of_two):
    for seed in range(4):
        graph = part(op, scale=scale, powers_of_two=powers_of_two, seed=seed, **fields)
        assert_identical(graph, tmp_path / "net.tflite", count=4)


def test_gate_is_all_but_the_contracts():
    """The bias of its convolution is an integer: a code differs where the contract is next to a tie."""
    gate, y = part(Gate(), 1, channels=1, shape=(16, 16), quantizer="gate").nodes[-1], QuantParams(1 / 256, 0)
    codes = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
    different = 0
    for scale in np.geomspace(0.004, 0.2, 100):
        found = runtime.ARITHMETIC.codes[Gate](gate, [(codes, QuantParams(float(scale), 77))], y)
        exact = ((codes.astype(np.float64) - 77) * np.float32(scale) / 6 + 0.5) * 256
        different += int((found != np.rint(exact).clip(0, 255)).sum())
    assert different / (100 * 256) < 0.001


def test_hard_sigmoid_changes_no_code(tmp_path):
    linear, gate = QuantParams(6 / 256, 128), QuantParams(1 / 256, 0)
    graph = part(Relabel(), 1, channels=4, quantizer="gate")
    graph = replace(graph, quant_params={INPUT: linear, "y": gate})
    runtime.export_int8(graph, tmp_path / "net.tflite", {})
    codes = np.arange(256).reshape(1, 4, 8, 8)
    images = ((codes - 128) * (6 / 256)).astype(np.float32)
    assert (runtime.Session(tmp_path / "net.tflite").run(images) * 256 == codes).all()


def test_the_image_is_multiplied_by_the_reciprocal(tmp_path):
    """Next to ties, where the contract's division gives other codes."""
    params = QuantParams(float(np.float32(0.013)), 120)
    graph = IntegerGraph((input_node(square(3, 32)),), {INPUT: params}, {})
    runtime.export_int8(graph, tmp_path / "net.tflite", {})
    ties = ((np.arange(-119, 135) + 0.5) * np.float64(params.scale)).astype(np.float32)
    images = np.resize(np.concatenate([ties, np.nextafter(ties, 9), np.nextafter(ties, -9)]), (1, 3, 32, 32))
    found = runtime.Session(tmp_path / "net.tflite", taps=[INPUT]).codes(images)[INPUT]
    expected = {}
    run_integer(graph, torch.from_numpy(images), expected.__setitem__, runtime.ARITHMETIC)
    assert (found == expected[INPUT].numpy()).all()
    divided = (np.rint(images / np.float32(params.scale)) + 120).clip(0, 255)
    assert 0.01 < (found != divided).mean() < 0.5


@pytest.mark.parametrize(
    ("activation", "stride", "kernel_size", "size"),
    [("relu", 1, 5, 15), ("relu6", 2, 3, 16), ("hard_swish", 2, 5, 15), ("swish", 1, 3, 9)],
)
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_block(tmp_path, name, activation, stride, kernel_size, size):
    program = block_program(name, activation, stride, kernel_size, size)
    assert_identical(random_integer_graph(program, seed=1), tmp_path / "net.tflite")
    compare_fp32(random_float_graph(program, seed=1), tmp_path / "twin.tflite")


@pytest.mark.parametrize(
    "program",
    [
        *(
            pytest.param(lambda block=block: micro_program(block), id=f"micro{block}")
            for block in range(NUM_MICRO_BLOCKS)
        ),
        *(pytest.param(lambda name=name: space_program(name), id=name) for name in ("mobilew", "onnxw")),
        *(pytest.param(lambda name=name: zoo_program(name), id=name) for name in ("MobileNetV3-Small", "FBNetV3-A")),
    ],
)
def test_network(tmp_path, program):
    program = program()
    assert_identical(random_integer_graph(program, seed=2), tmp_path / "net.tflite")
    if program[-1].out_shape.channels == 10:  # deeper networks without training multiply every rounding error
        compare_fp32(random_float_graph(program, seed=2), tmp_path / "twin.tflite")


def compare_fp32(graph, path):
    runtime.export_fp32(graph, path, {})
    first = graph.nodes[0]
    shape = (2, *first.out_shape)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    session = runtime.Session(path)
    assert delegates(session) == 1
    expected = evaluate(graph, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("stride", "size"), [(2, 8), (2, 7), (1, 8)])
def test_fp32_max_pool_of_negative_values(tmp_path, stride, size):
    first, pool = part(MaxPool(3, stride), scale=1, shape=(size, size), quantizer="input").nodes
    conv = replace(part(Conv(9), scale=1, shape=(size, size)).nodes[-1], id="c")
    program = (first, conv, replace(pool, inputs=("c",)))
    weights = {"c": FloatWeights(np.eye(9, dtype=np.float32)[..., None, None], np.full(9, -5, np.float32))}
    compare_fp32(FloatGraph(program, weights), tmp_path / "net.tflite")


@pytest.mark.parametrize("quantizer", ["relu", "relu6"])
@pytest.mark.parametrize("op", [Conv(9), Add()])
def test_fp32_activation(tmp_path, op, quantizer):
    """Of values that are large enough to be clamped."""
    program = part(op, scale=1, quantizer=quantizer).nodes
    weight = np.eye(9, dtype=np.float32)[..., None, None] * 20
    weights = {node.id: FloatWeights(weight, np.zeros(9, np.float32)) for node in program if node.has_weights}
    compare_fp32(FloatGraph(program, weights), tmp_path / "net.tflite")


@pytest.fixture
def graph():
    return random_integer_graph(micro_program(2), seed=1)


@pytest.fixture
def int8_file(graph, tmp_path):
    path = tmp_path / "net.tflite"
    runtime.export_int8(graph, path, {"encoding": "micro-222-012", "classes": "Katze, Vögel"})
    return path


def test_constants_are_those_of_the_graph(graph, int8_file):
    found = runtime.constants(int8_file)
    for name, params in graph.quant_params.items():
        assert found[f"{name}/scale"] == np.float32(params.scale)
        assert found[f"{name}/zero_point"] == params.zero_point - 128
    for node in graph.nodes:
        if not node.has_weights:
            continue
        own, name = graph.weights[node.id], node.id
        step = np.float32(graph.quant_params[node.inputs[0]].scale) * own.scales
        assert (found[f"{name}|w/scales"] == own.scales).all()
        if isinstance(node.op, Linear):
            assert (found[f"{name}|w"][:, :-2] == own.codes).all()
            assert not found[f"{name}|w"][:, -2:].any()
            assert (found[f"{name}|b"] == own.bias.astype(np.float32) * step).all()
            continue
        codes = found[f"{name}|w"].transpose((3, 0, 1, 2) if isinstance(node.op, Depthwise) else (0, 3, 1, 2))
        assert codes.dtype == np.int8
        assert (codes == own.codes).all()
        assert (found[f"{name}|b"] == own.bias).all()
        assert (found[f"{name}|b/scales"] == step).all()


def test_metadata(int8_file):
    assert runtime.metadata(int8_file) == {
        "encoding": "micro-222-012",
        "classes": "Katze, Vögel",
        "schema": "3",
        "runtime": f"litert {runtime.version()}",
    }
    assert [path.name for path in int8_file.parent.iterdir()] == ["net.tflite"]


def test_signature(int8_file):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(int8_file))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}


def test_same_graph_same_bytes(int8_file, graph, tmp_path):
    again = tmp_path / "again.tflite"
    runtime.export_int8(graph, again, {"encoding": "micro-222-012", "classes": "Katze, Vögel"})
    assert again.read_bytes() == int8_file.read_bytes()


def test_every_operator_of_the_twin_is_float(tmp_path):
    runtime.export_fp32(random_float_graph(micro_program(0), seed=1), tmp_path / "net.tflite", {})
    found = runtime.float_operators(tmp_path / "net.tflite")
    assert "FULLY_CONNECTED logits" in found
    assert any(name.endswith("stem/0/conv") for name in found)


def rewritten(path, change):
    """The file with its model changed."""
    model = flatbuffer.read(path)
    change(model)
    path.write_bytes(flatbuffer.pack(model))
    return path


def tensor_of(model, name):
    return next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == name.encode())


def test_operator_outside_of_xnnpack_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(flatbuffer, "refused", lambda model: "")
    runtime.export_int8(part(Add(), scale=100), tmp_path / "net.tflite", {})  # XNNPACK takes no such scale
    assert runtime.float_operators(tmp_path / "net.tflite") == ("ADD y",)


def test_changed_scale_is_loaded_and_told(int8_file, graph):
    def double(model):
        own = tensor_of(model, "stage2/0/project|w").quantization
        own.scale = own.scale * np.float32(2)

    images, before = images_of(graph), runtime.constants(int8_file)
    logits = runtime.Session(int8_file).run(images)
    after = runtime.constants(rewritten(int8_file, double))
    assert [name for name in before if (before[name] != after[name]).any()] == ["stage2/0/project|w/scales"]
    assert not np.allclose(runtime.Session(int8_file).run(images), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
def test_scale_that_is_no_number(int8_file, value):
    def spoil(model):
        tensor_of(model, "stage2/0/project").quantization.scale = np.array([value], np.float32)

    with pytest.raises(ArtifactError, match=r"no model that LiteRT can load.*stage2/0/project"):
        runtime.Session(rewritten(int8_file, spoil))


@pytest.mark.parametrize("value", [-(2**40), -129, 128])
def test_zero_point_that_is_no_code(int8_file, value):
    def spoil(model):
        tensor_of(model, "stage2/0/project").quantization.zeroPoint = np.array([value], np.int64)

    with pytest.raises(ArtifactError, match=r"stage2/0/project has a zero point"):
        runtime.Session(rewritten(int8_file, spoil))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1, 1e-39])
def test_graph_with_a_scale_that_is_no_number(tmp_path, graph, value):
    name = "stage2/0/project"
    broken = replace(graph, quant_params={**graph.quant_params, name: QuantParams(value, 3)})
    with pytest.raises(ExportError, match=name):
        runtime.export_int8(broken, tmp_path / "net.tflite", {})
    own = graph.weights[name]
    scales = own.scales.copy()
    scales[3] = value
    broken = replace(graph, weights={**graph.weights, name: replace(own, scales=scales)})
    with pytest.raises(ExportError, match=name):
        runtime.export_int8(broken, tmp_path / "net.tflite", {})
    assert not list(tmp_path.glob("*.tflite"))


@pytest.mark.parametrize(("op", "scale"), [(Add(), 1e2), (Add(), 1e-5), (Multiply(), 1e3), (Conv(9), 1e-8)])
def test_scales_that_xnnpack_does_not_take(tmp_path, op, scale):
    with pytest.raises(ExportError, match=r"before y are .* times its own"):
        runtime.export_int8(part(op, scale=scale), tmp_path / "net.tflite", {})


@pytest.mark.parametrize("scale", [1e-12, 0, np.nan])
def test_gate_of_almost_nothing(tmp_path, scale):
    first, gate = part(Gate(), 1, channels=3, shape=(4, 4), quantizer="gate").nodes
    params = {INPUT: QuantParams(scale, 0), "y": QuantParams(1 / 256, 0)}
    with pytest.raises(ExportError, match="cannot compute y"):
        runtime.export_int8(IntegerGraph((first, gate), params, {}), tmp_path / "net.tflite", {})


def test_dead_and_constant_channels(tmp_path):
    for op in (Conv(9), Depthwise(3)):
        graph = part(op, scale=0.04)
        own = graph.weights["y"]
        codes, scales = own.codes.copy(), own.scales.copy()
        codes[2:6] = 0
        scales[3] = 1e-30
        weights = {"y": IntegerWeights(codes, scales, own.bias)}
        assert_identical(replace(graph, weights=weights), tmp_path / "net.tflite")


def uses():
    def profile(path):
        return runtime.profile(path, 1)

    return [runtime.Session, runtime.float_operators, runtime.constants, runtime.metadata, profile]


@pytest.mark.parametrize("use", uses())
def test_truncated_file(int8_file, use):
    int8_file.write_bytes(int8_file.read_bytes()[: int8_file.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="no model that LiteRT can load"):
        use(int8_file)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 1000, b"\x10\x00\x00\x00TFL3" + b"\x00" * 64])
@pytest.mark.parametrize("use", uses())
def test_damaged_file(tmp_path, content, use):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no model( that LiteRT can load|\. It is empty)"):
        use(path)


@pytest.mark.parametrize("use", uses())
def test_missing_file(tmp_path, use):
    with pytest.raises(ArtifactError, match="There is no model"):
        use(tmp_path / "net.tflite")


def test_changed_structure(int8_file):
    """A stride of 0 would kill the process."""

    def spoil(model):
        node = next(node for node in model.subgraphs[0].operators if hasattr(node.builtinOptions, "strideW"))
        node.builtinOptions.strideW = 0

    with pytest.raises(ArtifactError, match="not those that were written"):
        runtime.Session(rewritten(int8_file, spoil))


@pytest.mark.parametrize("tensor", ["stem/0/conv|padding", "head/pool|axes"])
def test_changed_padding_or_axes(int8_file, tensor):
    def spoil(model):
        data = model.buffers[tensor_of(model, tensor).buffer].data.copy()
        data[-4] = 77
        model.buffers[tensor_of(model, tensor).buffer].data = data

    with pytest.raises(ArtifactError, match="not those that were written"):
        runtime.Session(rewritten(int8_file, spoil))


def test_no_garbled_file_kills_the_process(int8_file, graph):
    """In a process of its own: files with a few bytes changed, at the end, which describes the graph."""
    code = (
        "import sys, pathlib, numpy as np\n"
        "from spaceevo.errors import ArtifactError\n"
        "from spaceevo.runtimes import litert\n"
        "path, rng = pathlib.Path(sys.argv[1]), np.random.default_rng(0)\n"
        "whole = path.read_bytes()\n"
        "refused = 0\n"
        "for _ in range(50):\n"
        "    data, at = bytearray(whole), int(rng.integers(len(whole) - 60000, len(whole) - 4))\n"
        "    data[at:at + 4] = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()\n"
        "    path.write_bytes(bytes(data))\n"
        "    try:\n"
        "        session = litert.Session(path)\n"
        "        session.run(np.zeros(session._shape, np.float32))\n"
        "    except ArtifactError:\n"
        "        refused += 1\n"
        "print(refused)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(int8_file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-500:]
    assert int(result.stdout) > 20


def test_foreign_file(int8_file):
    def rename(model):
        model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].name = b"pixels"

    with pytest.raises(ArtifactError, match=r"not written by spaceevo.*pixels, logits; expected image, logits"):
        runtime.Session(rewritten(int8_file, rename))


def test_file_of_another_exporter(int8_file):
    """Whose metadata are no text, and whose tensors of integers may be computed."""

    def disguise(model):
        for entry in model.metadata:
            entry.name = b"TFLITE_METADATA"
            model.buffers[entry.buffer].data = np.full(9, 255, np.uint8)
        model.buffers[tensor_of(model, "stem/0/conv|padding").buffer].data = None

    with pytest.raises(ArtifactError, match="not written by spaceevo"):
        runtime.Session(rewritten(int8_file, disguise))


def test_unknown_tap(int8_file):
    with pytest.raises(ArtifactError, match="has no tensor 'nowhere'"):
        runtime.Session(int8_file, taps=["nowhere"])


def test_images_of_another_size(int8_file):
    with pytest.raises(DataError, match="takes images of the shape"):
        runtime.Session(int8_file).run(np.zeros((1, 3, 8, 8), np.float32))


def test_folder_that_cannot_be_written(tmp_path, graph):
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpaceError, match="cannot be written"):
        runtime.export_int8(graph, tmp_path / "file" / "net.tflite", {})


def test_time(int8_file):
    samples = runtime.load(int8_file, threads=2).time(7)
    assert len(samples) == 7
    assert min(samples) > 0


def test_profile_says_that_there_is_none(int8_file):
    with pytest.raises(TargetError, match="cannot profile"):
        runtime.profile(int8_file, 3)


def test_no_weight_code_is_too_large():
    assert {runtime.w_qmax(profile) for profile in PROFILES} == {127}


def test_largest_codes_do_not_saturate(tmp_path):
    """All weights 127, all inputs 255: sums that kernels with 16-bit intermediates would clip."""
    first, x = input_node(square(64, 4)), square(64, 4)
    conv = Node("y", Conv(16), (INPUT,), x, Tensor(Conv(16).out_shape(x), "free"), Role("", None, "y"))
    codes = np.full(conv.weight_shape, 127, np.int8)
    own = IntegerWeights(codes, np.full(16, 0.01, np.float32), np.zeros(16, np.int32))
    params = {INPUT: QuantParams(0.01, 0), "y": QuantParams(0.01 * 0.01 * 127 * 255 * 64 / 250, 0)}
    runtime.export_int8(IntegerGraph((first, conv), params, {"y": own}), tmp_path / "net.tflite", {})
    images = np.full((1, 64, 4, 4), 2.55, np.float32)
    assert (runtime.Session(tmp_path / "net.tflite", taps=["y"]).codes(images)["y"] == 250).all()


def test_import_is_light():
    code = (
        "import sys, spaceevo.runtimes.litert;"
        "assert not {'torch', 'ai_edge_litert', 'flatbuffers', 'onnx'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_package(tmp_path, graph):
    code = (
        "import sys, pathlib; sys.modules['ai_edge_litert'] = None\n"
        "from spaceevo.runtimes import litert\n"
        "from spaceevo.errors import TargetError\n"
        "for use in (litert.version, lambda: litert.Session(pathlib.Path(sys.argv[1]))):\n"
        "    try: use()\n"
        "    except TargetError as error: assert 'LiteRT is not installed' in str(error)\n"
        "    else: raise AssertionError\n"
    )
    path = tmp_path / "net.tflite"
    runtime.export_int8(graph, path, {})
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
