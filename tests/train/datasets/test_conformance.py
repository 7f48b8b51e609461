"""The contract of a data set (see `procedural`), over every plug-in of the folder."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spaceevo.testing.datasets import DatasetSuite
from spaceevo.train.datasets import DATASETS


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


class TestEveryDataset(DatasetSuite):
    @pytest.fixture(params=DATASETS.names())
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def fields(self, name: str, tmp_path: Path) -> dict[str, object]:
        return FIELDS.get(name, lambda path: {})(tmp_path / "images")


def test_the_folder_has_these_data_sets() -> None:
    assert {"digits", "folder", "huggingface", "listing", "procedural", "webdataset"} <= set(DATASETS.names())
