"""Where independent jobs run: on this machine's cores, on a Ray cluster, or one after the other right here.

Every file of this folder is an `EnginePlugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from spaceevo.config import EngineSettings
from spaceevo.errors import EngineError
from spaceevo.plugins import Registry
from spaceevo.progress import ProgressCallback

#: How often a job is started again whose process or machine was lost.
MAX_LOSSES = 3
J = TypeVar("J")
R = TypeVar("R")
#: What is done with a job; it reports how far it is.
Work = Callable[[J, ProgressCallback], R]


@dataclass(frozen=True, slots=True)
class Needs:
    """What each job takes of the machine that it runs on.

    Attributes:
        cpus: Cores that a job computes on.
        gpus: Of them, or a share of one.
        device: Name of something that is attached to certain machines, and serves one job at a time; empty for none.
    """

    cpus: int = 1
    gpus: float = 0.0
    device: str = ""


ONE_CORE = Needs()


class Engine(Protocol):
    """Maps a function over independent jobs; results come as they are ready."""

    def map(
        self,
        work: Work[J, R],
        jobs: Sequence[J],
        progress: ProgressCallback,
        sizes: Sequence[float] = (),
        needs: Needs = ONE_CORE,
    ) -> Iterator[tuple[int, R]]:
        """Run `work(job, progress)` for each job, as many at a time as there is room for, the first ones first.

        Work, jobs and results travel between processes: `work` is a function of a module, or a partial of one, and
        must not count on what other jobs left in memory. A job whose process or machine is lost is run again, up to
        `MAX_LOSSES` times, so it must be one that may be run twice: what it writes, it writes whole.

        Args:
            work: What is done.
            jobs: Any number of them, also none.
            progress: Called in this thread, with work done and in all, several times a second also when nothing has
                changed; what it raises ends everything.
            sizes: How much work each job is, for the progress; all alike without.
            needs: What each job computes on.

        Yields:
            Position and result of each job. An iterator that is closed early cancels what is not done.

        Raises:
            EngineError: A job was lost too often, or there is no machine that has what a job needs. The job is told by
                its number, and by `str` where its class defines that.
            Exception: The first one that a job raised; the others are cancelled.
        """
        ...

    def together(self, work: Callable[[ProgressCallback], R], progress: ProgressCallback, needs: Needs = ONE_CORE) -> R:
        """Run one piece of work in processes that `torch.distributed` joins, as many as the engine's settings say.

        Args:
            work: Called in each of them; once it is finished, a further call returns at once what came out.
            progress: As in `map`; what the first process reports counts.
            needs: What each process computes on.

        Returns:
            What a call in this process returns at the end.

        Raises:
            EngineError: Processes were lost too often.
            Exception: What the work raised.
        """
        ...

    def close(self) -> None:
        """Let processes and connections go; `map` may still be called and starts them anew."""
        ...


class Shares:
    """Adds up how far jobs are.

    Args:
        count: How many jobs there are.
        sizes: How much work each is; all alike where there are none.
        progress: Told of the work that is done, as a share of that of all jobs.
    """

    def __init__(self, count: int, sizes: Sequence[float], progress: ProgressCallback) -> None:
        self._sizes = sizes or [1.0] * count
        self._done = [0.0] * count
        self._progress = progress

    def set(self, job: int, share: float) -> None:
        """Note that a job is that far, 0 to 1."""
        self._done[job] = share

    def tell(self) -> None:
        """Report the sum."""
        total = sum(self._sizes)
        done = sum(size * share for size, share in zip(self._sizes, self._done, strict=True))
        self._progress(round(1000 * done / total), 1000)


class EnginePlugin(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.engines`."""

    def start(self, settings: EngineSettings) -> Engine:
        """The engine.

        Raises:
            EngineError: It cannot run here; the error says what to install or to start.
        """
        ...


ENGINES = Registry("spaceevo.engines", EnginePlugin)


def start(settings: EngineSettings) -> Engine:
    """The engine of a recipe.

    Raises:
        PluginError: There is no such engine.
        EngineError: It cannot run here.
    """
    return ENGINES.load(settings.name).start(settings)


def job_name(jobs: Sequence[object], number: int) -> str:
    """What people are told of a job.

    >>> job_name(["a", "b"], 1)
    'Job 2 of 2'
    """
    job = jobs[number]
    own = f" ({job})" if type(job).__str__ is not object.__str__ and not isinstance(job, str) else ""
    return f"Job {number + 1} of {len(jobs)}{own}"


def only_this_machine(settings: EngineSettings) -> None:
    """Check that nothing is asked of an engine on this machine that takes a cluster.

    Raises:
        EngineError: Something is.
    """
    for key in ("address", "gpus", "trainers", "device"):
        if value := getattr(settings, key):
            raise EngineError(
                f"The engine {settings.name} runs on this machine and hands out its cores alone",
                found=f"engine.{key} is {value!r}",
                remedy="Leave it out, or take the engine ray",
            )


def in_order(results: Iterator[tuple[int, R]], count: int) -> list[R]:
    """Results of `Engine.map` in the order of the jobs.

    >>> in_order(iter([(1, "b"), (0, "a")]), 2)
    ['a', 'b']
    """
    found = dict(results)
    return [found[number] for number in range(count)]
