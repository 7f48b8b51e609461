"""The tiny run on other engines: the same files, whatever is lost on the way."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEVICE = "board"
#: What engines decide nothing about.
STAGES = ("blocks", "space", "supernet", "subnets", "finetune", "baselines")


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            own, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [own, *children(own)]
    return found


def test_a_worker_that_is_killed_is_replaced(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run", without=("blocks",))
    with tiny.start("blocks", tiny.recipe, "--out", folder) as process:
        tiny.wait_for(process, lambda: list((folder / "blocks" / "cells").glob("*-*.lock")))
        # The server of forks and the tracker of resources came before it
        os.kill(max(children(process.pid)), signal.SIGKILL)
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert tiny.files(folder, "blocks") == tiny.files(tiny.folder, "blocks")


def test_one_after_the_other_gives_the_same(tiny: Any, tmp_path: Path, cli: Any) -> None:
    folder = tiny.copy(tmp_path / "run", without=("subnets", "finetune", "baselines"))
    done = cli("run", tiny.recipe_with(tmp_path / "tiny.yaml", name="serial"), "--out", folder)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        assert tiny.files(folder, stage) == tiny.files(tiny.folder, stage)


def test_an_engine_without_a_cluster_is_told_what_takes_one(tiny: Any, tmp_path: Path, cli: Any) -> None:
    recipe = tiny.recipe_with(tmp_path / "tiny.yaml", device=DEVICE)
    done = cli("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "engine.device is 'board'. Leave it out, or take the engine ray" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def head(tiny: Any) -> Iterator[Any]:
    """A cluster of one machine of one core."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", tiny.env["PYTHONPATH"])
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """With a second machine, which has the device."""
    head.second = head.add_node(num_cpus=1, resources={DEVICE: 1})
    yield head
    if head.second in head.worker_nodes:
        head.remove_node(head.second, allow_graceful=False)


def test_a_cluster_of_two_machines_gives_the_same(tiny: Any, tmp_path: Path, cluster: Any) -> None:
    recipe = tiny.recipe_with(tmp_path / "tiny.yaml", name="ray", address=cluster.address, device=DEVICE)
    # The device is noisy: with the same measurements all else is the same.
    folder = tiny.copy(tmp_path / "run", without=("study", "predict", "blocks", "subnets", "finetune", "baselines"))
    done = tiny.command("run", recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        assert tiny.files(folder, stage) == tiny.files(tiny.folder, stage), stage


def test_a_killed_driver_and_a_machine_that_is_lost(tiny: Any, tmp_path: Path, cluster: Any) -> None:
    recipe = tiny.recipe_with(tmp_path / "tiny.yaml", name="ray", address=cluster.address)
    folder = tiny.copy(tmp_path / "run", without=("blocks",))
    cells = folder / "blocks" / "cells"
    with tiny.start("blocks", recipe, "--out", folder) as process:
        tiny.wait_for(process, lambda: list(cells.glob("*-*.json")))
        process.kill()
        process.communicate()
    assert not (folder / "blocks" / "stage.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in cells.glob("*-*.json")}
    with tiny.start("blocks", recipe, "--out", folder) as process:
        tiny.wait_for(process, lambda: len(list(cells.glob("*-*.json"))) > len(finished) or process.poll() is not None)
        cluster.remove_node(cluster.second, allow_graceful=False)
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was finished is not done again"
    assert tiny.files(folder, "blocks") == tiny.files(tiny.folder, "blocks")


def losses(folder: Path) -> list[float]:
    return [point["loss"] for point in json.loads((folder / "supernet" / "curve.json").read_text())]


def test_a_cluster_trains_the_supernet(tiny: Any, tmp_path: Path, cluster: Any) -> None:
    recipe = tiny.recipe_with(tmp_path / "tiny.yaml", name="ray", address=cluster.address, trainers=2)
    folder = tiny.copy(tmp_path / "run", without=("supernet", "subnets", "export"))
    done = tiny.command("supernet", recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    found, alone = losses(folder), losses(tiny.folder)
    assert len(found) == len(alone)
    assert found != alone, "batch norm saw half of a batch"
    assert found[0] == pytest.approx(alone[0], rel=0.2)
    assert not list((folder / "supernet").glob("*checkpoint*"))
