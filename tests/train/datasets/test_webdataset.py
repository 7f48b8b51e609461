"""Shards: what is read, and what each thing that is wrong with one is called."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import webdataset

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _picture(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 12), colour).save(file, kind)
    return file.getvalue()


def _pack(shard: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return shard


def _sample(stem: str, colour: tuple[int, int, int], label: object) -> list[tuple[str, bytes]]:
    return [(f"{stem}.png", _picture(colour)), (f"{stem}.cls", str(label).encode())]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Shards of two samples each, train-08 to train-10 and val."""
    for shard in ("train-08", "train-09", "train-10", "val"):
        _pack(tmp_path / "s" / f"{shard}.tar", *_sample("a/0", RED, 0), *_sample("a/1", BLUE, 1))
    return tmp_path / "s"


def _load(root: Path, **fields: object) -> ImageData:
    fields = {"train": f"{root}/train-{{08..10}}.tar", "val": f"{root}/val.tar", **fields}
    return webdataset.load(webdataset.Settings(**fields), 8, root.parent / "cache")


def _error(root: Path, **fields: object) -> DataError:
    with pytest.raises(DataError) as caught:
        _load(root, **fields)
    assert caught.value.found
    assert caught.value.remedy
    cache = root.parent / "cache"
    assert not cache.exists() or not list(cache.iterdir())
    return caught.value


@pytest.mark.parametrize("pattern", ["train-{08..10}.tar", "train-*.tar", "train-{8..8}*.tar", "t*-0?.tar"])
def test_names_labels_and_pixels(root: Path, pattern: str) -> None:
    if "{8..8}" in pattern:
        (root / "train-08.tar").rename(root / "train-8.tar")
    data = _load(root, train=str(root / pattern))
    num_shards = {"train-{8..8}*.tar": 1, "t*-0?.tar": 2}.get(pattern, 3)
    assert data.class_names == ("0", "1")
    assert data.train_labels.tolist() == [0, 1] * num_shards
    assert len(data.val_labels) == 2
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        assert image[:, 0, 0].tolist() == list((RED, BLUE)[label])
        assert (image == image[:, :1, :1]).all()


def test_brace_ranges_multiply() -> None:
    assert webdataset._expanded("{0..1}/x-{09..10}.tar") == ["0/x-09.tar", "0/x-10.tar", "1/x-09.tar", "1/x-10.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("JPEG", "JPEG"), ("WEBP", "webp"), ("PNG", "png")])
def test_json_labels_formats_and_compression(root: Path, kind: str, extension: str, mode: str) -> None:
    label = json.dumps({"about": {"class": "dog"}, "width": 3}).encode()
    extra = [("b.json", label), (f"b.{extension}", _picture(GREEN, kind)), ("b.seg.png", b"not the image")]
    other = [("c.json", json.dumps({"about": {"class": 0}}).encode()), ("c.png", _picture(RED))]
    notes = [("README.md", b"not a sample"), (".hidden.png", b"no image"), ("d", b"")]
    _pack(root / "val.tar", *notes, *extra, *other, mode=mode)
    data = _load(root, train=str(root / "val.tar"), label="json.about.class", class_names=("cat", "dog"))
    assert data.class_names == ("cat", "dog")
    assert data.val_labels.tolist() == [1, 0]
    np.testing.assert_allclose(data.val_images[0].mean(axis=(1, 2)), GREEN, atol=4)


def test_cache_spares_decoding_until_a_shard_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(root)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "decoded", lambda *_: pytest.fail("decoded again"))
        assert (_load(root).train_images == first.train_images).all()
    _pack(root / "train-09.tar", *_sample("a/0", GREEN, 0), *_sample("a/1", BLUE, 1), *_sample("a/2", GREEN, 1))
    assert _load(root).train_images[2, :, 0, 0].tolist() == list(GREEN)


def test_missing_shards(root: Path) -> None:
    assert "train-11.tar" in _error(root, train=f"{root}/train-{{08..11}}.tar").found
    assert "missing" in _error(root, val=f"{root}/nothing-*.tar").problem


def test_every_cut_of_a_shard_is_noticed(root: Path) -> None:
    """Between two members, in a header, in a file, and of the end of the archive."""
    file = root / "train-09.tar"
    content = file.read_bytes()
    with tarfile.open(file) as archive:
        end = archive.getmembers()[-1].offset_data + tarfile.BLOCKSIZE
    for length in [*range(0, end, tarfile.BLOCKSIZE), *range(100, end, tarfile.BLOCKSIZE), end]:
        file.write_bytes(content[:length])
        assert "train-09.tar" in _error(root).found, length
    file.write_bytes(content[: end + tarfile.BLOCKSIZE])
    assert len(_load(root).train_labels) == 6


@pytest.mark.parametrize("position", [0, 100, 2 * tarfile.BLOCKSIZE + 20])
def test_a_damaged_header_is_noticed(root: Path, position: int) -> None:
    file = root / "train-09.tar"
    content = bytearray(file.read_bytes())
    content[position] ^= 0x55
    file.write_bytes(content)
    assert "train-09.tar" in _error(root).found


def test_a_cut_compressed_shard(root: Path) -> None:
    _pack(root / "val.tar", *_sample("a", RED, 0), *_sample("b", BLUE, 1), mode="w:gz")
    (root / "val.tar").write_bytes((root / "val.tar").read_bytes()[:-30])
    assert "val.tar" in _error(root).found


@pytest.mark.parametrize(
    ("members", "problem", "found"),
    [
        ([("x/7.png", _picture(RED))], "lacks its label", "x/7 in"),
        ([("x/7.cls", b"0")], "lacks its image", "x/7 in"),
        (_sample("7", RED, "fish"), "neither a number nor the name", "7.cls in"),
        ([("7.png", _picture(RED)), ("7.cls", b"\xff\xfe")], "neither a number nor the name", "7.cls in"),
        ([("7.png", b"no image"), ("7.cls", b"0")], "1 of 8 images cannot be read", "7.png in"),
        ([*_sample("7", RED, 0), ("7.cls", b"1")], "cannot be read", "7.cls twice"),
        (_sample("7", RED, 3), "Every class needs images", "class 2"),
        (_sample("7", RED, -1), "Labels of 'train' are none of a class", "-1"),
    ],
)
def test_bad_samples(root: Path, members: list[tuple[str, bytes]], problem: str, found: str) -> None:
    _pack(root / "train-09.tar", *members, *_sample("8", BLUE, 1)[: 2 if len(members) > 1 else 0])
    error = _error(root)
    assert problem in error.problem
    assert found in error.found
    if "7" in found:
        assert "train-09.tar" in error.found


def test_bad_json(root: Path) -> None:
    for content in (b"{", b"3", b'{"label": null}', b'{"other": 1}'):
        _pack(root / "val.tar", ("7.png", _picture(RED)), ("7.json", content))
        assert "7.json in" in _error(root, train=str(root / "val.tar"), label="json.label").found


def test_class_names_are_checked(root: Path) -> None:
    assert "none of a class" in _error(root, class_names=("only", "two", "three")[:2], val=f"{root}/train-08.tar",
                                       train=str(_pack(root / "t.tar", *_sample("a", RED, 2)))).problem  # fmt: skip
    assert "same name" in _error(root, class_names=("cat", "cat")).problem
    assert "lacks some" in _error(root, class_names=("cat", "dog", "eel")).problem


@pytest.mark.parametrize("label", ["", "json.", "a b", "cls.key"])
def test_label_option(label: str) -> None:
    with pytest.raises(ValidationError, match="label"):
        webdataset.Settings(train="a", val="b", label=label)
