"""What every engine keeps (`spaceevo.engines.Engine`): results, order, progress, failures, lost jobs, endings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.engines import MAX_LOSSES, ONE_CORE, Engine, Needs, Work, _trial_jobs as jobs, in_order
from spaceevo.errors import EngineError, TrainingError
from spaceevo.progress import ProgressCallback, silent

NUM_WORKERS = 2
J = TypeVar("J")
R = TypeVar("R")


def results(
    engine: Engine,
    work: Work[J, R],
    jobs: Sequence[J],
    progress: ProgressCallback = silent,
    sizes: Sequence[float] = (),
    needs: Needs = ONE_CORE,
) -> list[R]:
    """Results in the order of the jobs."""
    return in_order(engine.map(work, jobs, progress, sizes, needs), len(jobs))


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def gone(pids: Iterable[int], seconds: float = 10.0) -> bool:
    """Whether processes end within a time."""
    end = time.monotonic() + seconds
    pids = list(pids)
    while any(_running(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class EngineSuite:
    """Laws of an engine; those on lost jobs are skipped where all jobs run in the process of the tests.

    The engine is started once for all laws. One that needs an address or the like overrides the fixture `settings`, a
    class method with the scope "class".

    Attributes:
        NAME: Of the plug-in.
        FINDS_DEVICES: Whether it hands jobs to machines that have the device they need; one that does not refuses to
            start with the setting `device` (`engines.only_this_machine`).
    """

    NAME: ClassVar[str]
    FINDS_DEVICES: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls) -> str:
        return cls.NAME

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, name: str) -> EngineSettings:
        return EngineSettings(name=name, workers=NUM_WORKERS)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, settings: EngineSettings) -> Iterator[Engine]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the processes of a cluster
            engine = engines.start(settings)
            yield engine
            engine.close()

    @pytest.fixture
    def apart(self, engine: Engine) -> Engine:
        """Engines whose jobs run in other processes."""
        if results(engine, jobs.where, [0]) == [os.getpid()]:
            pytest.skip("its jobs run in this process: there is nothing to lose but all")
        return engine

    def test_results_of_each_job(self, engine: Engine) -> None:
        assert results(engine, jobs.square, range(7)) == [0, 1, 4, 9, 16, 25, 36]
        assert results(engine, jobs.square, []) == []
        assert results(engine, partial(jobs.square), [3]) == [9]

    def test_progress_adds_up_by_size(self, engine: Engine) -> None:
        shares: list[float] = []
        results(engine, jobs.square, [1, 2, 3], lambda *work: shares.append(work[0] / work[1]), sizes=[1, 1, 8])
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert set(shares) <= {share / 20 for share in range(21)}, "halves and wholes of 0.1, 0.1 and 0.8"

    def test_progress_within_a_job(self, engine: Engine) -> None:
        shares: list[float] = []
        results(engine, jobs.step, [0], lambda *work: shares.append(work[0] / work[1]))
        assert len(set(shares)) >= 3
        assert shares == sorted(shares)

    def test_what_a_job_raises_arrives_and_ends_the_others(self, engine: Engine) -> None:
        with pytest.raises(TrainingError, match="It does not fit") as error:
            results(engine, jobs.fail, [0, 1])
        assert (error.value.found, error.value.remedy) == ("job 0", "Another one")
        assert results(engine, jobs.square, [5]) == [25], "it can be used again"

    def test_what_progress_raises_ends_everything(self, apart: Engine, tmp_path: Path) -> None:
        def interrupted(done: float, total: float) -> None:
            if len(list(tmp_path.iterdir())) == NUM_WORKERS:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            results(apart, jobs.wait, [tmp_path] * 3, interrupted)
        assert gone(int(path.name) for path in tmp_path.iterdir())

    def test_jobs_run_beside_each_other(self, apart: Engine) -> None:
        processes = set(results(apart, jobs.where, range(20)))
        assert len(processes) == NUM_WORKERS
        assert os.getpid() not in processes

    def test_a_device_that_no_machine_has_is_told(self, settings: EngineSettings, engine: Engine) -> None:
        if self.FINDS_DEVICES:
            with pytest.raises(EngineError, match="pixel"):
                results(engine, jobs.square, [1], needs=Needs(device="pixel"))
        else:
            with pytest.raises(EngineError, match=r"engine\.device is 'pixel'"):
                engines.start(settings.model_copy(update={"device": "pixel"}))

    def test_a_lost_job_is_done_again_and_a_finished_one_is_not(self, apart: Engine, tmp_path: Path) -> None:
        lossy = [(tmp_path, number, MAX_LOSSES if number == 3 else 0) for number in range(8)]
        assert results(apart, jobs.lose, lossy) == list(range(8))
        started = {number: (tmp_path / str(number)).stat().st_size for number in range(8)}
        assert started[3] == MAX_LOSSES + 1
        assert started[0] == 1, "finished before anything was lost"
        assert sum(started.values()) <= 8 + MAX_LOSSES * NUM_WORKERS

    def test_a_job_that_is_always_lost_is_told(self, apart: Engine, tmp_path: Path) -> None:
        """And not one that ran beside it."""
        lossy = [jobs.Lossy(tmp_path, number, 99 if number == 1 else 0) for number in range(2)]
        with pytest.raises(EngineError, match=rf"Job 2 of 2 \(lossy 1\) was lost {MAX_LOSSES + 1} times"):
            results(apart, jobs.lose, lossy)
        assert (tmp_path / "1").stat().st_size == MAX_LOSSES + 1

    def test_no_process_outlives_a_parent_that_is_killed(
        self, settings: EngineSettings, apart: Engine, tmp_path: Path
    ) -> None:
        script = f"""
from pathlib import Path
from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.engines import _trial_jobs as jobs
from spaceevo.progress import silent
engine = engines.start(EngineSettings.model_validate_json({settings.model_dump_json()!r}))
list(engine.map(jobs.wait, [Path({str(tmp_path)!r})] * {NUM_WORKERS}, silent))
"""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", script], env=env) as process:
            while len(list(tmp_path.iterdir())) < NUM_WORKERS:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        assert gone((int(path.name) for path in tmp_path.iterdir()), 30)
