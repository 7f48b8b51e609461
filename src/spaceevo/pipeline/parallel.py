"""Independent trainings beside each other, each on one core."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

from spaceevo.progress import ProgressCallback

T = TypeVar("T")


def one_core_each(work: Callable[[int, ProgressCallback], T], count: int, progress: ProgressCallback) -> list[T]:
    """Results of `work(number, progress)` for each number, in order: one training per core beats one on all cores.

    Args:
        work: Called from several threads.
        count: How many.
        progress: Called with work done and in all, one call at a time.
    """
    done, lock, threads = [0.0] * count, Lock(), torch.get_num_threads()

    def run(number: int) -> T:
        torch.set_num_threads(1)

        def report(steps: int, total: int) -> None:
            with lock:
                done[number] = steps / total
                progress(round(1000 * sum(done)), 1000 * count)

        return work(number, report)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run, range(count)))
    finally:
        torch.set_num_threads(threads)
