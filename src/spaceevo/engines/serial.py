"""One job after the other, in this process: for jobs within jobs, for debuggers, and where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from spaceevo.config import EngineSettings
from spaceevo.engines import ONE_CORE, J, Needs, R, Shares, Work, only_this_machine
from spaceevo.progress import ProgressCallback


class SerialEngine:
    """See `spaceevo.engines.Engine`; every need is met by this process, and nothing can be lost but all."""

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
        for number, job in enumerate(jobs):

            def report(done: int, total: int, number: int = number) -> None:
                shares.set(number, done / total)
                shares.tell()

            result = work(job, report)
            report(1, 1)
            yield number, result

    def together(self, work: Callable[[ProgressCallback], R], progress: ProgressCallback, needs: Needs = ONE_CORE) -> R:
        """See `Engine.together`: by this process alone, or with those that `torchrun` has started beside it."""
        return work(progress)

    def close(self) -> None:
        """Nothing is held."""


def start(settings: EngineSettings) -> SerialEngine:
    """The engine.

    Raises:
        EngineError: Something is asked for that takes a cluster.
    """
    only_this_machine(settings)
    return SerialEngine()
