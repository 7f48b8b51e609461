"""The supernet of a run, trained by two processes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def supernet_in_two(tiny: Any, torchrun: Any) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """The verb on a copy of the run."""
    spaceevo = Path(sys.executable).with_name("spaceevo")
    return lambda folder: torchrun("--no-python", spaceevo, "supernet", tiny.recipe, "--out", folder)


def test_the_first_process_runs_the_recipe_and_all_train(supernet_in_two, tiny, tmp_path):
    folder = tiny.copy(tmp_path / "run", without=("supernet", "subnets", "export"))
    done = supernet_in_two(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run folder") == 1
    assert done.stdout.count("done in") == 1, "only the supernet was missing"
    losses, alone = (
        [point["loss"] for point in json.loads((run / "supernet" / "curve.json").read_text())]
        for run in (folder, tiny.folder)
    )
    assert len(losses) == len(alone)
    assert losses != alone, "batch norm sees half of a batch"
    assert losses[0] == pytest.approx(alone[0], rel=0.2)
    again = supernet_in_two(folder)
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stdout


def test_what_is_wrong_ends_all_processes(supernet_in_two, tiny, tmp_path):
    """The helpers wait for the first one, which never comes to train."""
    folder = tiny.copy(tmp_path / "run", without=("supernet", "subnets", "export"))
    (folder / "space" / "search.json").write_text("{")
    done = supernet_in_two(folder)
    assert done.returncode != 0
    assert "Error:" in done.stderr
    assert done.stderr.count("search.json") == 1
