"""One whole run of the pipeline over a hyperspace of two small stages, shared by all tests that need a run folder.

The hyperspace is a third-party plug-in: a module and an entry point on the import path. With the preset `micro` the
distillation of its 15 cells alone takes 40 seconds of one core at the lowest settings.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

from spaceevo.artifacts import Manifest

# Threads that wait without spinning: on a loaded machine spinning makes every step many times slower. Read by torch
# when it is imported, here and in the processes that tests start. Results are equal for an equal number of threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A cluster that a test starts in this process would want Ray's token of processes that were given none.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
NUM_THREADS = 2
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
TINY = Path(__file__).parent / "tiny"


@dataclass(frozen=True)
class TinyRun:
    """The finished run: never write into `folder`, take a `copy`."""

    folder: Path
    recipe: Path
    env: dict[str, str]
    done: subprocess.CompletedProcess[str]

    def copy(self, to: Path, *, without: tuple[str, ...] = ()) -> Path:
        """A copy of the run folder without some stages."""
        shutil.copytree(self.folder, to)
        for stage in without:
            shutil.rmtree(to / stage)
        return to

    def recipe_with(self, path: Path, **engine: object) -> Path:
        """The recipe on another engine, written to a path."""
        content = yaml.safe_load(self.recipe.read_text())
        path.write_text(yaml.safe_dump({**content, "engine": engine}))
        return path

    def start(self, *words: object, script: str = "", **options: object) -> subprocess.Popen[str]:
        """Start the command line in a process of its own, after the statements of `script`."""
        code = f"{script}\nfrom spaceevo.cli import main\nmain()"
        command = [sys.executable, "-c", code, *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.env}
        return subprocess.Popen(command, **{**pipes, **options})

    def command(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own."""
        with self.start(*words, **options) as process:
            stdout, stderr = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @staticmethod
    def files(folder: Path, stage: str) -> dict[str, str]:
        """Hashes of what a stage of a run has left."""
        return Manifest.model_validate_json((folder / stage / "stage.json").read_bytes()).files

    @staticmethod
    def wait_for(process: subprocess.Popen[str], is_there: Callable[[], object]) -> None:
        """Wait until something is there, as long as the process lives."""
        end = time.monotonic() + 120
        while not is_there():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="session")
def tiny_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the import path that holds the hyperspace `tiny` and its entry point."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copy(TINY / "tiny_hyperspace.py", folder)
    about = folder / "tiny_hyperspace-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-hyperspace\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[spaceevo.spaces.presets]\ntiny = tiny_hyperspace\n")
    return folder


@pytest.fixture(scope="session")
def tiny_env(tiny_plugin: Path) -> dict[str, str]:
    """The environment of a process that sees the plug-in; hashes of strings differ from process to process."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    paths = (str(tiny_plugin), os.environ.get("PYTHONPATH", ""))  # a tree that is tested without an installation
    return {
        **env,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "COLUMNS": "160",
        "OMP_NUM_THREADS": str(NUM_THREADS),
    }


@pytest.fixture(scope="session")
def tiny(tiny_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The run, done by the installed command: once, however many processes run tests."""
    base, recipe = tmp_path_factory.getbasetemp(), TINY / "tiny.yaml"
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny-run"
    told = shared / "done.json"
    with FileLock(f"{shared}.lock"):
        if not told.exists():
            command = [str(Path(sys.executable).with_name("spaceevo")), "run", str(recipe), "--out", shared / "run"]
            done = subprocess.run(command, capture_output=True, text=True, env=tiny_env, timeout=280)
            assert done.returncode == 0, done.stderr
            told.write_text(json.dumps([done.stdout, done.stderr]))
    return TinyRun(shared / "run", recipe, tiny_env, subprocess.CompletedProcess([], 0, *json.loads(told.read_text())))


@dataclass
class ObjectStore:
    """A server that speaks S3, on this machine."""

    url: str
    server: Any

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server is down meanwhile; it keeps what it has."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty one, which processes that are started meanwhile find too."""
    import logging
    import socket

    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # s3fs itself tries several times
    }.items():
        monkeypatch.setenv(name, value)
    # A request under way when the server goes would wait long
    options = {"config_kwargs": {"connect_timeout": 3, "read_timeout": 3}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setenv("FSSPEC_S3", json.dumps(options))
    bucket = f"s3://bucket-{port}"
    fsspec.core.url_to_fs(bucket, skip_instance_cache=True)[0].mkdir(bucket)
    yield ObjectStore(bucket, server)
    server.stop()


@pytest.fixture
def torchrun(tiny_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Two processes that train together: call it with the words after torchrun's own."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**tiny_env, "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*start, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=env)

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors on a shared machine: more threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cli(
    tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The command line in this process: call it with the words of a command."""
    import torch

    from spaceevo import plugins
    from spaceevo.cli import main

    monkeypatch.syspath_prepend(str(tiny_plugin))
    monkeypatch.setenv("COLUMNS", "160")
    plugins._locations.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["spaceevo", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), *capsys.readouterr())

    yield run
    torch.set_num_threads(threads)
    plugins._locations.cache_clear()
