"""The cache of pixels: larger than the memory, whole, and clear about whose error it is."""

import errno
from pathlib import Path

import numpy as np
import pytest

from spaceevo.errors import NoSpaceError
from spaceevo.train import datasets
from spaceevo.train.datasets import cached

PARTS = [np.full((n, 3, 2, 2), n, np.uint8) for n in (2, 1, 3)]
SHAPE = (6, 3, 2, 2)


def test_parts_are_joined_and_mapped(tmp_path: Path) -> None:
    array = cached(tmp_path, __file__, "key", SHAPE, lambda: PARTS)
    assert (array == np.concatenate(PARTS)).all()
    assert isinstance(array.base, np.memmap), "it need not fit into memory"
    array[:] = 9
    again = cached(tmp_path, __file__, "key", SHAPE, lambda: pytest.fail("built again"))
    assert (again == np.concatenate(PARTS)).all(), "what one reader writes no other one sees"


def test_parts_of_any_layout(tmp_path: Path) -> None:
    parts = [part.transpose(0, 3, 1, 2)[:, :, ::-1] for part in [np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)]]
    assert (cached(tmp_path, __file__, "key", (2, 3, 2, 2), lambda: parts) == parts[0]).all()


def test_one_part_at_a_time(tmp_path: Path) -> None:
    written = []

    def build():
        for part in PARTS:
            written.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            yield part

    cached(tmp_path, __file__, "key", SHAPE, build)
    assert np.diff(written).tolist() == [PARTS[0].nbytes, PARTS[1].nbytes]


def test_an_error_of_the_data_is_none_of_the_disk(tmp_path: Path) -> None:
    def build():
        yield PARTS[0]
        raise OSError(errno.EIO, "the source is gone")

    with pytest.raises(OSError, match="the source is gone") as caught:
        cached(tmp_path, __file__, "key", SHAPE, build)
    assert not isinstance(caught.value, NoSpaceError)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, written = datasets._append, []

    def fills(file, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(append(file, content))

    monkeypatch.setattr(datasets, "_append", fills)
    with pytest.raises(NoSpaceError, match="No space left on device"):
        cached(tmp_path, __file__, "key", SHAPE, lambda: PARTS)
    assert not list(tmp_path.iterdir())


def test_a_write_that_takes_only_a_part_goes_on() -> None:
    class Slow:
        taken = b""

        def write(self, content: memoryview) -> int:
            self.taken += bytes(content[:3])
            return min(3, len(content))

    slow = Slow()
    datasets._append(slow, memoryview(b"0123456789"))
    assert slow.taken == b"0123456789"
