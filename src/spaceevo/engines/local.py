"""Processes on this machine, one per core: they start once and serve every stage.

Each is forked from a server process that has imported what the first jobs need, so starting one is quick and shares
memory. A process notices within half a second that its parent has ended, or wants it to end, and ends as well.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from threading import Thread
from typing import Any

from spaceevo.config import EngineSettings
from spaceevo.engines import MAX_LOSSES, ONE_CORE, J, Needs, R, Shares, Work, only_this_machine
from spaceevo.errors import EngineError
from spaceevo.progress import ProgressCallback

SECONDS_BETWEEN_LOOKS = 0.2

# Of a worker process: how far the job in each place is, and whether all shall end.
_places: Any = None
_stop: Any = None


class LocalEngine:
    """See `spaceevo.engines.Engine`.

    Args:
        workers: Processes at a time; a core each.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

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
                    except BrokenProcessPool:  # an idle one was killed
                        free.append(place)
                        self._end()
                        continue
                    running[future] = waiting.popleft(), place
                done, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                lost = []
                for future in done:
                    number, place = running.pop(future)
                    free.append(place)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.append(number)
                        continue
                    shares.set(number, 1)
                    yield number, result
                if lost:  # with one process all others of the pool are gone
                    lost += [number for number, _ in running.values()]
                    free += [place for _, place in running.values()]
                    running.clear()
                    self._end()
                    self._count(lost, losses)
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
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([_module_of(work)])
            self._shares = context.RawArray("d", self._workers)
            self._stop_flag = context.RawValue("b", 0)
            self._pool = ProcessPoolExecutor(self._workers, context, _begin, (self._shares, self._stop_flag))
        self._shares[place] = 0.0
        return self._pool.submit(_run, work, job, place)

    def _end(self) -> None:
        if self._pool is not None:
            self._stop_flag.value = 1
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    @staticmethod
    def _count(lost: Sequence[int], losses: list[int]) -> None:
        for number in lost:
            losses[number] += 1
            if losses[number] > MAX_LOSSES:
                raise EngineError(
                    f"A job was lost {losses[number]} times",
                    found="Each time a process of this machine was killed while it ran; memory may have been short",
                    remedy="Lower engine.workers in the recipe; what is finished is kept",
                )


def start(settings: EngineSettings) -> LocalEngine:
    """The engine; without a number of workers it takes every core that this process may use.

    Raises:
        EngineError: Something is asked for that takes a cluster.
    """
    only_this_machine(settings)
    return LocalEngine(num_workers(settings))


def num_workers(settings: EngineSettings) -> int:
    """Jobs that run at a time on this machine."""
    return settings.workers or len(os.sched_getaffinity(0))


def _module_of(work: Callable[..., Any]) -> str:
    while isinstance(work, partial):
        work = work.func
    return work.__module__


def _begin(places: Any, stop: Any) -> None:
    """Prepare a worker process."""
    global _places, _stop
    _places, _stop = places, stop
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

    return work(job, report)
