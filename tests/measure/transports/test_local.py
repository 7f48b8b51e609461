"""This machine: pinning, memory of a process of its own."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaceevo.errors import TargetError
from spaceevo.measure.transports import _device, local
from spaceevo.runtimes.onnxruntime import on_device

RUNTIME = "onnxruntime"
CORES = sorted(os.sched_getaffinity(0))


def test_a_runtime_runs_on_the_cores_that_are_named(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    time = on_device.time

    def spy(session: Any, inputs: Any, repeats: int) -> list[float]:
        seen.append(os.sched_getaffinity(0))
        return time(session, inputs, repeats)

    monkeypatch.setattr(on_device, "time", spy)
    model = local.connect("").load(RUNTIME, models(RUNTIME), 1, (CORES[-1],))
    model.time(1)
    local.connect("").load(RUNTIME, models(RUNTIME), 1).time(1)
    assert seen == [{CORES[-1]}] * 2 + [set(CORES)] * 2  # loading runs it once
    assert os.sched_getaffinity(0) == set(CORES)


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_threads_of_a_runtime_stay_there(models: Any) -> None:
    before = set(os.listdir("/proc/self/task"))
    model = local.connect("").load(RUNTIME, models(RUNTIME), 2, (CORES[0],))
    model.time(1)
    started = set(os.listdir("/proc/self/task")) - before
    assert started
    for thread in started:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        assert f"Cpus_allowed_list:\t{CORES[0]}\n" in status


def test_cores_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), _device.pinned((CORES[0],)):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == set(CORES)


def test_part_of_the_cores_is_not_enough(models: Any) -> None:
    """The system itself takes a mask of which one core is there."""
    with pytest.raises(TargetError, match=r"cores 0, 900.*may use the cores"):
        local.connect("").load(RUNTIME, models(RUNTIME), 1, (CORES[0], 900))


def test_memory_is_that_of_a_process_of_its_own(models: Any) -> None:
    """What this process holds does not count, and a larger model does."""
    ballast = np.ones(2**27, np.uint8)
    small, large = (local.connect("").peak_memory_mib(RUNTIME, models(RUNTIME, width), 1) for width in (8, 2048))
    assert ballast.nbytes / 2**20 == 128
    assert 20 < small < 150
    assert large > small + 10
