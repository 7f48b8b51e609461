"""Models of anybody's: whatever is measured or refused on one transport is so, in the same words, on all others."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from made_models import Spec, made_onnx, made_tflite
from spaceevo.errors import ArtifactError
from spaceevo.measure import target
from spaceevo.measure.transports import Transport, fake
from spaceevo.runtimes import RUNTIMES

NAMES = ("onnxruntime", "litert", "openvino")
WHERE = {"local": "local", "ssh": "ssh:box", "fake": "fake:exact"}
TARGETS = [f"{runtime}@{place}" for runtime in NAMES for place in WHERE.values()]
IMAGE = (1, 3, 8, 8)
#: What is measured: the inputs, and the images in an inference.
MEASURED: dict[str, tuple[list[Spec], int]] = {
    **{
        dtype: ([("pixels", dtype, IMAGE)], 1)
        for dtype in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
    },
    "two": ([("pixels", "float32", IMAGE), ("mask", "bool", (1, 8))], 1),
    "three": ([("ids", "int64", (1, 7)), ("mask", "int64", (1, 7)), ("kinds", "int32", (1, 7))], 1),
    "none": ([], 1),
    "scalar": ([("pixels", "float32", IMAGE), ("threshold", "float32", ())], 1),
    "open batch": ([("pixels", "float32", ("batch", 3, 8, 8)), ("more", "uint8", (-1, 4))], 1),
    "one axis": ([("signal", "float32", (512,))], 1),
    "batch of 8": ([("scale", "float32", (1, 4)), ("pixels", "uint8", (8, 3, 8, 8))], 8),
}
REFUSED: dict[str, tuple[Spec, str]] = {
    "open height": (("pixels", "float32", (1, 3, "height", 8)), r"'pixels' .* has no fixed shape.*only the first axis"),
    "open classes": (("q", "float32", ("batch", -1)), r"'q' .* has no fixed shape.*\[(batch|\?|1), \?\]"),
    "string": (("names", "string", (1, 3)), r"'names' .* cannot be made up.*type is string"),
    "empty": (("pixels", "float32", (0, 3, 8, 8)), r"'pixels' .* is empty.*\[0, 3, 8, 8\]"),
    "huge": (("pixels", "float32", (1, 3, 60000, 60000)), r"'pixels' .* is too large.*2 GiB"),
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stand-in for ssh on the PATH, which runs the command here."""
    folder = tmp_path_factory.mktemp("bin")
    for name, script in {
        "ssh": f'while [ "$1" != "--" ]; do shift; done; shift 2; PATH="{folder}:$PATH" exec /bin/sh -c "$*"',
        "python3": f'exec {sys.executable} "$@"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        yield folder


@pytest.fixture(scope="module")
def devices(box: Path) -> Iterator[Callable[[str], Transport]]:
    """Connections, one to each target."""
    known: dict[str, Transport] = {}

    def get(name: str) -> Transport:
        if name not in known:
            known[name] = target.connect(name)
        return known[name]

    yield get
    for device in known.values():
        device.close()
    fake.reset()


def made(runtime: str, folder: Path, *inputs: Spec) -> Path:
    return (made_tflite if runtime == "litert" else made_onnx)(folder / f"mine{suffix(runtime)}", *inputs)


def suffix(runtime: str) -> str:
    return ".tflite" if runtime == "litert" else ".onnx"


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", MEASURED)
def test_what_is_measured(kind: str, name: str, devices: Any, tmp_path: Path) -> None:
    runtime = target.parse(name).runtime
    inputs, batch = MEASURED[kind]
    path = made(runtime, tmp_path, *inputs)
    opened = RUNTIMES.load(runtime).open_model(path)
    assert [(own.name, own.dtype) for own in opened.inputs] == [spec[:2] for spec in inputs]
    assert opened.batch == batch
    model = devices(name).load(runtime, path, 1)
    samples = model.time(3)
    assert len(samples) == 3
    assert min(samples) > 0
    model.close()


@pytest.mark.parametrize("runtime", NAMES)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, runtime: str, devices: Any, tmp_path: Path) -> None:
    spec, told = REFUSED[kind]
    path = made(runtime, tmp_path, spec)
    said = set()
    for place in WHERE.values():
        with pytest.raises(ArtifactError, match=told) as error:
            devices(f"{runtime}@{place}").load(runtime, path, 1)
        said.add(str(error.value))
    assert len(said) == 1


@pytest.mark.parametrize("name", ["onnxruntime@local", "onnxruntime@ssh:box", "openvino@local", "openvino@ssh:box"])
def test_times_of_operators(name: str, devices: Any, tmp_path: Path) -> None:
    runtime = target.parse(name).runtime
    path = made_onnx(tmp_path / "mine.onnx", ("a", "float32", ("n", 3, 256, 256)), ("b", "int32", (1, 5)))
    times = devices(name).profile(runtime, path, 1, 3)
    assert sum(times.values()) > 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "page of HTML"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\x80\x04\x95" + bytes(100), "a pickle"),
        (b"no model at all " * 9, "no ONNX model|does not begin like a model in the format TFLite"),
    ],
)
def test_what_is_no_model(content: bytes, told: str, name: str, devices: Any, tmp_path: Path) -> None:
    runtime = target.parse(name).runtime
    path = tmp_path / f"mine{suffix(runtime)}"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=told):
        devices(name).load(runtime, path, 1)


@pytest.mark.parametrize("name", TARGETS)
def test_a_model_of_another_runtime(name: str, devices: Any, tmp_path: Path) -> None:
    runtime = target.parse(name).runtime
    path = tmp_path / f"mine{suffix(runtime)}"
    if runtime == "openvino":  # which reads both
        assert devices(name).load(runtime, made_tflite(tmp_path / "mine.tflite", ("x", "float32", (1, 9))), 1).time(1)
        return
    (made_onnx if runtime == "litert" else made_tflite)(path, ("x", "float32", (1, 9)))
    with pytest.raises(ArtifactError, match=r"no model that .* can load.*(onnxruntime|litert), openvino"):
        devices(name).load(runtime, path, 1)


@pytest.mark.parametrize("name", ["onnxruntime@local", "onnxruntime@ssh:box"])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"opset": 99}, r"Opset 99; ONNX Runtime [\d.]+ knows up to \d+\. .*opset \d+ or less, or install a newer"),
        ({"ir_version": 99}, r"IR version 99; ONNX Runtime [\d.]+ knows up to \d+\. .*install a newer"),
        ({"operator": "Fancy"}, r"No Op registered for Fancy.*without operators"),
    ],
)
def test_why_onnx_runtime_refuses_a_model(settings: Any, told: str, name: str, devices: Any, tmp_path: Path) -> None:
    path = made_onnx(tmp_path / "mine.onnx", ("x", "float32", (1, 3)), **settings)
    with pytest.raises(ArtifactError, match=told) as error:
        devices(name).load("onnxruntime", path, 1)
    assert "mine.onnx" in str(error.value)
    assert "onnxruntime::" not in str(error.value)


@pytest.mark.parametrize("name", ["openvino@local", "openvino@ssh:box"])
def test_why_openvino_refuses_a_model(name: str, devices: Any, tmp_path: Path) -> None:
    path = made_onnx(tmp_path / "mine.onnx", ("x", "float32", (1, 3)), operator="Fancy")
    with pytest.raises(ArtifactError, match=r"No conversion rule found for operations: Fancy.*without these") as error:
        devices(name).load("openvino", path, 1)
    assert ".cpp" not in str(error.value)


@pytest.mark.parametrize("name", ["litert@local", "litert@ssh:box"])
def test_why_litert_refuses_a_model(name: str, devices: Any, tmp_path: Path) -> None:
    path = made_tflite(tmp_path / "mine.tflite", ("x", "float32", (1, 3)), custom="Fancy")
    with pytest.raises(ArtifactError, match=r"custom op: Fancy.*without custom operators"):
        devices(name).load("litert", path, 1)


@pytest.mark.parametrize("place", WHERE.values())
def test_several_signatures_and_subgraphs(place: str, devices: Any, tmp_path: Path) -> None:
    device = devices(f"litert@{place}")
    spec: Spec = ("x", "float32", (1, 3))
    with pytest.raises(ArtifactError, match=r"several signatures.*train, infer.*file of its own"):
        device.load("litert", made_tflite(tmp_path / "a.tflite", spec, signatures=("train", "infer")), 1)
    assert device.load("litert", made_tflite(tmp_path / "b.tflite", spec, subgraphs=2), 1).time(1)
    assert device.load("litert", made_tflite(tmp_path / "c.tflite", spec, signatures=()), 1).time(1)


@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("litert")])
def test_weights_in_files_of_their_own(name: str, devices: Any, tmp_path: Path) -> None:
    import onnx

    runtime = target.parse(name).runtime
    whole = onnx.load(made_onnx(tmp_path / "whole.onnx", ("x", "float32", (1, 3))))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "parts.onnx"
    onnx.save_model(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    plugin = RUNTIMES.load(runtime)
    before = plugin.open_model(path)
    assert before.weights == (tmp_path / "in" / "weights.bin",)
    assert before.size_bytes == path.stat().st_size + 256
    model = devices(name).load(runtime, path, 1)
    assert model.time(2)
    model.close()
    assert devices(name).peak_memory_mib(runtime, path, 1) > 1
    before_digest = before.digest
    before.weights[0].write_bytes(bytes(256))
    assert plugin.open_model(path).digest != before_digest
    before.weights[0].write_bytes(bytes(100))
    with pytest.raises(ArtifactError, match=r"weights.bin has 100 of 256 bytes"):
        devices(name).load(runtime, path, 1)
    before.weights[0].unlink()
    with pytest.raises(ArtifactError, match=r"They lie in 'weights.bin'; there is no .*weights.bin"):
        devices(name).load(runtime, path, 1)


@pytest.mark.parametrize("place", ["local", "ssh:box"])
@pytest.mark.parametrize("file", ["mine.xml", "mine.XML", "mine"])
def test_openvinos_own_format(place: str, file: str, devices: Any, tmp_path: Path) -> None:
    from spaceevo.runtimes.openvino import on_device

    path = made_onnx(tmp_path / "mine.onnx", ("x", "uint8", ("n", 3)))
    on_device.package().save_model(on_device.opened(str(path)), tmp_path / "mine.xml")
    (tmp_path / "mine.xml").rename(tmp_path / file)
    opened = RUNTIMES.load("openvino").open_model(tmp_path / file)
    assert opened.weights == (tmp_path / "mine.bin",)
    assert [(own.name, own.dtype, own.shape) for own in opened.inputs] == [("x", "uint8", (1, 3))]
    device = devices(f"openvino@{place}")
    assert device.load("openvino", tmp_path / file, 1).time(2)
    (tmp_path / "mine.bin").unlink()
    with pytest.raises(ArtifactError, match=r"bin file cannot be found.*\.bin that was saved"):
        device.load("openvino", tmp_path / file, 1)


def test_openvino_knows_tflite_by_its_suffix(tmp_path: Path) -> None:
    path = made_tflite(tmp_path / "mine.tflite", ("x", "float32", (1, 3))).rename(tmp_path / "mine.lite")
    with pytest.raises(ArtifactError, match=r"mine\.lite is no model that OpenVINO can load.*Rename"):
        RUNTIMES.load("openvino").open_model(path)
    assert RUNTIMES.load("openvino").open_model(path.rename(tmp_path / "your.tflite")).inputs


def test_a_phone_tells_which_model_it_refuses(phone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_tflite(tmp_path / "-mine.tflite", ("pixels", "uint8", (1, 8, 8, 3)))
    device = target.connect("litert@adb")
    assert device.load("litert", Path("-mine.tflite"), 1).time(1)
    pushed = [words[3] for words in phone.calls if words[2:3] == ["push"]]
    assert pushed == [str(tmp_path / "-mine.tflite")]  # adb would take the dash for an option
    phone.change(refuses=True)
    with pytest.raises(ArtifactError, match=r"cannot load -mine\.tflite"):
        device.load("litert", Path("-mine.tflite"), 1)
    device.close()


def test_a_phone_times_them_too(phone: Any, tmp_path: Path) -> None:
    device = target.connect("litert@adb")
    phone.change(partial=True)  # as where XNNPACK has no form for an operator of theirs
    spec: Spec = ("pixels", "uint8", (2, 8, 8, 3))
    assert device.load("litert", made_tflite(tmp_path / "mine.tflite", spec), 1).time(2)
    with pytest.raises(ArtifactError, match="has no fixed shape"):
        device.load("litert", made_tflite(tmp_path / "open.tflite", ("x", "float32", (1, "size"))), 1)
    device.close()
