"""What every data set keeps (`spaceevo.train.datasets.Dataset`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from spaceevo.errors import NoSpaceError
from spaceevo.records import ImageData
from spaceevo.testing._processes import brought_by
from spaceevo.train import datasets
from spaceevo.train.datasets import DATASETS, Dataset

ROOM = "spaceevo.train.datasets"
SIZE = 12


def _same(first: ImageData, second: ImageData) -> bool:
    arrays = ("train_images", "train_labels", "val_images", "val_labels")
    return first.class_names == second.class_names and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays
    )


def _bytes_of(cache: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in cache.rglob("*")}


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _one_bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _header_flipped(content: bytes) -> bytes:
    return content[:20] + b"\xff" + content[21:]


def _foreign(content: bytes) -> bytes:
    array = np.zeros(3)
    return b"\x93NUMPY\x01\x00" + array.tobytes()


def _plain_npy(content: bytes) -> bytes:
    """The same array as another program would save it, hence without our digest."""
    return content[:-32]


class DatasetSuite:
    """Laws of a data set.

    Attributes:
        NAME: Of the plug-in.
        OPTIONS: That make it small or possible; a data set that reads files overrides the fixture `fields`, which makes
            them in a temporary folder and returns its options.
    """

    NAME: ClassVar[str]
    OPTIONS: ClassVar[dict[str, object]] = {}

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    @pytest.fixture
    def dataset(self, name: str) -> Dataset:
        return DATASETS.load(name)

    @pytest.fixture
    def fields(self, name: str, tmp_path: Path) -> dict[str, object]:
        return self.OPTIONS

    @pytest.fixture
    def settings(self, dataset: Dataset, fields: dict[str, object]) -> BaseModel:
        made = dataset.Settings(**fields)
        assert isinstance(made, BaseModel)
        return made

    @pytest.mark.parametrize("image_size", [SIZE, 31])
    def test_shapes_and_labels(self, dataset: Dataset, settings: BaseModel, tmp_path: Path, image_size: int) -> None:
        data = dataset.load(settings, image_size, tmp_path / "cache")
        assert isinstance(data, ImageData)
        assert data.name
        assert data.image_size == image_size
        assert len(set(data.class_names)) == data.num_classes >= 2
        for images, labels in ((data.train_images, data.train_labels), (data.val_images, data.val_labels)):
            assert images.dtype == np.uint8
            assert images.shape == (len(labels), 3, image_size, image_size)
            assert labels.dtype == np.int64
            assert set(labels.tolist()) == set(range(data.num_classes))
            assert images.std() > 0

    def test_two_loads_agree_with_and_without_cache(
        self, dataset: Dataset, settings: BaseModel, tmp_path: Path
    ) -> None:
        first = dataset.load(settings, SIZE, tmp_path / "cache")
        before = _bytes_of(tmp_path / "cache")
        assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))
        assert _bytes_of(tmp_path / "cache") == before
        assert _same(first, dataset.load(settings, SIZE, tmp_path / "another"))

    def test_cache_files_are_whole_npy_files(self, dataset: Dataset, settings: BaseModel, tmp_path: Path) -> None:
        dataset.load(settings, SIZE, tmp_path / "cache")
        for file in _bytes_of(tmp_path / "cache"):
            assert file.suffix == ".npy"
            assert np.load(file, allow_pickle=False).dtype == np.uint8

    @pytest.mark.parametrize(
        "damage", [_truncated, _one_bit_flipped, _header_flipped, _foreign, _plain_npy, lambda content: b""]
    )
    def test_damaged_cache_is_rebuilt(
        self, dataset: Dataset, settings: BaseModel, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        first = dataset.load(settings, SIZE, tmp_path / "cache")
        intact = _bytes_of(tmp_path / "cache")
        for file, content in intact.items():
            file.unlink()  # `first` is mapped from it
            file.write_bytes(damage(content))
        assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))
        assert _bytes_of(tmp_path / "cache") == intact

    def test_cache_of_another_size_under_this_name_is_rebuilt(
        self, dataset: Dataset, settings: BaseModel, tmp_path: Path
    ) -> None:
        first = dataset.load(settings, SIZE, tmp_path / "cache")
        dataset.load(settings, SIZE + 1, tmp_path / "other")
        for file, other in zip(_bytes_of(tmp_path / "cache"), _bytes_of(tmp_path / "other"), strict=True):
            os.replace(other, file)
        assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))

    def test_full_disk(
        self, dataset: Dataset, settings: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset.load(settings, SIZE, tmp_path / "cache")
        if not _bytes_of(tmp_path / "cache"):
            pytest.skip("writes no cache")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(datasets, "_append", full)
        with pytest.raises(NoSpaceError) as caught:
            dataset.load(settings, SIZE, tmp_path / "full")
        assert "No space left on device" in caught.value.found
        assert caught.value.remedy
        assert not _bytes_of(tmp_path / "full")

    def test_unknown_key_is_rejected(self, dataset: Dataset, fields: dict[str, object]) -> None:
        with pytest.raises(ValidationError, match="no_such_key"):
            dataset.Settings(**fields, no_such_key=1)

    def test_settings_are_frozen(self, settings: BaseModel) -> None:
        for name in type(settings).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(settings, name, getattr(settings, name))

    def test_every_field_is_described(self, dataset: Dataset) -> None:
        assert all(field.description for field in dataset.Settings.model_fields.values())

    def test_torch_is_not_imported(self, name: str) -> None:
        assert brought_by(ROOM, name, {"torch"}) == set()
