"""What every runtime keeps (`spaceevo.runtimes.Runtime`)."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spaceevo.errors import ArtifactError, DataError, ExportError, NoSpaceError, TargetError
from spaceevo.graph.graphs import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Role
from spaceevo.graph.ops import Conv, Depthwise, Gate, Linear, Multiply, Relabel
from spaceevo.graph.tensors import Shape, Tensor
from spaceevo.graph.trace import Tracer, published
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.executors import run_integer
from spaceevo.nets.extracted import digest
from spaceevo.nets.verification import DIGEST, PROFILE, verify
from spaceevo.processors import PROFILES, Profile
from spaceevo.records import Verification
from spaceevo.runtimes import RUNTIMES, Runtime
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program
from spaceevo.testing._processes import brought_by
from spaceevo.testing._threads import OneThread
from spaceevo.testing.float_evaluation import evaluate

SEED = 3


def program() -> Any:
    """Every kind of operator of the hyperspace micro: SE, hard-swish, swish, relu, additions."""
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(SpaceChoice((4, 2, 1), (0, 0, 0)), 10)
    return network_program(replace(space.sample(random.Random(SEED)), resolution=32))


GRAPH = random_integer_graph(program(), SEED, 63)
METADATA = {DIGEST: digest(GRAPH), PROFILE: "x86-avx2", "class_names": json.dumps(["é", "b"])}


def _images(count: int = 32) -> torch.Tensor:
    patterns = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(patterns * 1.5, size=(32, 32), mode="bilinear")


def _verification(name: str, path: Path, graph: IntegerGraph = GRAPH, count: int = 32) -> Verification:
    labels = torch.arange(count) % 10
    return verify(path, name, graph, _images(count).split(128), labels, "x86-vnni", min_agreement=0.99)


def _scale(graph: Any) -> Any:
    """Three per cent too coarse, of a tensor in the middle."""
    name = _middle(graph)
    params = graph.quant_params[name]
    return replace(
        graph, quant_params={**graph.quant_params, name: QuantParams(params.scale * 1.03, params.zero_point)}
    )


def _zero_points(graph: Any) -> Any:
    """Two tensors' zero points swapped."""
    names = [o.id for o in graph.nodes if o.out.quantizer == "free" and isinstance(o.op, Conv | Depthwise)]
    a = names[len(names) // 2]
    b = next(n for n in names if abs(graph.quant_params[n].zero_point - graph.quant_params[a].zero_point) > 2)
    pa, pb = graph.quant_params[a], graph.quant_params[b]
    swapped = {a: QuantParams(pa.scale, pb.zero_point), b: QuantParams(pb.scale, pa.zero_point)}
    return replace(graph, quant_params={**graph.quant_params, **swapped})


def _weights(graph: Any, change: Any) -> Any:
    name = _middle(graph)
    own = graph.weights[name]
    return replace(graph, weights={**graph.weights, name: change(own)})


def _codes(graph: Any) -> Any:
    """All codes of one channel negated."""
    sign = np.ones((len(graph.weights[_middle(graph)].scales), 1, 1, 1), np.int8)
    sign[0] = -1
    return _weights(graph, lambda own: IntegerWeights(own.codes * sign, own.scales, own.bias))


def _bias(graph: Any) -> Any:
    """Biases left out."""
    return _weights(graph, lambda own: IntegerWeights(own.codes, own.scales, np.zeros_like(own.bias)))


def _middle(graph: Any) -> Any:
    names = [o.id for o in graph.nodes if isinstance(o.op, Conv) and o.in_shape.height > 1]
    return names[len(names) // 2]


def rectangle(height: int, width: int) -> Any:
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


def _patterns(height: int, width: int, count: int = 6) -> torch.Tensor:
    noise = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise * 1.5, size=(height, width), mode="bilinear")


class RuntimeSuite(OneThread):
    """Laws of a runtime that is installed; they are skipped where it is not.

    Attributes:
        NAME: Of the plug-in.
        HEAVY: Packages that it imports where they are used, and not before.
    """

    NAME: ClassVar[str]
    HEAVY: ClassVar[frozenset[str]] = frozenset({"torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert"})

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    @pytest.fixture
    def runtime(self, name: str) -> Runtime:
        module = RUNTIMES.load(name)
        try:
            module.version()
        except TargetError as error:
            pytest.skip(str(error))
        return module

    @pytest.fixture
    def file(self, runtime: Runtime, tmp_path: Path) -> Path:
        path = tmp_path / f"net{runtime.SUFFIX}"
        runtime.export_int8(GRAPH, path, METADATA)
        return path

    def test_file_computes_what_the_reference_does(self, name: str, runtime: Runtime, file: Path) -> None:
        found = _verification(name, file)
        assert found.problems == ()
        assert found.integer.top1 == 1
        assert found.integer.mean_steps < 0.05
        assert found.changed_constants == found.float_operators == ()
        assert (found.exported_for, found.verified_on) == ("x86-avx2", "x86-vnni")
        assert found.runtime == f"{name} {runtime.version()}"

    @pytest.mark.parametrize("inject", [_scale, _zero_points, _codes, _bias], ids=lambda inject: inject.__name__[1:])
    def test_faults_are_caught_and_located(self, name: str, runtime: Runtime, tmp_path: Path, inject: Any) -> None:
        path = tmp_path / f"net{runtime.SUFFIX}"
        wrong = inject(GRAPH)
        runtime.export_int8(wrong, path, METADATA)  # under the digest of the right one
        found = _verification(name, path)
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

    def test_file_of_another_network_is_refused(self, name: str, runtime: Runtime, file: Path) -> None:
        with pytest.raises(ArtifactError, match="exported from another network"):
            _verification(name, file, random_integer_graph(program(), SEED + 1, 63))

    def test_taps_are_the_codes_of_the_reference(self, runtime: Runtime, file: Path) -> None:
        ours = {}
        run_integer(GRAPH, _images(4), lambda name, codes: ours.update({name: codes.numpy()}), runtime.ARITHMETIC)
        name = _middle(GRAPH)
        codes = runtime.Session(file, taps=[name]).codes(_images(4).numpy())[name]
        assert codes.dtype == np.uint8
        assert codes.shape == ours[name].shape
        assert (codes != ours[name]).mean() < 0.01

    def test_constants_are_those_of_the_graph_bit_for_bit(self, runtime: Runtime, file: Path) -> None:
        """Whatever a runtime calls them: every bias and every weight code lies in the file as trained."""
        arrays = list(runtime.constants(file).values())
        contents = {np.ascontiguousarray(array).tobytes() for array in arrays}
        sorted_codes = {
            np.sort(array.astype(np.int16), axis=None).tobytes() for array in arrays if array.dtype == np.int8
        }
        for name, own in GRAPH.weights.items():
            if name.endswith("logits"):  # may stay float
                continue
            assert own.bias.tobytes() in contents, name
            assert np.sort(own.codes.astype(np.int16), axis=None).tobytes() in sorted_codes, name

    def test_published_placement_is_refused(self, runtime: Runtime, tmp_path: Path) -> None:
        space = load_hyperspace("onnxw").space(SpaceChoice((0,) * 6, (0,) * 6), 10)
        program = network_program(replace(space.smallest(), resolution=32))
        graph = replace(GRAPH, nodes=published(program))
        with pytest.raises(ExportError, match=r"published placement.*spaceevo quantize"):
            runtime.export_int8(graph, tmp_path / f"net{runtime.SUFFIX}", {})

    def test_metadata_and_bytes(self, name: str, runtime: Runtime, file: Path, tmp_path: Path) -> None:
        stored = runtime.metadata(file)
        assert METADATA.items() <= stored.items()
        assert stored["runtime"] == f"{name} {runtime.version()}"
        again = tmp_path / f"again{runtime.SUFFIX}"
        runtime.export_int8(GRAPH, again, METADATA)
        assert again.read_bytes() == file.read_bytes()
        assert {path.name for path in tmp_path.iterdir()} == {file.name, again.name}

    def test_fp32_twin(self, runtime: Runtime, tmp_path: Path) -> None:
        path = tmp_path / f"net{runtime.SUFFIX}"
        graph = random_float_graph(program(), SEED)
        runtime.export_fp32(graph, path, {})
        logits = runtime.Session(path).run(_images(4).numpy())
        np.testing.assert_allclose(logits, evaluate(graph, _images(4)).numpy(), rtol=1e-3, atol=1e-3)
        assert min(runtime.load(path).time(3)) > 0

    @pytest.mark.parametrize(("height", "width"), RECTANGLES)
    def test_rectangle(self, runtime: Runtime, tmp_path: Path, height: int, width: int) -> None:
        graph = random_integer_graph(rectangle(height, width), SEED, 63)
        path, inputs = tmp_path / f"net{runtime.SUFFIX}", _patterns(height, width)
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
    def test_fp32_rectangle(self, runtime: Runtime, tmp_path: Path, height: int, width: int) -> None:
        path, inputs = tmp_path / f"net{runtime.SUFFIX}", _patterns(height, width)
        graph = random_float_graph(rectangle(height, width), SEED)
        runtime.export_fp32(graph, path, {})
        logits = runtime.Session(path).run(inputs.numpy())
        np.testing.assert_allclose(logits, evaluate(graph, inputs).numpy(), rtol=1e-4, atol=1e-4)
        with pytest.raises(DataError, match="takes images of the shape"):
            runtime.Session(path).run(_patterns(width, height).numpy())

    def test_gate_that_is_no_half_of_a_hard_swish(self, runtime: Runtime, tmp_path: Path) -> None:
        """The last of a part, or of a pooled tensor for another one: where hard-swish is one operator, not this."""
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
            path, inputs = tmp_path / f"net{runtime.SUFFIX}", _patterns(12, 20)
            runtime.export_fp32(graph, path, {})
            found = runtime.Session(path).run(inputs.numpy())
            np.testing.assert_allclose(found, evaluate(graph, inputs).numpy(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("use", ["Session", "load", "open_model", "metadata", "constants", "float_operators"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
    def test_damaged_files(self, runtime: Runtime, file: Path, use: Any, damage: Any) -> None:
        content = file.read_bytes()
        match damage:
            case "missing":
                file.unlink()
            case "empty":
                file.write_bytes(b"")
            case "text":
                file.write_bytes(b"not a model " * 100)
            case "truncated":
                file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError):
            getattr(runtime, use)(file)

    def test_wrong_image_size(self, runtime: Runtime, file: Path) -> None:
        with pytest.raises(DataError, match="takes images of the shape"):
            runtime.Session(file).run(np.zeros((1, 3, 31, 32), np.float32))

    def test_missing_folder(self, runtime: Runtime, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(NoSpaceError):
            runtime.export_int8(GRAPH, tmp_path / "file" / f"net{runtime.SUFFIX}", {})

    def test_times(self, runtime: Runtime, file: Path) -> None:
        samples = runtime.load(file, threads=1).time(5)
        assert len(samples) == 5
        assert min(samples) > 0

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_largest_weight_code(self, runtime: Runtime, profile: Profile) -> None:
        assert runtime.w_qmax(profile) in (63, 127)

    def test_import_is_light(self, name: str) -> None:
        assert brought_by(RUNTIMES.package, name, self.HEAVY) == set()
