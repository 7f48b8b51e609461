"""The whole job for the runtimes that are extras: measured, searched, exported and verified by each."""

import json
from typing import Any

import pytest
import torch
import yaml

from spaceevo.errors import TargetError
from spaceevo.nets.network import program_of
from spaceevo.nets.verification import compare
from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.encoding import decode
from spaceevo.stages import finetune, space, supernet
from spaceevo.train.batches import split, to_input
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_subnet, predict_logits


@pytest.mark.parametrize("runtime", ["litert", "openvino"])
def test_run_for_another_runtime(tiny: Any, tmp_path: Any, cli: Any, runtime: str) -> None:
    module = RUNTIMES.load(runtime)
    try:
        module.version()
    except TargetError as error:
        pytest.skip(str(error))
    content = yaml.safe_load(tiny.recipe.read_text())
    content["target"] = {"name": f"{runtime}@fake:machine=x86_64"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    folder = tiny.copy(tmp_path / "run", without=("study", "predict", "space", "supernet", "subnets", "baselines"))
    (folder / "measurements.sqlite").unlink()
    done = cli("run", recipe, "--out", folder, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["target"]["runtime"] == runtime
    for model in (*summary["models"], *summary["baselines"]):
        assert model["int8_file"].endswith(f"-int8{module.SUFFIX}")
        assert model["verification"]["problems"] == []
        assert model["verification"]["integer"]["top1"] == 1
        assert model["verification"]["fake_quantized"]["mean_steps"] <= 0.1
        assert model["int8_ms"] > 0
    # What the search evaluates is what the file computes.
    context = Context.of_folder(folder)
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    trained = result_of(context, supernet.STAGE).network("int8")
    assert trained.arithmetic is module.ARITHMETIC  # so small a network may not show it
    for number, model in enumerate(summary["models"]):
        program = program_of(decode(model["encoding"], result_of(context, space.STAGE).space))
        network = result_of(context, finetune.STAGE).network(trained, program, number)
        calibrated = calibrated_subnet(network, program, train_images, RECALIBRATION_BATCHES)
        ours = predict_logits(calibrated, program, val_images.pixels)
        inputs = to_input(val_images.pixels, program[0].in_shape.height)
        theirs = torch.from_numpy(module.Session(folder / model["int8_file"]).run(inputs.numpy()))
        found = compare(theirs, ours)
        assert found.top1 == 1
        assert found.mean_steps < 1e-3
