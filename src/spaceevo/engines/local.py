"""Processes on this machine, one per core: they start once and serve every stage.

On Linux each is forked from a server process that has imported what the first jobs need, so starting one is quick and
shares memory; elsewhere each is started anew. A process notices within half a second that its parent has ended, or
wants it to end, and ends as well.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from threading import Thread
from typing import Any

from spaceevo.config import EngineSettings
from spaceevo.engines import MAX_LOSSES, ONE_CORE, J, Needs, R, Shares, Work, job_name, only_this_machine
from spaceevo.errors import EngineError
from spaceevo.machine import usable_cores
from spaceevo.progress import ProgressCallback

SECONDS_BETWEEN_LOOKS = 0.2
#: macOS has `fork` but cannot be relied on after it, not even in a server: its own libraries start threads.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"

# Of a worker process: how far the job in each place is, by which process, and whether all shall end.
_places: Any = None
_processes: Any = None
_stop: Any = None


class LocalEngine:
    """See `spaceevo.engines.Engine`.

    Args:
        workers: Processes at a time; a core each.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._started: dict[int | None, multiprocessing.process.BaseProcess] = {}

    def map(
        self,
        work: Work[J, R],
        jobs: Sequence[J],
        progress: ProgressCallback,
        sizes: Sequence[float] = (),
        needs: Needs = ONE_CORE,
    ) -> Iterator[tuple[int, R]]:
        """See `Engine.map`."""
        shares = Shares(len(jobs), sizes, progress)
        waiting, losses = deque(range(len(jobs))), [0] * len(jobs)
        free = list(range(max(1, self._workers // max(1, needs.cpus)) if not needs.device else 1))
        running: dict[Future[R], tuple[int, int]] = {}
        complete = False
        try:
            while waiting or running:
                while waiting and free:
                    place = free.pop()
                    try:
                        future = self._submit(work, jobs[waiting[0]], place)
                    except (BrokenProcessPool, EOFError, OSError) as error:  # one was killed, or none can be started
                        free.append(place)
                        if running and isinstance(error, BrokenProcessPool):
                            break  # they tell which
                        self._end()
                        losses[waiting[0]] += 1
                        _check(jobs, waiting[0], losses, f"No process could be started for it: {_words(error)}")
                        waiting.extendleft(sorted((number for number, _ in running.values()), reverse=True))
                        free += [place for _, place in running.values()]
                        running.clear()
                        time.sleep(SECONDS_BETWEEN_LOOKS)
                        continue
                    running[future] = waiting.popleft(), place
                done, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                lost: dict[int, int] = {}
                for future in done:
                    number, place = running.pop(future)
                    free.append(place)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost[number] = place
                        continue
                    shares.set(number, 1)
                    yield number, result
                if lost:  # with one process all others of the pool are gone
                    lost |= dict(running.values())
                    free += [place for _, place in running.values()]
                    running.clear()
                    self._end()
                    self._count(jobs, lost, losses)
                    waiting.extendleft(sorted(lost, reverse=True))
                for number, place in running.values():
                    shares.set(number, self._shares[place])
                shares.tell()
            complete = True
        finally:
            if not complete:
                self._end()

    def together(self, work: Callable[[ProgressCallback], R], progress: ProgressCallback, needs: Needs = ONE_CORE) -> R:
        """See `Engine.together`: by this process alone, or with those that `torchrun` has started beside it."""
        return work(progress)

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _submit(self, work: Work[J, R], job: J, place: int) -> Future[R]:
        if self._pool is None:
            context = multiprocessing.get_context(START_METHOD)
            if START_METHOD == "forkserver":
                context.set_forkserver_preload([_module_of(work)])
            self._shares = context.RawArray("d", self._workers)
            self._pids = context.RawArray("l", self._workers)
            self._stop_flag = context.RawValue("b", 0)
            shared = self._shares, self._pids, self._stop_flag
            self._pool, self._started = ProcessPoolExecutor(self._workers, context, _begin, shared), {}
        self._shares[place], self._pids[place] = 0.0, 0
        future = self._pool.submit(_run, work, job, place)
        self._started |= {process.pid: process for process in multiprocessing.active_children()}
        return future

    def _end(self) -> None:
        if self._pool is not None:
            self._stop_flag.value = 1
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _count(self, jobs: Sequence[object], lost: Mapping[int, int], losses: list[int]) -> None:
        """Count the jobs whose process was killed; the others ended with it."""
        processes = {number: self._started.get(self._pids[place]) for number, place in lost.items()}
        ends = {number: process.exitcode if process else None for number, process in processes.items()}
        killed = [number for number, code in ends.items() if code not in (None, 0, -signal.SIGTERM)]
        for number in killed or lost:
            losses[number] += 1
            _check(jobs, number, losses, _end_of(ends[number]))


def start(settings: EngineSettings) -> LocalEngine:
    """The engine; without a number of workers it takes every core that this process may use.

    Raises:
        EngineError: Something is asked for that takes a cluster.
    """
    only_this_machine(settings)
    return LocalEngine(num_workers(settings))


def num_workers(settings: EngineSettings) -> int:
    """Jobs that run at a time on this machine."""
    return settings.workers or usable_cores()


def _check(jobs: Sequence[object], number: int, losses: Sequence[int], found: str) -> None:
    if losses[number] > MAX_LOSSES:
        raise EngineError(
            f"{job_name(jobs, number)} was lost {losses[number]} times",
            found=found,
            remedy="Lower engine.workers in the recipe, or give this machine more memory, then run the same command "
            "again: what is finished is kept",
        )


def _end_of(code: int | None) -> str:
    """How a process ended, for people, by its exit code."""
    if code == -signal.SIGKILL:
        return "Each time its process was killed, last by signal 9: most likely by the system, because memory ran out"
    if code is not None and code < 0:
        return f"Each time its process was killed, last by signal {-code} ({signal.strsignal(-code)})"
    return f"Each time its process ended before it was done{f', last with exit code {code}' if code else ''}"


def _words(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or "the system killed it, or what starts it, at once"


def _module_of(work: Callable[..., Any]) -> str:
    while isinstance(work, partial):
        work = work.func
    return work.__module__


def _begin(places: Any, processes: Any, stop: Any) -> None:
    """Prepare a worker process."""
    global _places, _processes, _stop
    _places, _processes, _stop = places, processes, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this process
    Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """End this process when its parent is gone or wants it to end, in the middle of a job if need be."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while not _stop.value:
        if connection.wait([parent.sentinel], SECONDS_BETWEEN_LOOKS):
            break
    else:
        time.sleep(SECONDS_BETWEEN_LOOKS)  # one that is idle ends by itself
    os._exit(1)


def _run(work: Work[J, R], job: J, place: int) -> R:
    def report(done: int, total: int) -> None:
        _places[place] = done / total

    _processes[place] = os.getpid()
    return work(job, report)
