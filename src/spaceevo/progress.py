"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere; both estimate the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from logging import getLogger
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

#: Called with (done, total) as work goes on.
ProgressCallback = Callable[[int, int], None]

#: Called with a line for people.
LineCallback = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0
#: No estimate before so much has been seen: the first steps of some work are seldom like the others.
LEAST_SECONDS, LEAST_STEPS, LEAST_SHARE = 10.0, 2, 0.05
_MOST_POINTS = 256


def silent(done: int, total: int) -> None:
    """A progress callback that shows nothing."""


def mute(line: str) -> None:
    """A line callback that tells nothing."""


def lines(console: Console) -> LineCallback:
    """A callback that prints lines as they are, each of them once.

    Args:
        console: Where to print.
    """
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    return tell


def part(progress: ProgressCallback, start: float, end: float) -> ProgressCallback:
    """A callback for a part of some work, whose whole runs from 0 to 1.

    >>> part(lambda done, total: print(done, total), 0.5, 1.0)(1, 2)
    750 1000
    """

    def report(done: int, total: int) -> None:
        progress(round(1000 * (start + (end - start) * done / max(1, total))), 1000)

    return report


class Estimate:
    """How long some work will still take, by the speed in the last third of the time so far.

    What an interrupted attempt has left counts as done, not as fast; a slow start, or a part whose steps are others, is
    forgotten after half as long as it took.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []  # (time, share done), ascending
        self._num_steps = 0

    def seconds_left(self, done: int, total: int) -> float | None:
        """Note how far the work is now; None where too little has been seen to tell.

        Args:
            done: What is done.
            total: Of all, at least 1.
        """
        now, share = time.monotonic(), done / max(1, total)
        points = self._points
        if points and share < points[-1][1]:  # begun anew
            points.clear()
            self._num_steps = 0
        self._num_steps += bool(points) and share > points[-1][1]
        points.append((now, share))
        if len(points) > _MOST_POINTS:
            del points[1:-1:2]
        (start, first), elapsed = points[0], now - points[0][0]
        if elapsed < LEAST_SECONDS or self._num_steps < LEAST_STEPS or share - first < LEAST_SHARE:
            return None
        since, then = max(point for point in points if point[0] <= start + elapsed * 2 / 3)
        return (1 - share) * (now - since) / (share - then) if share > then else None


class Display(Protocol):
    """Where long work tells how it goes."""

    def line(self, text: str) -> None:
        """What is begun or done."""
        ...

    def say(self, sentence: str) -> None:
        """What people should know, as it stands; the same sentence is told once."""
        ...

    def task(self, label: str) -> AbstractContextManager[ProgressCallback]:
        """Show the progress of one piece of work: the callback to report to."""
        ...


class Logged:
    """A display for programs: lines and sentences go to the logger `spaceevo`, progress to a callback.

    Args:
        progress: Called with (done, total) of the piece of work at hand.
    """

    def __init__(self, progress: ProgressCallback = silent) -> None:
        self._log, self._progress = getLogger("spaceevo"), progress
        self._said: set[str] = set()

    def line(self, text: str) -> None:
        """See `Display.line`."""
        self._log.info(text)

    def say(self, sentence: str) -> None:
        """See `Display.say`."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._log.info(sentence)

    @contextmanager
    def task(self, label: str) -> Iterator[ProgressCallback]:
        """See `Display.task`."""
        yield self._progress


class Shown:
    """A display for people: on a console, or in a notebook.

    Args:
        console: Where to print; standard error without one.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.say = lines(self._console)

    def line(self, text: str) -> None:
        """See `Display.line`."""
        self._console.print(text, highlight=False)

    def task(self, label: str) -> AbstractContextManager[ProgressCallback]:
        """See `Display.task`."""
        return shown(self._console, label)


@contextmanager
def shown(console: Console, label: str) -> Iterator[ProgressCallback]:
    """Show the progress of one piece of work.

    Args:
        console: Where to show it.
        label: What is being done.

    Yields:
        The callback to report to.
    """
    estimate = Estimate()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), TextColumn("{task.fields[left]}"))  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=None, left="")

            def update(done: int, total: int) -> None:
                left = estimate.seconds_left(done, total)
                told = "" if left is None else f"left {timedelta(seconds=round(left))}"
                bar.update(task, completed=done, total=total, left=told)

            yield update
        return
    start = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        left, now = estimate.seconds_left(done, total), time.monotonic()
        if 0 < done < total and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            told = "" if left is None else f", about {left:.0f} s left"
            console.print(f"  {label}: {100 * done / total:.0f} %, {now - start:.0f} s gone{told}")

    yield line
