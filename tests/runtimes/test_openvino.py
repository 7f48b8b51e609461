"""OpenVINO's view of exported files, against the integer executor that follows its arithmetic."""

from __future__ import annotations

import importlib.util
import os
import platform
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.graph.graphs import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Role
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Linear, Multiply, Pool, Quantize, Relabel, Sigmoid
from spaceevo.graph.tensors import FIXED_QUANTIZERS, Tensor, square
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.arithmetic import IntegerPass
from spaceevo.nets.executors import run_integer
from spaceevo.nets.verification import compare
from spaceevo.processors import PROFILES
from spaceevo.runtimes import onnxruntime as files, openvino as runtime
from spaceevo.runtimes.openvino import on_device
from spaceevo.runtimes.openvino.arithmetic import added_unrounded
from spaceevo.runtimes.openvino.session import compile_model, kind_of, quantizers_of
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import Block, BlockType, Head, Stage, Subnet, network_program
from spaceevo.spaces.zoo import load_network
from spaceevo.testing.float_evaluation import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")

#: In the presets and the zoo; every other block type is taken with relu.
ACTIVATIONS = {
    "mbv2": "relu6", "mbv2-k3": "relu6", "mbv3": "hard_swish", "mbv3-k3": "swish", "fused-mbconv": "swish",
    "fused-mbconv-se": "swish", "mbv3-identity": "hard_swish", "mbconv": "swish", "fbnet-se": "hard_swish",
    "fbnet-cropped": "hard_swish", "fbnet-se-cropped": "hard_swish",
}  # fmt: skip


def block_program(kind):
    """Two blocks of a type, the first of stride 2, the second with an identity shortcut, and a head."""
    stem = Stage("stem", BlockType("conv", "relu"), 2, (Block(16, 3, 1.0),))
    block_type = BlockType(kind, ACTIVATIONS.get(kind, "relu"))
    sizes = ((0, 3), (0, 5)) if kind == "uib" else (3, 5)
    stage = Stage("stage1", block_type, 2, tuple(Block(24, size, 2.0) for size in sizes))
    return network_program(Subnet(32, (stem, stage), Head(48, 64, "hard_swish"), 10))


def micro_program(block):
    space = load_hyperspace("micro").space(SpaceChoice((block,) * 3, (0, 1, 2)), 10)
    return network_program(space.sample(random.Random(0)))


def coarse_images(size, count):
    patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(patterns * 1.5, size=(size, size), mode="bilinear")


def agreement(graph, path, count):
    """Of a file with its own arithmetic, and with the contract's."""
    images = coarse_images(graph.nodes[0].in_shape.height, count)
    logits = torch.from_numpy(runtime.Session(path).run(images.numpy()))
    return compare(logits, run_integer(graph, images, None, runtime.ARITHMETIC)), compare(
        logits, run_integer(graph, images)
    )


def check_exact(found):
    assert found.top1 == 1
    if platform.machine() == "x86_64":  # whose formulae ARITHMETIC follows
        assert found.identical_codes == 1
        assert found.max_steps < 1e-3
    else:
        assert found.mean_steps < 1


@pytest.mark.parametrize("kind", BLOCKS.names())
def test_every_block_type_is_in_integers_and_exact(tmp_path, kind):
    graph = random_integer_graph(block_program(kind), 1, 63)
    path = tmp_path / "net.onnx"
    runtime.export_int8(graph, path, {})
    assert runtime.float_operators(path) == ()
    check_exact(agreement(graph, path, 6)[0])


@pytest.mark.parametrize(
    ("preset", "block"), [("micro", 2), ("micro", 4), ("onnxw", 4), ("mobilew", 1), ("mobilew", 4)]
)
def test_networks_of_the_presets_are_exact(tmp_path, preset, block):
    hyperspace = load_hyperspace(preset)
    choice = (0,) * (len(hyperspace.stages) - 1)
    blocks = tuple(min(block, len(stage.choices) - 1) for stage in hyperspace.stages[1:])
    subnet = hyperspace.space(SpaceChoice(blocks, choice), 10).sample(random.Random(0))
    graph = random_integer_graph(network_program(replace(subnet, resolution=64)), block, 63)
    path = tmp_path / "net.onnx"
    runtime.export_int8(graph, path, {})
    assert runtime.float_operators(path) == ()
    own, contract = agreement(graph, path, 5)
    check_exact(own)
    assert contract.mean_steps > 0.1  # so that the arithmetic of its own makes the difference


@pytest.mark.parametrize("name", ["ResNet-18", "MobileNetV3-Small", "EfficientNet-Lite0"])
def test_networks_of_the_zoo_are_exact(tmp_path, name):
    subnet = replace(load_network(name).subnet, resolution=64, num_classes=10)
    graph = random_integer_graph(network_program(subnet), 1, 63)
    path = tmp_path / "net.onnx"
    runtime.export_int8(graph, path, {})
    assert runtime.float_operators(path) == ()
    check_exact(agreement(graph, path, 4)[0])


#: Seeds of `between_codes` that tell each rule, and each order of its operations, from the next best one.
BETWEEN_CODES = (11, 13, 18, 20, 21, 54, 166, 171)


def between_codes(seed, channels=16, size=8):
    """An inverted residual block with scales that put many results halfway between two codes, but for rounding."""
    rng, weights_rng = random.Random(seed), np.random.default_rng(seed)
    scale = rng.choice((1 / 512, 3 / 512, 5 / 512)) * 6  # then gates lie there
    params = {"input": QuantParams(1.0, 128)}
    program, weights = [], {}

    def near(value):
        value = np.float32(value)
        for _ in range(rng.randrange(5)):
            value = np.nextafter(value, np.float32(rng.choice((0, 1))))
        return float(value)

    def add(name, op, inputs, scale=None, quantizer="free"):
        x = program[[node.id for node in program].index(inputs[0])].out_shape if program else square(channels, size)
        program.append(Node(name, op, inputs, x, Tensor(op.out_shape(x), quantizer), Role("", None, name)))
        if quantizer in FIXED_QUANTIZERS:
            params[name] = QuantParams(*FIXED_QUANTIZERS[quantizer])
        elif not isinstance(op, Quantize):
            params[name] = QuantParams(near(scale), rng.choice((0, rng.randrange(1, 120))))

    def conv(name, source, scale, step, has_bias, op=None, quantizer="free"):
        add(name, op or Conv(channels, norm="none"), (source,), scale, quantizer)
        codes = weights_rng.integers(-3, 4, program[-1].weight_shape).astype(np.int8)
        scales = np.array([near(step / params[source].scale) for _ in range(channels)], np.float32)
        bias = weights_rng.integers(-100, 100, channels).astype(np.int32) * has_bias
        weights[name] = IntegerWeights(codes, scales, bias)

    add("input", Quantize(), ("input",))
    conv("expand:linear", "input", scale, scale / 4, True)
    add("expand:gate", rng.choice((Gate(), Sigmoid())), ("expand:linear",), quantizer="gate")
    add("expand", Multiply(), ("expand:linear", "expand:gate"), scale / 2)
    conv("depthwise", "expand", scale, scale / 4, False, Depthwise(3, norm="none"))
    add("pool", Pool(), ("depthwise",), scale / 4)
    if rng.random() < 0.5:
        conv("se:linear", "pool", 0, 0.05, True, quantizer="hard_sigmoid_input")
        add("se", Relabel(), ("se:linear",), quantizer="gate")
    else:
        conv("se:linear", "pool", 0.02, 0.05, True)
        add("se", Sigmoid(), ("se:linear",), quantizer="gate")
    add("scale", Multiply(per_channel=True), ("depthwise", "se"), scale / 2)
    conv("shortcut", "input", scale, scale / 4, True)
    conv("project", "scale", scale * rng.uniform(0.8, 1.5), scale / 2, rng.random() < 0.5)
    add("sum", Add(), ("project", "shortcut"), scale * 2)
    conv("last", "sum", scale * 2, scale / 2, True)
    return IntegerGraph(tuple(program), params, weights)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the formulae are those of x86")
def test_every_rule_is_exact_where_codes_hang_on_the_last_bit(tmp_path):
    differ, checked = Counter(), Counter()
    for seed in BETWEEN_CODES:
        graph = between_codes(seed)
        path = tmp_path / f"{seed}.onnx"
        runtime.export_int8(graph, path, {})
        noise = torch.Generator().manual_seed(seed)
        images = torch.randint(-40, 40, (4, 16, 8, 8), generator=noise).float()
        expected, found = {}, {}
        run_integer(graph, images, lambda name, codes: expected.update({name: codes}), runtime.ARITHMETIC)  # noqa: B023
        names = {node.id for node in graph.nodes if not isinstance(node.op, Relabel)} - {"project", "shortcut"}
        for taps in (names - {"expand:gate", "se"}, names & {"expand:gate", "se"}):  # a tapped gate changes its product
            found |= runtime.Session(path, taps=sorted(taps)).codes(images.numpy())
        for node in graph.nodes[1:]:
            name = node.id
            if name in found:
                assert (found[name] == expected[name].numpy()).all(), (seed, node)
                by_contract = IntegerPass(graph).apply(node, [expected[name] for name in node.inputs])
                differ[type(node.op)] += int((by_contract != expected[name]).sum())
                checked[type(node.op)] += ((by_contract > 0) & (by_contract < 255)).sum().item()
    assert min(checked.values()) > 100, checked
    assert {op for op in differ if differ[op] > 0} == {Conv, Depthwise, Gate, Multiply, Pool, Add}, differ


@pytest.fixture
def graph():
    return random_integer_graph(micro_program(2), 1, 63)


@pytest.fixture
def int8_file(tmp_path, graph):
    path = tmp_path / "net.onnx"
    runtime.export_int8(graph, path, {"encoding": "micro-222-012"})
    return path


def test_the_executor_knows_which_additions_become_part_of_a_convolution(int8_file, graph):
    fused = set()
    for node in compile_model(int8_file).get_runtime_model().get_ordered_ops():
        quantizers = quantizers_of(on_device.told(node, "originalLayersNames"))
        if kind_of(node) == "Convolution" and any(name.endswith("/add|q") for name in quantizers):
            fused.add(quantizers[0].removesuffix("|q"))
    assert fused == added_unrounded(graph.nodes)
    assert len(fused) == 6


def test_taps_leave_the_network_as_it_is(int8_file, graph):
    summands = {name for op in graph.nodes if isinstance(op.op, Add) for name in op.inputs}
    taps = [op.id for op in graph.nodes if not isinstance(op.op, Relabel | Linear) and op.id not in summands]
    images = coarse_images(graph.nodes[0].in_shape.height, 3)
    session = runtime.Session(int8_file, taps=taps)
    assert session.run(images.numpy()).tobytes() == runtime.Session(int8_file).run(images.numpy()).tobytes()
    expected = {}
    run_integer(graph, images, lambda name, codes: expected.update({name: codes.numpy()}), runtime.ARITHMETIC)
    found = session.codes(images.numpy())
    assert list(found) == taps
    different = sum(int((found[name] != expected[name]).sum()) for name in taps)
    assert different <= 1e-4 * sum(codes.size for codes in found.values())
    if platform.machine() == "x86_64":
        assert different == 0


def test_a_summand_that_is_tapped_has_the_codes_of_the_reference(int8_file, graph):
    images = coarse_images(graph.nodes[0].in_shape.height, 3)
    expected = {}
    run_integer(graph, images, lambda name, codes: expected.update({name: codes.numpy()}), runtime.ARITHMETIC)
    for name in ("stage1/0/project", "stage1/1/shortcut"):
        codes = runtime.Session(int8_file, taps=[name]).codes(images.numpy())[name]
        assert codes.dtype == np.uint8
        assert (codes != expected[name]).mean() < 1e-4


@pytest.mark.parametrize("block", range(5))
def test_fp32_twin_equals_float_evaluation(tmp_path, block):
    graph = random_float_graph(micro_program(block), seed=1)
    runtime.export_fp32(graph, tmp_path / "net.onnx", {})
    images = coarse_images(graph.nodes[0].in_shape.height, 4)
    expected = evaluate(graph, images).numpy()
    np.testing.assert_allclose(
        runtime.Session(tmp_path / "net.onnx").run(images.numpy()), expected, rtol=1e-3, atol=1e-3
    )
    nodes = compile_model(tmp_path / "net.onnx").get_runtime_model().get_ordered_ops()
    assert "Math" not in {kind_of(node) for node in nodes}  # slow functions, element by element
    assert any("stem/0/conv" in name for name in runtime.float_operators(tmp_path / "net.onnx"))


@pytest.mark.parametrize("name", ["stage1/0/project", "stage2/0/se/reduce", "stage1/0/add", "stage1/0/se/scale"])
def test_output_that_is_not_quantized_is_reported(int8_file, name):
    model = onnx.load(int8_file)
    nodes = model.graph.node
    (quantize,) = (node for node in nodes if node.output[0] == name)
    readers = {node.output[0] for node in nodes if name in node.input}
    for node in nodes:
        node.input[:] = [quantize.input[0] if source in readers else source for source in node.input]
    nodes.remove(quantize)
    for dangling in [node for node in nodes if node.output[0] in readers]:
        if dangling.op_type == "DequantizeLinear":
            nodes.remove(dangling)
    onnx.save(model, int8_file)
    assert runtime.float_operators(int8_file) != ()


def test_onnx_runtimes_file_would_run_strided_shortcuts_in_float(tmp_path, graph):
    files.export_int8(graph, tmp_path / "net.onnx", {})
    found = runtime.float_operators(tmp_path / "net.onnx")
    assert any(name.startswith("Convolution stage2/0/shortcut") for name in found)


def test_metadata_names_this_runtime(int8_file):
    stored = runtime.metadata(int8_file)
    assert stored["encoding"] == "micro-222-012"
    assert stored["runtime"] == f"openvino {runtime.version()}"


def test_foreign_file(tmp_path):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["b"])],
        "foreign",
        [info("a", onnx.TensorProto.FLOAT, [1])],
        [info("b", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match="not written by spaceevo"):
        runtime.Session(tmp_path / "net.onnx")


def test_missing_tensor(int8_file):
    with pytest.raises(ArtifactError, match="no model that OpenVINO can load"):
        runtime.Session(int8_file, taps=["stage9"])


@pytest.mark.parametrize("block", [1, 2, 4])
def test_time_and_profile(tmp_path, block, capfd):
    ops = micro_program(block)
    int8, fp32 = tmp_path / "int8.onnx", tmp_path / "fp32.onnx"
    runtime.export_int8(random_integer_graph(ops, seed=1), int8, {})
    runtime.export_fp32(random_float_graph(ops, seed=1), fp32, {})
    names = {op.id for op in ops}
    for path in (int8, fp32):
        samples = runtime.load(path).time(7)
        assert len(samples) == 7
        assert min(samples) > 0
        times = runtime.profile(path, 7)
        assert all(name in names or name.startswith("~") for name in times), times.keys() - names
        assert min(times.values()) >= 0
        assert sum(times.values()) < 10 * np.mean(samples)
        assert "stem/0/conv" in times
    assert sum(map(len, capfd.readouterr())) == 0


def test_w_qmax():
    assert {profile.name: runtime.w_qmax(profile) for profile in PROFILES} == {
        "x86-vnni": 127, "x86-avx2": 63, "arm-dotprod": 127, "arm": 127, "other": 127,
    }  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")
@pytest.mark.parametrize(("w_qmax", "is_exact"), [(63, True), (127, False)])
def test_x86_without_vnni_is_exact_up_to_63(tmp_path, w_qmax, is_exact):
    graph = random_integer_graph(micro_program(3), 1, w_qmax)
    path, images = tmp_path / "net.onnx", coarse_images(graph.nodes[0].in_shape.height, 4)
    runtime.export_int8(graph, path, {})
    np.save(tmp_path / "images.npy", images.numpy())
    code = (
        "import sys, pathlib, numpy as np; from spaceevo.runtimes import openvino;"
        "folder = pathlib.Path(sys.argv[1]); session = openvino.Session(folder / 'net.onnx');"
        "np.save(folder / 'logits.npy', session.run(np.load(folder / 'images.npy')))"
    )
    # oneDNN takes no better instructions than these
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    found = compare(logits, run_integer(graph, images, None, runtime.ARITHMETIC))
    assert (found.mean_steps < 0.1) == is_exact


def test_nothing_is_printed_sent_or_left_in_the_home_folder(tmp_path):
    code = (
        "import sys, socket; from spaceevo.runtimes import openvino;"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino'} & sys.modules.keys();"
        "socket.socket.connect = socket.getaddrinfo = None;"
        "openvino.version();"
        "assert 'openvino_telemetry' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**environment, "HOME": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(Path(tmp_path).iterdir()) == []


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TargetError, match=r"spaceevo\[openvino\]"):
        runtime.version()
