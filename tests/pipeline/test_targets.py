"""The whole job for the runtimes that are extras: measured, searched, exported and verified by each."""

import json
from typing import Any

import pytest
import yaml

from spaceevo import plugins
from spaceevo.errors import TargetError


@pytest.mark.parametrize("runtime", ["litert", "openvino"])
def test_run_for_another_runtime(tiny: Any, tmp_path: Any, cli: Any, runtime: str) -> None:
    module = plugins.load("spaceevo.runtimes", runtime)
    try:
        version = module.version()
    except TargetError as error:
        pytest.skip(str(error))
    content = yaml.safe_load(tiny.recipe.read_text())
    content["target"] = {"name": f"{runtime}@local"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    folder = tiny.copy(tmp_path / "run", without=("study", "predict", "space", "supernet", "subnets", "baselines"))
    (folder / "measurements.sqlite").unlink()
    done = cli("run", recipe, "--out", folder, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["target"]["runtime"], summary["target"]["runtime_version"]) == (runtime, version)
    for model in (*summary["models"], *summary["baselines"]):
        assert model["int8_file"].endswith(f"-int8{module.SUFFIX}")
        assert model["verification"]["problems"] == []
        assert model["verification"]["integer"]["top1"] == 1
        assert model["int8_ms"] > 0
