"""The verb `quantize`: what it prints, where it writes, and errors in one paragraph."""

import json

import pytest
import torch

from spaceevo.nets.network import program_of, single_network
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.checkpoints import save_tensors

MICRO = load_hyperspace("micro")
SPACE = "micro-012-000"
SUBNET = MICRO.space(MICRO.decode(SPACE), 10).smallest()


@pytest.fixture
def weights(tmp_path):
    """Untrained: what the verb prints is tested here, what it computes in tests/tools."""
    network = single_network(program_of(SUBNET), 127, torch.Generator().manual_seed(0))
    path = tmp_path / "weights.safetensors"
    save_tensors(path, network.state_dict(), {"quantized": False})
    return path


def words(weights, *more):
    return ("quantize", encode(SUBNET), "--space", SPACE, "--weights", weights, "--data", "digits",
            "--calibration-images", "16", *more)  # fmt: skip


def test_json(cli, weights, tmp_path):
    out = tmp_path / "made" / "here"
    done = cli(*words(weights, "--out", out, "--json"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((out / "quantize.json").read_text())
    assert result["num_calibration_images"] == 16
    assert result["ptq"]["ranges"] == "mse"
    assert "[3/3] Correct biases" in done.stderr
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["fp32.safetensors", "int8.safetensors"]
    assert result["verification"]["problems"] == []
    done = cli("verify", out, "--json")  # the folder knows its data
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["top1"] == result["verification"]["top1"]


def test_table(cli, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli(*words(weights, "--epochs", "0.1", "--ranges", "percentile", "--no-bias-correction", "--no-flip"))
    assert done.returncode == 0, done.stderr
    for row in ("FP32", "post-training quantization", "fine-tuned (LSQ+)"):
        assert row in done.stdout
    assert "points" in done.stdout
    result = json.loads((tmp_path / "runs" / "quantize-weights" / "quantize.json").read_text())
    assert result["ptq"] == {"ranges": "percentile", "percentile": 99.98, "weight_scales": "mse",
                             "bias_correction": False, "calibration_images": 16}  # fmt: skip
    assert result["finetuning"] == {"epochs": 0.1, "lr": 0.03, "batch_size": 64}
    assert f"{result['top1_finetuned']:.2%}" in done.stdout


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--calibration-images", "0"), "wrong value at 'calibration_images'"),
        (("--ranges", "minmax"), "percentile or mse"),
        (("--data", "digitz"), "no data set 'digitz'"),
        (("--target", "onnxruntim@local"), "Did you mean 'onnxruntime'"),
        (("--space", "micro-992-000"), "Allowed there: 0 to 4"),
        (("--weights", "nowhere.safetensors"), "no file of weights at nowhere.safetensors"),
    ],
)
def test_errors_are_one_paragraph(cli, weights, tmp_path, change, told):
    done = cli(*words(weights, "--out", tmp_path / "out", *change))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_network_with_the_nearest(cli, weights, tmp_path):
    done = cli("quantize", "resnet18", "--weights", weights, "--data", "digits", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "Did you mean 'ResNet-18'" in done.stderr


@pytest.mark.parametrize("option", ["--weights", "--data"])
def test_what_is_missing_is_told(cli, weights, option):
    given = {"--weights": str(weights), "--data": "digits"}
    del given[option]
    done = cli("quantize", "ResNet-18", *next(iter(given.items())))
    assert done.returncode == 1
    assert f"{option} is missing" in done.stderr
    assert f"{option} " in done.stderr.split("Give it")[1]
