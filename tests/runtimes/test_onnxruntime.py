"""Exported files against the integer executor, and the runtime's own view of them."""

import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from made_models import made_onnx
from spaceevo.errors import ArtifactError
from spaceevo.graph.ops import Linear, Relabel
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.executors import run_integer
from spaceevo.processors import PROFILES, profile_of
from spaceevo.runtimes import onnxruntime as runtime
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program
from spaceevo.testing.float_evaluation import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_BLOCKS = 5


def program(block, seed=0):
    space = load_hyperspace("micro").space(SpaceChoice((block,) * 3, (0, 1, 2)), 10)
    return network_program(space.sample(random.Random(seed)))


def coarse_images(size, count):
    """Images that differ clearly: random 4 x 4 patterns, float32 [count, 3, size, size]."""
    patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(patterns * 1.5, size=(size, size), mode="bilinear").numpy()


def processor_flags():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])


def tensors(path, names, images):
    """The codes of named tensors as ONNX Runtime computes them."""
    import onnxruntime

    model = onnx.load(path)
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    runs = [session.run(names, {"image": image[None]}) for image in images]
    return {name: np.concatenate([run[i] for run in runs]) for i, name in enumerate(names)}


@pytest.mark.parametrize("w_qmax", [63, 127])
def test_int8_file_equals_integer_executor(tmp_path, w_qmax, record_property):
    if w_qmax > runtime.w_qmax(profile_of(platform.machine(), processor_flags())):
        pytest.skip("this processor saturates with 8-bit weights")
    path = tmp_path / "net.onnx"
    same_tensors = num_tensors = same_codes = num_codes = same_top1 = num_images = 0
    for block in range(NUM_BLOCKS):
        graph = random_integer_graph(program(block, seed=w_qmax), block, w_qmax)
        runtime.export_int8(graph, path, {})
        assert runtime.float_operators(path) == ()
        images = coarse_images(graph.nodes[0].in_shape.height, 40)
        ours: dict[str, torch.Tensor] = {}
        reference = run_integer(graph, torch.from_numpy(images), ours.__setitem__).numpy()
        logits = runtime.Session(path).run(images)
        assert logits.dtype == np.float32
        assert logits.shape == (40, 10)
        same_top1 += int((logits.argmax(1) == reference.argmax(1)).sum())
        num_images += len(images)
        names = [op.id for op in graph.nodes if not isinstance(op.op, Relabel | Linear)]
        for name, theirs in tensors(path, names, images[:10]).items():
            difference = theirs != ours[name][:10].numpy()
            same_tensors += not difference.any()
            same_codes += int((~difference).sum())
            num_tensors += 1
            num_codes += difference.size
    record_property("identical_tensors", same_tensors / num_tensors)
    record_property("identical_codes", same_codes / num_codes)
    assert num_images >= 200
    assert same_top1 / num_images >= 0.995
    if platform.machine() == "x86_64":  # whose formulae the executor follows
        assert (same_tensors, same_codes) == (num_tensors, num_codes)
    else:
        assert same_codes / num_codes > 0.9


@pytest.mark.parametrize("block", range(NUM_BLOCKS))
def test_fp32_twin_equals_float_evaluation(tmp_path, block):
    graph = random_float_graph(program(block), seed=1)
    runtime.export_fp32(graph, tmp_path / "net.onnx", {})
    images = coarse_images(graph.nodes[0].in_shape.height, 8)
    expected = evaluate(graph, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(runtime.Session(tmp_path / "net.onnx").run(images), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def int8_file(tmp_path):
    path = tmp_path / "net.onnx"
    runtime.export_int8(random_integer_graph(program(2), seed=1), path, {"encoding": "micro-222-012"})
    return path


def test_scales_of_shape_1_are_reported(int8_file):
    model = onnx.load(int8_file)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("stage1/0/add|") and not tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(1), tensor.name))
    onnx.save(model, int8_file)
    assert any(name.startswith("Add stage1/0/add") for name in runtime.float_operators(int8_file))


def test_output_that_is_not_quantized_is_reported(int8_file):
    model = onnx.load(int8_file)
    nodes = model.graph.node
    (quantize,) = (node for node in nodes if node.output[0] == "stage1/0/project")
    readers = {node.output[0] for node in nodes if "stage1/0/project" in node.input}
    for node in nodes:
        node.input[:] = [quantize.input[0] if name in readers else name for name in node.input]
    nodes.remove(quantize)
    for dangling in [node for node in nodes if node.output[0] in readers]:
        nodes.remove(dangling)
    onnx.save(model, int8_file)
    assert any("stage1/0/project" in name for name in runtime.float_operators(int8_file))


def test_every_operator_of_the_twin_is_float(tmp_path):
    runtime.export_fp32(random_float_graph(program(0), seed=1), tmp_path / "net.onnx", {})
    found = runtime.float_operators(tmp_path / "net.onnx")
    assert any("logits" in name for name in found)
    assert any("stem/0/conv" in name for name in found)


def test_names_and_metadata(int8_file):
    model = onnx.load(int8_file)
    outputs = {name for node in model.graph.node for name in node.output}
    assert outputs.issuperset(op.id for op in program(2) if not isinstance(op.op, Relabel | Linear))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["encoding"] == "micro-222-012"
    assert metadata["runtime"] == f"onnxruntime {runtime.version()}"
    assert {"opset", "onnx"} <= metadata.keys()
    assert [path.name for path in int8_file.parent.iterdir()] == ["net.onnx"]


def test_same_graph_same_bytes(int8_file, tmp_path):
    again = tmp_path / "again.onnx"
    runtime.export_int8(random_integer_graph(program(2), seed=1), again, {"encoding": "micro-222-012"})
    assert again.read_bytes() == int8_file.read_bytes()


@pytest.mark.parametrize("use", [runtime.Session, runtime.float_operators, lambda path: runtime.profile(path, 1)])
def test_truncated_file(int8_file, use):
    int8_file.write_bytes(int8_file.read_bytes()[: int8_file.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="is no ONNX model"):
        use(int8_file)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 1000])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        runtime.Session(path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="There is no model"):
        runtime.Session(tmp_path / "net.onnx")


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


@pytest.mark.parametrize("block", [1, 2, 4])
def test_time_and_profile(tmp_path, block, capfd):
    ops = program(block)
    int8, fp32 = tmp_path / "int8.onnx", tmp_path / "fp32.onnx"
    runtime.export_int8(random_integer_graph(ops, seed=1), int8, {})
    runtime.export_fp32(random_float_graph(ops, seed=1), fp32, {})
    names = {op.id for op in ops}
    for path in (int8, fp32):
        samples = runtime.load(path).time(7)
        assert len(samples) == 7
        assert min(samples) > 0
        times = runtime.profile(path, 7)
        assert all(name in names or name.startswith("~") for name in times)
        assert min(times.values()) >= 0
    missing = names - runtime.profile(int8, 3).keys()
    assert missing == {op.id for op in ops if isinstance(op.op, Relabel)}
    assert sum(map(len, capfd.readouterr())) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"int8.onnx", "fp32.onnx"}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_w_qmax(profile):
    assert runtime.w_qmax(profile) == (63 if profile.name == "x86-avx2" else 127)


@pytest.mark.parametrize(("w_qmax", "profile", "asked"), [(127, 1, True), (63, 1, False), (127, 0, False)])
def test_exact_kernels_are_asked_for_only_where_sums_saturate(tmp_path, monkeypatch, w_qmax, profile, asked):
    import onnxruntime

    path = tmp_path / "net.onnx"
    runtime.export_int8(random_integer_graph(program(0), 1, w_qmax), path, {})
    monkeypatch.setattr("spaceevo.runtimes.onnxruntime.session.this_profile", lambda: PROFILES[profile])
    entries = []
    options = onnxruntime.SessionOptions
    add = options.add_session_config_entry
    monkeypatch.setattr(
        options, "add_session_config_entry", lambda self, *pair: (entries.append(pair), add(self, *pair))
    )
    runtime.Session(path)
    assert (("session.x64quantprecision", "1") in entries) == asked


def test_import_is_light():
    code = (
        "import sys, spaceevo.runtimes.onnxruntime, spaceevo.measure.random_graphs;"
        "assert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "script",
    [
        "from spaceevo.runtimes import onnxruntime; onnxruntime.load(path).time(1)",
        "own = {}; exec(device.read_text(), own); own['load'](str(path), 1)",  # as on a device
    ],
)
def test_nothing_is_left_in_the_home_folder(tmp_path, script):
    """ONNX Runtime would keep a queue of telemetry events there, and an id: see findings/onnxruntime-telemetry.sh."""
    path, home = made_onnx(tmp_path / "mine.onnx", ("x", "float32", (1, 3))), tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    start = "import sys; from pathlib import Path; path, device = map(Path, sys.argv[1:]); "
    words = [sys.executable, "-c", start + script, str(path), str(runtime.ON_DEVICE)]
    subprocess.run(words, check=True, env={**env, "HOME": str(home)})
    assert list(home.rglob("*")) == []
