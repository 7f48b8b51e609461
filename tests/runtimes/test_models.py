"""What is known about a model file before any runtime is asked."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from made_models import made_onnx, made_tflite
from spaceevo.errors import ArtifactError
from spaceevo.runtimes import RUNTIMES, _models, onnxruntime, openvino
from spaceevo.runtimes._models import Input, Model, without_cpp
from spaceevo.runtimes._onnx_models import open_onnx

INPUTS = (("pixels", "uint8", (1, 8, 8, 3)), ("scale", "float32", ("batch", 5)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4), kept=st.floats(0, 1))
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_garbled_file_is_refused_or_whole(
    runtime: str, changes: list[tuple[float, int]], kept: float, tmp_path: Path
) -> None:
    plugin = RUNTIMES.load(runtime)
    path = tmp_path / f"mine{plugin.SUFFIX}"
    (made_tflite if runtime == "litert" else made_onnx)(path, *INPUTS)
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    path.write_bytes(content[: max(1, int(kept * len(content)))] if kept < 0.5 else content)
    with suppress(ArtifactError):
        plugin.open_model(path)


def test_names_in_a_file_that_are_no_text(tmp_path: Path) -> None:
    content = made_onnx(tmp_path / "mine.onnx", *INPUTS).read_bytes()
    (tmp_path / "axis.onnx").write_bytes(content.replace(b"batch", b"\xffatch"))
    assert [made.shape for made in open_onnx(tmp_path / "axis.onnx").inputs] == [(1, 8, 8, 3), (1, 5)]
    (tmp_path / "input.onnx").write_bytes(content.replace(b"pixels", b"\xffixels"))
    with pytest.raises(ArtifactError, match=r"xffixels.* no UTF-8 text"):
        open_onnx(tmp_path / "input.onnx")


@pytest.mark.parametrize(
    ("shapes", "batch"),
    [
        ([], 1),
        ([()], 1),
        ([(784,)], 1),
        ([(8, 3, 32, 32)], 8),
        ([(1, 77), (1, 4, 8, 8)], 1),
        ([(4096, 2), (1, 3, 8, 8)], 1),
        ([(1, 4), (8, 3, 8, 8)], 8),
        ([(8, 128), (8, 128)], 8),
    ],
)
def test_the_batch_is_that_of_the_input_with_the_most_axes(shapes: list[tuple[int, ...]], batch: int) -> None:
    assert Model(Path("m"), tuple(Input(str(at), "float32", shape) for at, shape in enumerate(shapes))).batch == batch


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("../weights.bin", "not in the model's folder"),
        ("/weights.bin", "not in the model's folder"),
        ("weights.bin", "there is no"),
    ],
)
def test_weights_elsewhere(place: str, told: str, tmp_path: Path) -> None:
    model = onnx.load(made_onnx(tmp_path / "mine.onnx", *INPUTS))
    (weight,) = model.graph.initializer
    weight.data_location = weight.EXTERNAL
    weight.external_data.add(key="location", value=place)
    (tmp_path / "mine.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=told):
        open_onnx(tmp_path / "mine.onnx")


def test_weights_of_functions(tmp_path: Path) -> None:
    weight = onnx.TensorProto(
        dims=[1], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL, name="w"
    )
    weight.external_data.add(key="location", value="mine.bin")
    model = onnx.load(made_onnx(tmp_path / "mine.onnx", *INPUTS))
    node = onnx.helper.make_node("Constant", [], ["y"], value=weight)
    model.functions.append(onnx.helper.make_function("own", "F", [], ["y"], [node], model.opset_import))
    (tmp_path / "mine.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "mine.bin").write_bytes(bytes(4))
    assert open_onnx(tmp_path / "mine.onnx").weights == (tmp_path / "mine.bin",)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    made_onnx(tmp_path / "mine.onnx", *INPUTS).rename(path)
    with pytest.raises(ArtifactError, match="not UTF-8"):
        onnxruntime.open_model(path)


def test_weights_behind_a_link(tmp_path: Path) -> None:
    """ONNX Runtime takes them where the model is a link into their folder, as in caches of hubs; OpenVINO never."""
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    path = tmp_path / "snapshot" / "mine.onnx"
    model = onnx.load(made_onnx(path, *INPUTS))
    onnx.save_model(model, path, save_as_external_data=True, location="mine.bin", size_threshold=0)
    (tmp_path / "snapshot" / "mine.bin").rename(tmp_path / "blobs" / "b")
    (tmp_path / "snapshot" / "mine.bin").symlink_to("../blobs/b")
    for runtime in (onnxruntime, openvino):
        with pytest.raises(ArtifactError, match=r"is a link to .* out of its folder"):
            runtime.open_model(path)
    path.rename(tmp_path / "blobs" / "a")
    path.symlink_to("../blobs/a")
    assert onnxruntime.load(path).time(1)
    with pytest.raises(ArtifactError, match=r"is a link to .* out of its folder"):
        openvino.open_model(path)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "failed:/src/core/model.cc:256 a::Model::Model(b::Proto&&, const c<d::e>&, f) Unsupported IR version: 99",
            "failed: Unsupported IR version: 99",
        ),
        ("Error: utils.cc:619 ValidateDataPath External path does not exist", "Error: External path does not exist"),
        ("/src/x.cc:1 int a::f(int) [with T = float] it is (really) wrong", "it is (really) wrong"),
        ("nothing of the kind (at all)", "nothing of the kind (at all)"),
    ],
)
def test_messages_without_places_in_the_source(message: str, told: str) -> None:
    assert without_cpp(message) == told


def test_a_long_reason_keeps_its_end() -> None:
    told: Any = _models.shortened("a" * 5000 + " the reason")
    assert told.endswith("the reason")
    assert len(told) < 1100
