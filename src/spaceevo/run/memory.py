"""Resident memory of this process."""

from __future__ import annotations

import ctypes
import resource
import sys


def peak_rss_mib() -> float:
    """Largest resident memory that this process has had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def return_free_memory() -> None:
    """Give freed memory back to the system; glibc keeps what worker threads have freed to itself."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent in other C libraries
        if trim is not None:
            trim(0)
