"""The contract of every engine, and what only one of them does."""

import errno
import os
import sys
from unittest.mock import Mock

import pytest

from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.engines import ENGINES, MAX_LOSSES, Needs, _trial_jobs as jobs, local
from spaceevo.errors import EngineError, PluginError, TrainingError
from spaceevo.testing.engines import EngineSuite, results


class TestEveryEngineHere(EngineSuite):
    @pytest.fixture(scope="class", params=[name for name in ENGINES.names() if name != "ray"])
    @classmethod
    def name(cls, request):
        return request.param


class TestRay(EngineSuite):
    NAME = "ray"
    FINDS_DEVICES = True

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls):
        pytest.importorskip("ray", reason="ray is not installed")
        return cls.NAME

    def test_what_the_machines_have_is_told(self, engine):
        with pytest.raises(EngineError, match=r"No machine of the Ray cluster has CPU 1, pixel 1.*CPU 2"):
            results(engine, jobs.square, [1], needs=Needs(device="pixel"))


def test_what_ended_a_job_on_this_machine_is_told(tmp_path):
    engine = engines.start(EngineSettings(name="local", workers=2))
    with pytest.raises(EngineError) as caught:
        results(engine, jobs.lose, [(tmp_path, 0, 99)])
    assert "signal 9" in caught.value.found
    assert "engine.workers" in caught.value.remedy
    engine.close()


@pytest.mark.parametrize("error", [EOFError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_a_job_for_which_no_process_starts_is_told(error, monkeypatch):
    """As where the process that forks the others is killed, or the system is out of memory."""
    engine = engines.start(EngineSettings(workers=2))
    monkeypatch.setattr(f"multiprocessing.popen_{local.START_METHOD}.Popen", Mock(side_effect=error))
    with pytest.raises(EngineError, match=rf"Job 1 of 3 was lost {MAX_LOSSES + 1} times\. No process could be started"):
        results(engine, jobs.square, range(3))
    monkeypatch.undo()
    assert results(engine, jobs.square, [3]) == [9]
    engine.close()


def test_an_engine_whose_processes_are_not_forked(monkeypatch, tmp_path):
    """As on macOS."""
    monkeypatch.setattr(local, "START_METHOD", "spawn")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    engine = engines.start(EngineSettings(workers=2))
    assert results(engine, jobs.lose, [(tmp_path, number, number) for number in range(2)]) == [0, 1]
    with pytest.raises(TrainingError, match="It does not fit"):
        results(engine, jobs.fail, [0, 1])
    engine.close()


def test_unknown_engines_are_told():
    with pytest.raises(PluginError, match="local, ray, serial"):
        engines.start(EngineSettings(name="rai"))


def test_the_engine_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    imported = sys.modules.pop("spaceevo.engines.ray", None)
    try:
        with pytest.raises(EngineError, match=r"not installed.*pip install 'spaceevo\[ray\]'"):
            engines.start(EngineSettings(name="ray"))
    finally:  # what was imported without ray must not stay
        sys.modules.pop("spaceevo.engines.ray", None)
        if imported is not None:
            sys.modules["spaceevo.engines.ray"] = imported


def test_a_cluster_that_is_not_there_is_told():
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(EngineError, match=r"no Ray cluster at 127\.0\.0\.1:1\b"):
        engines.start(EngineSettings(name="ray", address="127.0.0.1:1"))
