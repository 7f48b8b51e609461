"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere, both with an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Called with (done, total) as work goes on.
ProgressCallback = Callable[[int, int], None]

#: Called with a line for people.
LineCallback = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0


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


@contextmanager
def shown(console: Console, label: str) -> Iterator[ProgressCallback]:
    """Show the progress of one piece of work.

    Args:
        console: Where to show it.
        label: What is being done.

    Yields:
        The callback to report to.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    start = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if 0 < done < total and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            elapsed = now - start
            left = elapsed * (total - done) / done
            console.print(f"  {label}: {100 * done / total:.0f} %, {elapsed:.0f} s gone, about {left:.0f} s left")

    yield line
