"""Jobs for tests of engines; a module of its own, since they travel to other processes."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from spaceevo.errors import TrainingError

PAUSE = 0.02


def square(job, progress):
    progress(1, 2)
    return job * job


def where(job, progress):
    time.sleep(PAUSE)
    return os.getpid()


def fail(job, progress):
    """Job 0 fails; the others go on for ever."""
    if job == 0:
        raise TrainingError("It does not fit", found="job 0", remedy="Another one")
    while True:
        time.sleep(PAUSE)
        progress(1, 2)


class Lossy(NamedTuple):
    """Told by its name."""

    folder: Path
    number: int
    losses: int

    def __str__(self):
        return f"lossy {self.number}"


def lose(job: tuple[Path, int, int], progress):
    """Notes that it has started; is killed in the middle as often as the job says."""
    folder, number, losses = job
    with (folder / str(number)).open("a") as file:
        file.write("x")
    if len((folder / str(number)).read_text()) <= losses:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PAUSE)
    return number


def wait(job, progress):
    """Says which process it is, then goes on for ever."""
    (job / str(os.getpid())).touch()
    while True:
        time.sleep(PAUSE)


def step(job, progress):
    for done in range(20):
        progress(done, 20)
        time.sleep(0.05)
    return job
