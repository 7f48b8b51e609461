"""Jobs that `spaceevo.testing.EngineSuite` tries an engine with.

They lie here, since every process of an engine imports them, and `spaceevo.testing` imports torch.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from spaceevo.errors import TrainingError
from spaceevo.progress import ProgressCallback

PAUSE = 0.02


def square(job: int, progress: ProgressCallback) -> int:
    """The job's square."""
    progress(1, 2)
    return job * job


def where(job: object, progress: ProgressCallback) -> int:
    """The process that does it."""
    time.sleep(PAUSE)
    return os.getpid()


def fail(job: int, progress: ProgressCallback) -> None:
    """Job 0 fails; the others go on for ever."""
    if job == 0:
        raise TrainingError("It does not fit", found="job 0", remedy="Another one")
    while True:
        time.sleep(PAUSE)
        progress(1, 2)


class Lossy(NamedTuple):
    """Told by its name.

    Attributes:
        folder: Where a job notes that it has started.
        number: Of the job.
        losses: How often it is lost.
    """

    folder: Path
    number: int
    losses: int

    def __str__(self) -> str:
        return f"lossy {self.number}"


def lose(job: tuple[Path, int, int], progress: ProgressCallback) -> int:
    """Notes that it has started; is killed in the middle as often as the job says."""
    folder, number, losses = job
    path = folder / str(number)
    with path.open("a", encoding="utf-8") as file:
        file.write("x")
    if path.stat().st_size <= losses:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PAUSE)
    return number


def wait(job: Path, progress: ProgressCallback) -> None:
    """Says which process it is, then goes on for ever."""
    (job / str(os.getpid())).touch()
    while True:
        time.sleep(PAUSE)


def step(job: int, progress: ProgressCallback) -> int:
    """Tells twenty times how far it is."""
    for done in range(20):
        progress(done, 20)
        time.sleep(0.05)
    return job
