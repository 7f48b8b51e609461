"""Locks on files, which the system frees when the process that holds them ends, however it ends."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from spaceevo.errors import StorageError

#: What file systems without locks answer; those of a network also where their server has none, or is gone.
_NO_LOCKS = frozenset(
    (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EIO, errno.ESTALE)
)


def claim(path: Path, *, wait: bool = False, note: str = "") -> AbstractContextManager[object] | None:
    """Take the lock on a file, if no one else has it.

    Args:
        path: The file, made where absent, with its folders. Nothing in it changes while another has the lock.
        wait: Until the lock is free.
        note: What the file shall say while this process has the lock, and after it.

    Returns:
        The lock, freed at the end of a `with`; None where another has it.

    Raises:
        StorageError: The file system has no locks.
        OSError: The file cannot be made or written.
    """

    def write(file: int) -> None:
        if note:
            os.ftruncate(file, 0)
            os.write(file, note.encode())

    # Where the system has no locks, a file whose mere existence locks would outlive a process that is killed
    lock = FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=write)
    try:
        return lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"The file system of {path.parent} has no locks",
            found=f"flock: {error.strerror}",
            remedy="Choose a folder on a local disk with `place` (of a target: `folder`)",
        ) from error
