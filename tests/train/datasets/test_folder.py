"""The user's images: what is decoded, and what each thing that is wrong with a folder is called."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceevo.errors import DataError, NoSpaceError
from spaceevo.records import ImageData
from spaceevo.train import datasets
from spaceevo.train.datasets import folder
from spaceevo.train.datasets._listing import endings

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _save(file: Path, colour: object = RED, mode: str = "RGB", size: tuple[int, int] = (10, 10)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for split in ("train", "val"):
        _save(root / split / "cat" / "0.png", RED)
        _save(root / split / "dog" / "0.png", BLUE)
    return root


def _load(root: Path, image_size: int = 8) -> ImageData:
    return folder.load(folder.Settings(path=str(root)), image_size, root.parent / "cache")


def _error(root: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        _load(root)
    assert caught.value.problem
    assert caught.value.found
    assert caught.value.remedy
    return caught.value


def test_names_labels_and_pixels(root: Path) -> None:
    _save(root / "train" / "dog" / "deep" / "down" / "1.PNG", BLUE)
    data = _load(root)
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 1, 1]
    assert data.val_labels.tolist() == [0, 1]
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        assert image[:, 0, 0].tolist() == list((RED, BLUE)[label])
        assert (image == image[:, :1, :1]).all()


@pytest.mark.parametrize("extension", [*endings(), ".JPG", ".Webp"])
def test_formats(root: Path, extension: str) -> None:
    _save(root / "val" / "cat" / f"1{extension}", (200, 100, 50))
    np.testing.assert_allclose(_load(root).val_images[1].mean(axis=(1, 2)), (200, 100, 50), atol=4)


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 255), (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("I;16", 100 * 257, (100, 100, 100)),
    ],
)
def test_modes(root: Path, mode: str, colour: object, rgb: tuple[int, ...]) -> None:
    _save(root / "val" / "cat" / "1.png", colour, mode)
    assert _load(root).val_images[1].mean(axis=(1, 2)).tolist() == list(rgb)


def test_cmyk_jpeg(root: Path) -> None:
    _save(root / "val" / "cat" / "1.jpg", (0, 255, 255, 0), "CMYK")
    np.testing.assert_allclose(_load(root).val_images[1].mean(axis=(1, 2)), RED, atol=4)


@pytest.mark.parametrize("size", [(32, 16), (16, 32), (24, 8), (64, 48), (40, 1), (8, 8)])
def test_shorter_side_is_resized_and_the_centre_cropped(root: Path, size: tuple[int, int]) -> None:
    """A ramp along the longer side: the square's ends show where it was cut."""
    longer, side = max(size), min(size)
    ramp = np.broadcast_to(4.0 * np.arange(longer) if longer < 64 else 3.0 * np.arange(longer), (side, longer))
    image = ramp if size[0] == longer else ramp.T
    Image.fromarray(image.astype(np.uint8)).save(root / "val" / "cat" / "1.png")
    square = _load(root).val_images[1]
    assert square.shape == (3, 8, 8)
    along = square[0].astype(float).mean(axis=0 if size[0] == longer else 1)
    across = square[0].astype(float).std(axis=1 if size[0] != longer else 0)
    assert across.max() == 0
    assert along.mean() == pytest.approx(ramp.mean(), abs=1)
    step = (ramp[0, 1] - ramp[0, 0]) * side / 8
    np.testing.assert_allclose(np.diff(along)[2:-2], step, atol=1 if side > 1 else 4)


def test_shrinking_is_antialiased(root: Path) -> None:
    checks = (np.indices((160, 160)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(root / "val" / "cat" / "1.png")
    np.testing.assert_allclose(_load(root).val_images[1], 127.5, atol=2)


def test_exif_orientation_is_honoured(root: Path) -> None:
    image = Image.new("RGB", (16, 16), RED)
    image.paste(BLUE, (0, 8, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: the lower half is then on the left
    image.save(root / "val" / "cat" / "1.jpg", exif=exif, quality=100, subsampling=0)
    turned = _load(root).val_images[1].astype(int)
    assert (turned[2, :, :3] > 200).all()
    assert (turned[0, :, 5:] > 200).all()


def test_hidden_and_other_files_are_passed_over(root: Path) -> None:
    for name in (".hidden.png", "notes.txt", "Thumbs.db", ".cache/0.png"):
        file = root / "train" / "cat" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "readme.md").write_text("x")
    assert len(_load(root).train_images) == 2


def test_home_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    data = folder.load(folder.Settings(path="~/pets"), 8, root.parent / "cache")
    assert data.class_names == ("cat", "dog")


def test_cache_spares_decoding_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path | bytes] = []
    decode = datasets._decode

    def spy(source: Path | bytes, image_size: int) -> np.ndarray | str:
        tried.append(source)
        return decode(source, image_size)

    monkeypatch.setattr(datasets, "_decode", spy)
    file = _save(root / "train" / "cat" / "0.bmp", RED)
    first = _load(root)
    assert len(tried) == 5
    assert (_load(root).train_images == first.train_images).all()
    assert len(tried) == 5
    before = file.stat()
    _save(file, GREEN)
    assert file.stat().st_size == before.st_size  # only the time of change tells
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert _load(root).train_images[0, :, 0, 0].tolist() == list(GREEN)
    _load(root, 12)
    assert len(tried) == 15


def test_missing_path(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in _error(tmp_path / "nowhere").found
    assert "no folder" in _error(_save(tmp_path / "file.png")).found
    assert "missing" in _error(Path("~no-such-user/pets")).problem


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_split(root: Path, split: str) -> None:
    (root / split).rename(root / "else")
    error = _error(root)
    assert repr(split) in error.problem
    assert "else" in error.found


def test_empty_split(root: Path) -> None:
    for file in (root / "val").rglob("*.png"):
        file.unlink()
    (root / "val" / "stray.png").write_bytes(b"")
    error = _error(root)
    assert "'val'" in error.problem
    assert "2 class folders" in error.found
    assert "stray.png" in error.found


def test_one_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "dog" / "0.png").unlink()
        (root / split / "dog").rmdir()
    error = _error(root)
    assert "only one class" in error.problem
    assert "'cat'" in error.found


@pytest.mark.parametrize(("split", "lacking"), [("val", "train"), ("train", "val")])
def test_a_class_in_one_split_only(root: Path, split: str, lacking: str) -> None:
    for index in range(7):
        _save(root / split / f"bird{index}" / "0.png")
    error = _error(root)
    assert f"{lacking} has no image of bird0, bird1, bird2, bird3, bird4 and 2 more" in error.found


def test_a_class_folder_without_images(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "bird").mkdir()
    assert "bird" in _error(root).found


def test_unreadable_images_are_counted_and_named(root: Path) -> None:
    good = _save(root / "train" / "cat" / "1.jpg", size=(64, 64)).read_bytes()
    (root / "train" / "cat" / "1.jpg").write_bytes(good[: len(good) // 2])
    (root / "val" / "dog" / "text.png").write_text("no image at all")
    (root / "val" / "dog" / "void.bmp").write_bytes(b"")
    (root / "val" / "dog" / "dangling.png").symlink_to(root / "gone.png")
    error = _error(root)
    assert "4 of 8 images" in error.problem
    for name in ("train/cat/1.jpg", "val/dog/text.png", "val/dog/void.bmp", "val/dog/dangling.png"):
        assert name in error.found
    assert not list((root.parent / "cache").iterdir())


def test_unlisted_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    error = _error(root)
    assert "Permission denied" in error.found


def test_cache_that_cannot_be_written(root: Path) -> None:
    (root.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(NoSpaceError) as caught:
        _load(root)
    assert "cache" in caught.value.found
