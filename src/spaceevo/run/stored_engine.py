"""Jobs on machines that do not share the run folder, and have it from an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from spaceevo.engines import ONE_CORE, Engine, J, Needs, R, Work
from spaceevo.progress import ProgressCallback
from spaceevo.storage import Storage, this_machine


class StoredEngine:
    """See `spaceevo.engines.Engine`: another one, whose jobs find the run folder and leave there what they write.

    Args:
        engine: The other one.
        storage: Of the run, which this process has.
    """

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self._engine = engine
        self._storage = storage

    def map(
        self,
        work: Work[J, R],
        jobs: Sequence[J],
        progress: ProgressCallback,
        sizes: Sequence[float] = (),
        needs: Needs = ONE_CORE,
    ) -> Iterator[tuple[int, R]]:
        """See `Engine.map`."""
        self._storage.push()
        stored = partial(_stored, self._storage, work)
        for number, (result, machine) in self._engine.map(stored, jobs, progress, sizes, needs):
            if machine != this_machine():
                self._storage.pull()
            yield number, result

    def together(self, work: Callable[[ProgressCallback], R], progress: ProgressCallback, needs: Needs = ONE_CORE) -> R:
        """See `Engine.together`."""
        self._storage.push()
        return self._engine.together(partial(_together, self._storage, work), progress, needs)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()


def _stored(storage: Storage, work: Work[J, R], job: J, progress: ProgressCallback) -> tuple[R, str]:
    """Do a job; on another machine than the run's, with the folder as it is in the store."""
    machine = this_machine()
    if machine == storage.machine:
        return work(job, progress), machine
    storage.pull()
    with storage.pushed():
        return work(job, progress), machine


def _together(storage: Storage, work: Callable[[ProgressCallback], R], progress: ProgressCallback) -> R:
    storage.pull()
    if this_machine() == storage.machine:
        return work(progress)
    with storage.pushed():
        return work(progress)
