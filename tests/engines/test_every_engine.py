"""The contract of every engine: results, order, progress, failures, lost jobs, endings."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import engine_jobs
import pytest

from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.engines import ENGINES, MAX_LOSSES, Needs, in_order, local
from spaceevo.errors import EngineError, PluginError, TrainingError
from spaceevo.progress import silent

NAMES = ENGINES.names()
NUM_WORKERS = 2


@pytest.fixture(scope="module", params=NAMES)
def engine(request):
    if request.param == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the processes of a cluster
        engine = engines.start(EngineSettings(name=request.param, workers=NUM_WORKERS))
        yield engine
        engine.close()


@pytest.fixture
def apart(engine):
    """Engines whose jobs run in other processes."""
    if results(engine, engine_jobs.where, [0]) == [os.getpid()]:
        pytest.skip("its jobs run in this process: there is nothing to lose but all")
    return engine


def results(engine, work, jobs, progress=silent, **options):
    return in_order(engine.map(work, jobs, progress, **options), len(jobs))


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_results_of_each_job(engine):
    assert results(engine, engine_jobs.square, range(7)) == [0, 1, 4, 9, 16, 25, 36]
    assert results(engine, engine_jobs.square, []) == []
    assert results(engine, partial(engine_jobs.square), [3]) == [9]


def test_progress_adds_up_by_size(engine):
    told = []
    results(engine, engine_jobs.square, [1, 2, 3], lambda *work: told.append(work[0] / work[1]), sizes=[1, 1, 8])
    assert told == sorted(told)
    assert told[-1] == 1
    assert set(told) <= {share / 20 for share in range(21)}, "halves and wholes of 0.1, 0.1 and 0.8"


def test_progress_within_a_job(engine):
    told = []
    results(engine, engine_jobs.step, [0], lambda *work: told.append(work[0] / work[1]))
    assert len(set(told)) >= 3
    assert told == sorted(told)


def test_what_a_job_raises_arrives_and_ends_the_others(engine):
    with pytest.raises(TrainingError, match="It does not fit") as error:
        results(engine, engine_jobs.fail, [0, 1])
    assert (error.value.found, error.value.remedy) == ("job 0", "Another one")
    assert results(engine, engine_jobs.square, [5]) == [25], "it can be used again"


def test_what_progress_raises_ends_everything(apart, tmp_path):
    def interrupted(done, total):
        if len(list(tmp_path.iterdir())) == NUM_WORKERS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results(apart, engine_jobs.wait, [tmp_path] * 3, interrupted)
    assert gone([int(path.name) for path in tmp_path.iterdir()])


def test_jobs_run_beside_each_other(apart):
    processes = set(results(apart, engine_jobs.where, range(20)))
    assert len(processes) == NUM_WORKERS
    assert os.getpid() not in processes


def test_a_device_that_no_machine_has_is_told(engine):
    if type(engine).__name__ != "RayEngine":
        with pytest.raises(EngineError, match=r"engine\.device is 'pixel'"):
            engines.start(EngineSettings(name=type(engine).__module__.rpartition(".")[2], device="pixel"))
        return
    with pytest.raises(EngineError, match=r"No machine of the Ray cluster has CPU 1, pixel 1.*CPU 2"):
        results(engine, engine_jobs.square, [1], needs=Needs(device="pixel"))


def test_a_lost_job_is_done_again_and_a_finished_one_is_not(apart, tmp_path):
    jobs = [(tmp_path, number, MAX_LOSSES if number == 3 else 0) for number in range(8)]
    assert results(apart, engine_jobs.lose, jobs) == list(range(8))
    started = {number: len((tmp_path / str(number)).read_text()) for number in range(8)}
    assert started[3] == MAX_LOSSES + 1
    assert started[0] == 1, "finished before anything was lost"
    assert sum(started.values()) <= 8 + MAX_LOSSES * NUM_WORKERS


def test_a_job_that_is_always_lost_is_told(apart, tmp_path):
    """And not one that ran beside it."""
    jobs = [engine_jobs.Lossy(tmp_path, number, 99 if number == 1 else 0) for number in range(2)]
    with pytest.raises(EngineError, match=rf"Job 2 of 2 \(lossy 1\) was lost {MAX_LOSSES + 1} times") as told:
        results(apart, engine_jobs.lose, jobs)
    assert len((tmp_path / "1").read_text()) == MAX_LOSSES + 1
    if type(apart).__name__ == "LocalEngine":
        assert "signal 9" in told.value.found
        assert "engine.workers" in told.value.remedy


@pytest.mark.parametrize("error", [EOFError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_a_job_for_which_no_process_starts_is_told(error, monkeypatch):
    """As where the process that forks the others is killed, or the system is out of memory."""
    engine = engines.start(EngineSettings(workers=2))
    monkeypatch.setattr(f"multiprocessing.popen_{local.START_METHOD}.Popen", Mock(side_effect=error))
    with pytest.raises(EngineError, match=rf"Job 1 of 3 was lost {MAX_LOSSES + 1} times\. No process could be started"):
        results(engine, engine_jobs.square, range(3))
    monkeypatch.undo()
    assert results(engine, engine_jobs.square, [3]) == [9]
    engine.close()


def test_an_engine_whose_processes_are_not_forked(monkeypatch, tmp_path):
    """As on macOS."""
    monkeypatch.setattr(local, "START_METHOD", "spawn")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    engine = engines.start(EngineSettings(workers=2))
    assert results(engine, engine_jobs.lose, [(tmp_path, number, number) for number in range(2)]) == [0, 1]
    with pytest.raises(TrainingError, match="It does not fit"):
        results(engine, engine_jobs.fail, [0, 1])
    engine.close()


@pytest.mark.parametrize("name", ["local", "ray"])
def test_no_process_outlives_a_parent_that_is_killed(name, tmp_path):
    if name == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    script = f"""
import engine_jobs
from pathlib import Path
from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.progress import silent
engine = engines.start(EngineSettings(name={name!r}, workers=2))
list(engine.map(engine_jobs.wait, [Path({str(tmp_path)!r})] * 2, silent))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", script], env=env) as process:
        while len(list(tmp_path.iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert gone([int(path.name) for path in tmp_path.iterdir()], 30)


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
