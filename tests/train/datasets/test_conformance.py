"""The contract of a data set (see `procedural`), over every plug-in of the folder."""

import errno
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError

from spaceevo import plugins
from spaceevo.errors import NoSpaceError
from spaceevo.records import ImageData
from spaceevo.train import datasets

ROOM = "spaceevo.train.datasets"
SIZE = 12


def _little_images(path: Path) -> dict[str, object]:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog", "eel"):
            (path / split / name).mkdir(parents=True)
            for index in range(3):
                pixels = random.integers(0, 256, (20, 16, 3), np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{index}.png")
    return {"path": str(path)}


def _little_shards(path: Path) -> dict[str, object]:
    folder = _little_images(path / "folder")["path"]
    for split in ("train", "val"):
        with tarfile.open(path / f"{split}.tar", "w") as shard:
            for number, file in enumerate(sorted(Path(str(folder), split).rglob("*.png"))):
                shard.add(file, f"{number}.png")
                (path / "label").write_text(str(number // 3))
                shard.add(path / "label", f"{number}.cls")
    return {"train": f"{path}/train.tar", "val": f"{path}/val.tar"}


def _little_listing(path: Path) -> dict[str, object]:
    folder = Path(str(_little_images(path / "folder")["path"]))
    rows = [f"{file.relative_to(path)},{file.parent.name},{file.parts[-3]}" for file in folder.rglob("*.png")]
    (path / "list.csv").write_text("\n".join(["path,label,split", *sorted(rows)]))
    return {"file": str(path / "list.csv")}


def _little_tables(path: Path) -> dict[str, object]:
    folder = _little_images(path / "folder")["path"]
    for split in ("train", "val"):
        files = sorted(Path(str(folder), split).rglob("*.png"))
        columns = {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
        pq.write_table(pa.table(columns), path / f"{split}.parquet")
    return {"path": str(path), "val": "val"}


# What makes the data set small or possible; a plug-in that is not named here is loaded with its defaults.
FIELDS: dict[str, Callable[[Path], dict[str, object]]] = {
    "folder": _little_images,
    "huggingface": _little_tables,
    "listing": _little_listing,
    "procedural": lambda path: {"num_train": 40, "num_val": 30},
    "webdataset": _little_shards,
}


@pytest.fixture(params=plugins.names(ROOM))
def dataset(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load(ROOM, request.param)


@pytest.fixture
def fields(dataset: ModuleType, tmp_path: Path) -> dict[str, object]:
    make = FIELDS.get(dataset.__name__.rpartition(".")[2], lambda path: {})
    return make(tmp_path / "images")


@pytest.fixture
def settings(dataset: ModuleType, fields: dict[str, object]) -> BaseModel:
    made = dataset.Settings(**fields)
    assert isinstance(made, BaseModel)
    return made


def _same(one: ImageData, other: ImageData) -> bool:
    arrays = ("train_images", "train_labels", "val_images", "val_labels")
    return one.class_names == other.class_names and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def _bytes_of(cache: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in cache.rglob("*")}


def test_the_folder_has_these_data_sets() -> None:
    assert {"digits", "folder", "huggingface", "listing", "procedural", "webdataset"} <= set(plugins.names(ROOM))


@pytest.mark.parametrize("image_size", [SIZE, 31])
def test_shapes_and_labels(dataset: ModuleType, settings: BaseModel, tmp_path: Path, image_size: int) -> None:
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


def test_two_loads_agree_with_and_without_cache(dataset: ModuleType, settings: BaseModel, tmp_path: Path) -> None:
    first = dataset.load(settings, SIZE, tmp_path / "cache")
    before = _bytes_of(tmp_path / "cache")
    assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))
    assert _bytes_of(tmp_path / "cache") == before
    assert _same(first, dataset.load(settings, SIZE, tmp_path / "another"))


def test_cache_files_are_whole_npy_files(dataset: ModuleType, settings: BaseModel, tmp_path: Path) -> None:
    dataset.load(settings, SIZE, tmp_path / "cache")
    for file in _bytes_of(tmp_path / "cache"):
        assert file.suffix == ".npy"
        assert np.load(file, allow_pickle=False).dtype == np.uint8


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


@pytest.mark.parametrize(
    "damage", [_truncated, _one_bit_flipped, _header_flipped, _foreign, _plain_npy, lambda content: b""]
)
def test_damaged_cache_is_rebuilt(
    dataset: ModuleType, settings: BaseModel, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = dataset.load(settings, SIZE, tmp_path / "cache")
    intact = _bytes_of(tmp_path / "cache")
    for file, content in intact.items():
        file.unlink()  # `first` is mapped from it
        file.write_bytes(damage(content))
    assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))
    assert _bytes_of(tmp_path / "cache") == intact


def test_cache_of_another_size_under_this_name_is_rebuilt(
    dataset: ModuleType, settings: BaseModel, tmp_path: Path
) -> None:
    first = dataset.load(settings, SIZE, tmp_path / "cache")
    dataset.load(settings, SIZE + 1, tmp_path / "other")
    for file, other in zip(_bytes_of(tmp_path / "cache"), _bytes_of(tmp_path / "other"), strict=True):
        os.replace(other, file)
    assert _same(first, dataset.load(settings, SIZE, tmp_path / "cache"))


def test_full_disk(dataset: ModuleType, settings: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_unknown_key_is_rejected(dataset: ModuleType, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="no_such_key"):
        dataset.Settings(**fields, no_such_key=1)


def test_settings_are_frozen(settings: BaseModel) -> None:
    name = next(iter(type(settings).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, getattr(settings, name))


def test_every_field_is_described(dataset: ModuleType) -> None:
    assert all(field.description for field in dataset.Settings.model_fields.values())


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from spaceevo import plugins; "
        f"[plugins.load({ROOM!r}, name) for name in plugins.names({ROOM!r})]; "
        "sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
