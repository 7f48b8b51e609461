"""What every runtime has to keep, over every file of the folder; one that is not installed is skipped."""

import importlib.util
import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from float_evaluation import evaluate
from spaceevo.errors import ArtifactError, DataError, ExportError, NoSpaceError, TargetError
from spaceevo.graph.graphs import IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Role
from spaceevo.graph.ops import Conv, Depthwise, Gate, Linear, Multiply, Relabel
from spaceevo.graph.tensors import Shape, Tensor
from spaceevo.graph.trace import Tracer, published
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.executors import run_integer
from spaceevo.nets.extracted import digest
from spaceevo.nets.verification import DIGEST, PROFILE, verify
from spaceevo.processors import PROFILES
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 3


@pytest.fixture(params=RUNTIMES.names())
def runtime(request):
    module = RUNTIMES.load(request.param)
    try:
        module.version()
    except TargetError as error:
        pytest.skip(str(error))
    return module


def program():
    """Every kind of operator of the hyperspace micro: SE, hard-swish, swish, relu, additions."""
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(SpaceChoice((4, 2, 1), (0, 0, 0)), 10)
    return network_program(replace(space.sample(random.Random(SEED)), resolution=32))


GRAPH = random_integer_graph(program(), SEED, 63)
METADATA = {DIGEST: digest(GRAPH), PROFILE: "x86-avx2", "class_names": json.dumps(["é", "b"])}


def images(count=32):
    patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(patterns * 1.5, size=(32, 32), mode="bilinear")


@pytest.fixture
def file(runtime, tmp_path):
    path = tmp_path / f"net{runtime.SUFFIX}"
    runtime.export_int8(GRAPH, path, METADATA)
    return path


def verification(runtime, path, graph=GRAPH, count=32):
    labels = torch.arange(count) % 10
    return verify(path, name_of(runtime), graph, images(count).split(128), labels, "x86-vnni", min_agreement=0.99)


def test_file_computes_what_the_reference_does(runtime, file):
    found = verification(runtime, file)
    assert found.problems == ()
    assert found.integer.top1 == 1
    assert found.integer.mean_steps < 0.05
    assert found.changed_constants == found.float_operators == ()
    assert (found.exported_for, found.verified_on) == ("x86-avx2", "x86-vnni")
    assert found.runtime == f"{name_of(runtime)} {runtime.version()}"


def name_of(runtime):
    return runtime.__name__.rsplit(".", 1)[1].replace("_", "-")


def _scale(graph):
    """Three per cent too coarse, of a tensor in the middle."""
    name = _middle(graph)
    params = graph.quant_params[name]
    return replace(
        graph, quant_params={**graph.quant_params, name: QuantParams(params.scale * 1.03, params.zero_point)}
    )


def _zero_points(graph):
    """Two tensors' zero points swapped."""
    names = [o.id for o in graph.nodes if o.out.quantizer == "free" and isinstance(o.op, Conv | Depthwise)]
    a = names[len(names) // 2]
    b = next(n for n in names if abs(graph.quant_params[n].zero_point - graph.quant_params[a].zero_point) > 2)
    pa, pb = graph.quant_params[a], graph.quant_params[b]
    swapped = {a: QuantParams(pa.scale, pb.zero_point), b: QuantParams(pb.scale, pa.zero_point)}
    return replace(graph, quant_params={**graph.quant_params, **swapped})


def _weights(graph, change):
    name = _middle(graph)
    own = graph.weights[name]
    return replace(graph, weights={**graph.weights, name: change(own)})


def _codes(graph):
    """All codes of one channel negated."""
    sign = np.ones((len(graph.weights[_middle(graph)].scales), 1, 1, 1), np.int8)
    sign[0] = -1
    return _weights(graph, lambda own: IntegerWeights(own.codes * sign, own.scales, own.bias))


def _bias(graph):
    """Biases left out."""
    return _weights(graph, lambda own: IntegerWeights(own.codes, own.scales, np.zeros_like(own.bias)))


def _middle(graph):
    names = [o.id for o in graph.nodes if isinstance(o.op, Conv) and o.in_shape.height > 1]
    return names[len(names) // 2]


@pytest.mark.parametrize("inject", [_scale, _zero_points, _codes, _bias], ids=lambda inject: inject.__name__[1:])
def test_faults_are_caught_and_located(runtime, tmp_path, inject):
    path = tmp_path / f"net{runtime.SUFFIX}"
    wrong = inject(GRAPH)
    runtime.export_int8(wrong, path, METADATA)  # under the digest of the right one
    found = verification(runtime, path)
    assert found.changed_constants
    assert any("constants are not the network's" in problem for problem in found.problems)
    first = next(
        name
        for name in (o.id for o in GRAPH.nodes)
        if wrong.quant_params.get(name) != GRAPH.quant_params.get(name)
        or wrong.weights.get(name) is not GRAPH.weights.get(name)
    )
    names = [o.id for o in GRAPH.nodes]
    assert 0 <= names.index(found.first_difference) - names.index(first) <= 3, (found.first_difference, first)
    assert found.differing_codes > 0


def test_file_of_another_network_is_refused(runtime, file):
    with pytest.raises(ArtifactError, match="exported from another network"):
        verification(runtime, file, random_integer_graph(program(), SEED + 1, 63))


def test_taps_are_the_codes_of_the_reference(runtime, file):
    ours = {}
    run_integer(GRAPH, images(4), lambda name, codes: ours.update({name: codes.numpy()}), runtime.ARITHMETIC)
    name = _middle(GRAPH)
    codes = runtime.Session(file, taps=[name]).codes(images(4).numpy())[name]
    assert codes.dtype == np.uint8
    assert codes.shape == ours[name].shape
    assert (codes != ours[name]).mean() < 0.01


def test_constants_are_those_of_the_graph_bit_for_bit(runtime, file):
    """Whatever a runtime calls them: every bias and every weight code lies in the file as trained."""
    arrays = list(runtime.constants(file).values())
    contents = {np.ascontiguousarray(array).tobytes() for array in arrays}
    sorted_codes = {np.sort(array.astype(np.int16), axis=None).tobytes() for array in arrays if array.dtype == np.int8}
    for name, own in GRAPH.weights.items():
        if name.endswith("logits"):  # may stay float
            continue
        assert own.bias.tobytes() in contents, name
        assert np.sort(own.codes.astype(np.int16), axis=None).tobytes() in sorted_codes, name


def test_published_placement_is_refused(runtime, tmp_path):
    space = load_hyperspace("onnxw").space(SpaceChoice((0,) * 6, (0,) * 6), 10)
    program = network_program(replace(space.smallest(), resolution=32))
    graph = replace(GRAPH, nodes=published(program))
    with pytest.raises(ExportError, match=r"published placement.*spaceevo quantize"):
        runtime.export_int8(graph, tmp_path / f"net{runtime.SUFFIX}", {})


def test_metadata_and_bytes(runtime, file, tmp_path):
    stored = runtime.metadata(file)
    assert METADATA.items() <= stored.items()
    assert stored["runtime"] == f"{name_of(runtime)} {runtime.version()}"
    again = tmp_path / f"again{runtime.SUFFIX}"
    runtime.export_int8(GRAPH, again, METADATA)
    assert again.read_bytes() == file.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {file.name, again.name}


def test_fp32_twin(runtime, tmp_path):
    path = tmp_path / f"net{runtime.SUFFIX}"
    graph = random_float_graph(program(), SEED)
    runtime.export_fp32(graph, path, {})
    logits = runtime.Session(path).run(images(4).numpy())
    np.testing.assert_allclose(logits, evaluate(graph, images(4)).numpy(), rtol=1e-3, atol=1e-3)
    assert min(runtime.load(path).time(3)) > 0


def rectangle(height, width):
    """Every operator, on images that are not square."""
    net = Tracer(Shape(3, height, width))
    x = source = net.conv("stem", net.input, 8, kernel_size=3, stride=2, activation="hard_swish")
    x = net.depthwise("depthwise", x, kernel_size=5, activation="relu")
    x = net.squeeze_excite("se", x, 4)
    x = net.conv("project", x, 8)
    x = source = net.max_pool("smaller", net.residual(x, source, activation="relu"))
    x = net.conv("down", x, 12, kernel_size=3, stride=2, activation="swish")
    with net.scope("other"):
        x = net.shortcut(x, source, stride=2)
    x = net.depthwise("cropped", x, kernel_size=5, crop=1, activation="relu6")
    net.linear("logits", net.pool("pool", x), 10)
    return net.program


RECTANGLES = [(40, 24), (29, 46), (23, 64)]  # even, odd, and padded otherwise on either axis


def patterns(height, width, count=6):
    noise = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise * 1.5, size=(height, width), mode="bilinear")


@pytest.mark.parametrize(("height", "width"), RECTANGLES)
def test_rectangle(runtime, tmp_path, height, width):
    graph = random_integer_graph(rectangle(height, width), SEED, 63)
    path, inputs = tmp_path / f"net{runtime.SUFFIX}", patterns(height, width)
    runtime.export_int8(graph, path, {})
    assert runtime.float_operators(path) == ()
    expected = {}
    logits = run_integer(
        graph, inputs, lambda name, codes: expected.update({name: codes.numpy()}), runtime.ARITHMETIC
    ).numpy()
    # One by one: a tensor that is put out may change what a runtime makes of those beside it
    names = [node.id for node in graph.nodes if not isinstance(node.op, Relabel | Linear)]
    found = {name: runtime.Session(path, taps=[name]).codes(inputs.numpy())[name] for name in names}
    wrong = {name: int((found[name] != expected[name]).sum()) for name in names}
    assert wrong == dict.fromkeys(names, 0)
    assert {codes.shape[2] == codes.shape[3] for codes in found.values()} == {False, True}  # the latter are pooled
    np.testing.assert_allclose(runtime.Session(path).run(inputs.numpy()), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), RECTANGLES)
def test_fp32_rectangle(runtime, tmp_path, height, width):
    path, inputs = tmp_path / f"net{runtime.SUFFIX}", patterns(height, width)
    graph = random_float_graph(rectangle(height, width), SEED)
    runtime.export_fp32(graph, path, {})
    logits = runtime.Session(path).run(inputs.numpy())
    np.testing.assert_allclose(logits, evaluate(graph, inputs).numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="takes images of the shape"):
        runtime.Session(path).run(patterns(width, height).numpy())


def test_gate_that_is_no_half_of_a_hard_swish(runtime, tmp_path):
    """The last of a part, or of a pooled tensor for another one: where hard-swish is one operator, it is not this."""
    net = Tracer(Shape(3, 12, 20))
    pooled = net.pool("pool", net.conv("a", net.input, 8))
    b = net.conv("b", net.input, 8)
    small = Shape(8)
    gate = Node("gate", Gate(), (pooled.id,), small, Tensor(small, "gate"), Role("", None, "gate"))
    product = Node(
        "y", Multiply(per_channel=True), (b.id, "gate"), b.shape, Tensor(b.shape, "free"), Role("", None, "y")
    )
    for program in ((*net.program, gate), (*net.program, gate, product)):
        graph = random_float_graph(program, SEED)
        path, inputs = tmp_path / f"net{runtime.SUFFIX}", patterns(12, 20)
        runtime.export_fp32(graph, path, {})
        found = runtime.Session(path).run(inputs.numpy())
        np.testing.assert_allclose(found, evaluate(graph, inputs).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use", ["Session", "load", "open_model", "metadata", "constants", "float_operators"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_damaged_files(runtime, file, use, damage):
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("not a model " * 100)
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError):
        getattr(runtime, use)(file)


def test_wrong_image_size(runtime, file):
    with pytest.raises(DataError, match="takes images of the shape"):
        runtime.Session(file).run(np.zeros((1, 3, 31, 32), np.float32))


def test_missing_folder(runtime, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpaceError):
        runtime.export_int8(GRAPH, tmp_path / "file" / f"net{runtime.SUFFIX}", {})


def test_times(runtime, file):
    samples = runtime.load(file, threads=1).time(5)
    assert len(samples) == 5
    assert min(samples) > 0


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_largest_weight_code(runtime, profile):
    assert runtime.w_qmax(profile) in (63, 127)


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_import_is_light(name):
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert"}
    code = f"import sys, spaceevo.runtimes.{name.replace('-', '_')}; assert not {heavy!r} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_builtin_runtime_is_covered():
    assert {"onnxruntime", "litert", "openvino"} <= set(RUNTIMES.names())
    assert importlib.util.find_spec("onnxruntime") is not None
