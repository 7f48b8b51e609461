"""Locks on files: one holder, what it says, and file systems that have none."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from spaceevo.artifacts import RunFolder
from spaceevo.errors import StorageError
from spaceevo.locks import claim


def test_one_has_it_and_what_it_says_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("what an earlier one said, at length")
    first = claim(path, note="7")
    assert first is not None
    with first:
        assert claim(path, note="8") is None
        assert path.read_text() == "7"
    assert path.read_text() == "7"
    second = claim(path)
    assert second is not None
    with second:
        assert path.read_text() == "7"


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    first = claim(tmp_path / "lock")
    assert first is not None
    order = []

    def wait() -> None:
        second = claim(tmp_path / "lock", wait=True)
        order.append("second")
        assert second is not None
        with second:
            pass

    other = threading.Thread(target=wait)
    with first:
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESTALE])
@pytest.mark.filterwarnings("error")
def test_a_file_system_without_locks_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them may fall back to a file whose existence is the lock."""

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError) as told, RunFolder(tmp_path / "out").locked():
        pass
    assert told.value.problem == f"The file system of {tmp_path / 'out'} has no locks"
    assert told.value.found == f"flock: {os.strerror(number)}"
    assert "local disk with `place`" in told.value.remedy


def test_a_lock_that_cannot_be_made_is_another_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        claim(tmp_path / "file" / "lock")
