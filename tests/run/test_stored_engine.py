"""The tiny run in an object store: the same files, on whichever machine it goes on, also while the store is away."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

#: What a run does when the first finished cell has arrived in the store: the whole tiny distillation takes seconds.
AT_FIRST_CELL = """
import os, pathlib, re, signal, time
from spaceevo import storage

def and_then(self, name, upload=storage.Storage._upload):
    version = upload(self, name)
    if re.fullmatch(r"blocks/cells/\\d+-\\d+\\.json", name):
        {then}
    return version

storage.SECONDS_BETWEEN_PUSHES, storage.Storage._upload = 0.2, and_then
"""


def versions_there(url: str) -> dict[str, str]:
    """By name in the run folder."""
    file_system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    found = file_system.find(root, detail=True)
    return {name.removeprefix(root).lstrip("/"): info["ETag"] for name, info in found.items()}


def cells(versions: dict[str, str]) -> dict[str, str]:
    """Those that are finished."""
    return {name: version for name, version in versions.items() if re.fullmatch(r"blocks/cells/\d+-\d+\.json", name)}


@pytest.fixture
def machine(tmp_path: Path, object_store: Any, tiny: Any) -> Callable[[str], dict[str, Any]]:
    """The environment of a machine of a name, by the folder where it keeps its copies."""

    def of(name: str) -> dict[str, Any]:
        settings = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        return {"env": {**tiny.env, **settings, "XDG_CACHE_HOME": str(tmp_path / name)}}

    return of


def copy_of_run(home: Path) -> Path:
    (folder,) = (home / "spaceevo").iterdir()
    return folder


@pytest.mark.timeout(600)
def test_another_machine_goes_on_while_the_store_comes_and_goes(
    tiny: Any, tmp_path: Path, object_store: Any, machine: Any
) -> None:
    url = f"{object_store.url}/runs/tiny"
    killed = AT_FIRST_CELL.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    with tiny.start("blocks", tiny.recipe, "--out", url, script=killed, **machine("first")) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
    finished = cells(versions_there(url))
    assert len(finished) == 1
    assert "blocks/stage.json" not in versions_there(url)

    # The first machine is gone, and seen a while ago
    file_system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    held = json.loads(file_system.cat_file(f"{root}/.holder.json"))
    file_system.pipe_file(f"{root}/.holder.json", json.dumps({**held, "machine": "first", "seen": 0}).encode())
    arrived, away = tmp_path / "arrived", tmp_path / "away"
    waits = f"pathlib.Path({str(arrived)!r}).touch()\n        "
    waits += f"while not pathlib.Path({str(away)!r}).exists(): time.sleep(0.05)"
    script = AT_FIRST_CELL.format(then=waits)
    told = tmp_path / "told.txt"

    def words() -> str:
        return " ".join(told.read_text().split())

    with (
        told.open("w") as out,
        tiny.start("blocks", tiny.recipe, "--out", url, script=script, **machine("second"), stdout=out) as process,
    ):
        tiny.wait_for(process, arrived.exists)
        with object_store.away():
            away.touch()
            tiny.wait_for(process, lambda: f"{url} does not answer" in words())
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert f"{url} answers again" in words()

    folder = copy_of_run(tmp_path / "second")
    assert tiny.files(folder, "blocks") == tiny.files(tiny.folder, "blocks")
    after = versions_there(url)
    assert {name: after[name] for name in finished} == finished, "what was finished is not done again"
    here = {path.relative_to(folder).as_posix() for path in (folder / "blocks").rglob("*.*") if path.suffix != ".lock"}
    assert {name for name in after if name.startswith("blocks/")} == here


@pytest.fixture
def cluster(tiny: Any, tmp_path: Path, machine: Any) -> Iterator[str]:
    """Two machines that share no folder: one that runs recipes, and one of another name that takes all jobs."""
    pytest.importorskip("ray", reason="ray is not installed")
    import ray
    from ray.cluster_utils import Cluster

    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "-u", "true"], check=False).returncode:
        pytest.skip("no permission to make a machine of another name and with folders of its own")
    environment = machine("home")["env"]
    caches, command = environment["XDG_CACHE_HOME"], Path(sys.executable).with_name("ray")
    Path(caches).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        head = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        head.connect()
        start = (
            f"hostname elsewhere && mount -t tmpfs tmpfs {caches} && "
            f"exec {command} start --block --num-cpus 1 --address"
        )
        with subprocess.Popen(["unshare", "-m", "-u", "sh", "-c", f"{start} {head.address}"], env=environment) as other:
            tiny.wait_for(other, lambda: len([node for node in ray.nodes() if node["Alive"]]) == 2)
            yield head.address
            other.terminate()
        ray.shutdown()
        head.shutdown()


@pytest.mark.timeout(600)
def test_machines_that_share_no_folder_give_the_same(
    tiny: Any, tmp_path: Path, object_store: Any, machine: Any, cluster: str
) -> None:
    recipe = tiny.recipe_with(tmp_path / "tiny.yaml", name="ray", address=cluster)
    done = tiny.command("blocks", recipe, "--out", f"{object_store.url}/tiny", **machine("home"))
    assert done.returncode == 0, done.stderr
    folder = copy_of_run(tmp_path / "home")
    assert tiny.files(folder, "blocks") == tiny.files(tiny.folder, "blocks")
