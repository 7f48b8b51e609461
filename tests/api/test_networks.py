"""Quantizing, exporting and verifying from Python."""

import shutil

import pytest

import spaceevo
from spaceevo.errors import RecipeError, TargetError

pytestmark = [pytest.mark.usefixtures("plugin"), pytest.mark.usefixtures("one_thread")]


def test_verify_and_export(tiny, tmp_path) -> None:
    run = spaceevo.Run.open(tiny.folder)
    checked = spaceevo.verify(run.folder)
    assert checked.is_whole
    assert len(checked.models) == len(run.models) + len(run.baselines)
    assert len(checked.folders) == 1
    network = tmp_path / "mine.safetensors"
    shutil.copy(run.folder / run.models[0].network_file, network)
    exports = spaceevo.export(network, runtimes=["onnxruntime"], data=tiny.recipe)
    (out,) = exports.handed_out
    assert not exports.failures
    assert out.verification.top1 == run.models[0].top1_int8
    found = spaceevo.verify(out.int8, data=tiny.recipe)
    assert found.is_whole
    assert found.models[0].top1 == out.verification.top1


def test_a_damaged_file_is_told(tiny, tmp_path) -> None:
    folder = tiny.copy(tmp_path / "run")
    with (folder / "space" / "search.json").open("a") as file:
        file.write(" ")
    checked = spaceevo.verify(folder)
    assert not checked.is_whole
    assert not checked.models
    assert [fault.file for fault in checked.folders[0].faults] == ["space/search.json"]


def test_a_runtime_that_is_named_must_be_there(tiny, monkeypatch) -> None:
    from spaceevo.runtimes import onnxruntime

    def absent() -> str:
        raise TargetError("ONNX Runtime is not installed")

    monkeypatch.setattr(onnxruntime, "version", absent)
    with pytest.raises(TargetError, match="not installed"):
        spaceevo.export(tiny.folder, runtimes=["onnxruntime"])


def test_quantize(tiny, tmp_path) -> None:
    weights = tiny.folder / "supernet" / "supernet-fp32.safetensors"
    run = spaceevo.Run.open(tiny.folder)
    done = spaceevo.quantize(
        weights,
        tiny.recipe,
        network=run.subnets[0].encoding,
        space=run.space.chosen.encoding,
        target="onnxruntime@fake:machine=x86_64",
        ptq={"calibration_images": 32, "bias_correction": False},
        folder=tmp_path / "quantized",
    )
    assert done.result.ptq.calibration_images == 32
    assert done.result.top1_finetuned is None
    assert all(file.exists() for file in done.files)
    assert spaceevo.verify(done.folder).is_whole
    with pytest.raises(RecipeError, match=r"The call of quantize .*'calibration_image'.*calibration_images"):
        spaceevo.quantize(weights, tiny.recipe, ptq={"calibration_image": 32})
