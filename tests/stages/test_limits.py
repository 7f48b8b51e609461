"""A run whose recipe limits other metrics than latency: the found subnets meet the limits, and the files do."""

import json
from typing import Any

import pytest
import yaml

from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.stages import subnets


def limited(tiny: Any, tmp_path: Any, cli: Any, limits: dict[str, float]) -> tuple[Any, Any]:
    content = yaml.safe_load(tiny.recipe.read_text())
    content["subnets"]["limits"] = limits
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    folder = tiny.copy(tmp_path / "run", without=("subnets", "export"))
    return folder, cli("export", recipe, "--out", folder)


def test_limits_are_met_by_what_is_handed_out(tiny: Any, tmp_path: Any, cli: Any) -> None:
    free = json.loads((tiny.folder / "export" / "models.json").read_text())["models"]
    sizes = [(tiny.folder / model["int8_file"]).stat().st_size / 2**20 for model in free]
    limits = {"size-mib": 0.97 * max(sizes), "activation-memory-mib": 1.0}
    folder, done = limited(tiny, tmp_path, cli, limits)
    assert done.returncode == 0, done.stderr
    models = json.loads((folder / "export" / "models.json").read_text())["models"]
    assert models
    for model in models:
        assert model["metrics"]["size-mib"] == (folder / model["int8_file"]).stat().st_size / 2**20
        assert model["metrics"]["size-mib"] <= 1.01 * limits["size-mib"]
        assert 0 < model["metrics"]["activation-memory-mib"] <= limits["activation-memory-mib"]
    fits = {fit.metric: fit for fit in result_of(Context.of_folder(folder), subnets.STAGE).limits.fits}
    assert fits["size-mib"].mape < 0.02
    assert fits["activation-memory-mib"].num_fit == 0


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"size-mib": 0.0001}, "The closest exceeds size-mib by"),
        ({"size_mb": 1}, "There is no measure.metrics plug-in named 'size_mb'"),
        ({"size-mib": 0}, "Write a number (above 0"),
    ],
)
def test_bad_limits(tiny: Any, tmp_path: Any, cli: Any, limits: dict[str, float], said: str) -> None:
    _, done = limited(tiny, tmp_path, cli, limits)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
