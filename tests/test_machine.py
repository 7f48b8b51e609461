"""A machine that is no Linux: what macOS lacks is taken away from this one."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from spaceevo.machine import usable_cores
from spaceevo.measure.transports import _device
from spaceevo.run.memory import peak_rss_mib

#: No calls of Linux's scheduler, nothing in /proc and /sys; seen by every process that Python starts.
AS_ON_MACOS = """
import builtins, glob, io, os
for name in [name for name in dir(os) if name.startswith("sched_") and name != "sched_yield"]:
    delattr(os, name)
def is_hidden(path):
    return isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(("/proc", "/sys"))
def seeing(function):
    def see(path, *words, **options):
        if is_hidden(path):
            raise FileNotFoundError(2, os.strerror(2), path)
        return function(path, *words, **options)
    return see
builtins.open = io.open = seeing(io.open)
for name in ("stat", "lstat", "open", "listdir", "scandir"):
    setattr(os, name, seeing(getattr(os, name)))
"""


def test_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.fixture
def macos(tiny: Any, tmp_path: Path) -> dict[str, str]:
    """The environment of a process, and all that it starts, as on macOS."""
    (tmp_path / "sitecustomize.py").write_text(AS_ON_MACOS)
    return {**tiny.env, "PYTHONPATH": f"{tmp_path}{os.pathsep}{tiny.env['PYTHONPATH']}"}


def test_blocks_are_distilled_by_processes_that_are_not_forked(
    tiny: Any, macos: dict[str, str], tmp_path: Path
) -> None:
    folder = tiny.copy(tmp_path / "run")
    shutil.rmtree(folder / "blocks")
    script = (
        "import os\nassert not hasattr(os, 'sched_getaffinity') and not os.path.exists('/proc/cpuinfo')\n"
        "os.fork = None\nfrom spaceevo.engines import local\nlocal.START_METHOD = 'spawn'"
    )
    done = tiny.command("blocks", tiny.recipe, "--out", folder, script=script, env=macos)
    assert done.returncode == 0, done.stderr
    assert "done in" in done.stdout
    assert tiny.files(folder, "blocks") == tiny.files(tiny.folder, "blocks")


@pytest.fixture
def darwin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What tells macOS apart, and a folder for its programs."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_peak_memory_is_told_in_bytes_there(darwin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"ru_maxrss": 300 * 2**20})
    monkeypatch.setattr("resource.getrusage", lambda _: usage)
    monkeypatch.setattr(_device, "read", lambda _: {"texts": {}, "unreadable": {}})
    assert peak_rss_mib() == 300
    assert _device.peak_memory_mib() == 300


def test_the_processor_is_named_by_another_program_there(darwin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert _device.processor_name() == "arm"
    sysctl = darwin / "sysctl"
    sysctl.write_text('#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && echo "Apple M2"\n')
    sysctl.chmod(0o755)
    assert _device.processor_name() == "Apple M2"
