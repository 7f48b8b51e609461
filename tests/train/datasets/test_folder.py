"""The user's images: what is decoded, and what each thing that is wrong with a folder is called."""

import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from spaceevo.errors import DataError, NoSpaceError
from spaceevo.records import ImageData
from spaceevo.train import datasets
from spaceevo.train.datasets import folder, told
from spaceevo.train.datasets._listing import endings, why_no_picture, why_not_entered

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


def _passed(data: ImageData) -> dict[str, tuple[int, str]]:
    return {one.reason: (one.count, one.example) for one in data.passed_over}


def test_what_is_passed_over_is_counted(root: Path) -> None:
    for name in (
        *(
            "train/cat/.hidden.png",
            "train/.cache/0.png",
            "train/cat/notes.txt",
            "val/dog/notes.TXT",
            "train/dog/deep/a.b1",
        ),
        *("train/cat/README", "train/readme.md", "train/0.png", "photos.txt", "test/cat/0.png"),
        *(
            "train/cat/Thumbs.db",
            "train/cat/.DS_Store",
            "val/dog/._0.png",
            "val/@eaDir/cat/S.jpg",
            "val/cat/@eaDir/S.jpg",
        ),
        *("__MACOSX/train/cat/._0.png", "train/lost+found/0.png", "train/$RECYCLE.BIN/0.png", ".git/HEAD"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    os.mkfifo(root / "train" / "cat" / "pipe")
    os.mkfifo(root / "train" / "pipe")
    (root / "train" / "cat" / "device.png").symlink_to("/dev/zero")
    (root / "train" / "cat" / "more").symlink_to(root / "unmounted")
    (root / "train" / "cat" / "self").symlink_to("self")
    data = _load(root)
    assert len(data.train_images) == 2
    assert _passed(data) == {
        "files that systems leave behind": (8, "train/$RECYCLE.BIN"),
        "hidden files": (3, "train/.cache"),
        "files with the ending .txt": (2, "train/cat/notes.txt"),
        "files with the ending .b1": (1, "train/dog/deep/a.b1"),
        "files without an ending that are no pictures": (1, "train/cat/README"),
        "files outside of a class folder": (3, "train/0.png"),
        "pipes, sockets and devices": (3, "train/cat/device.png"),
        "links that lead nowhere": (2, "train/cat/more"),
        "files and folders beside 'train' and 'val'": (2, "photos.txt"),
    }


def test_one_line_tells_what_was_read_and_passed_over(root: Path) -> None:
    assert told(_load(root)) == (
        "Data pets: 2 training images of 2 classes, 2 validation images of 2 classes; nothing passed over."
    )
    for number in range(3):
        (root / "train" / "cat" / f"{number}.heic").touch()
    (root / "val" / "cat" / "a\nb.txt").touch()
    assert told(_load(root)).endswith(
        "; passed over: 3 files with the ending .heic (train/cat/0.heic), "
        "1 of files with the ending .txt ('val/cat/a\\nb.txt')."
    )


def test_files_without_an_ending_are_read_by_content(root: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF", "TIFF"):
        Image.new("RGB", (10, 10), BLUE).save(root / "val" / "dog" / kind, kind)
    (root / "val" / "dog" / "LICENSE").write_text("free")
    data = _load(root)
    assert data.val_labels.tolist() == [0, 1, 1, 1, 1, 1]
    assert _passed(data) == {"files without an ending that are no pictures": (1, "val/dog/LICENSE")}


def test_links_to_folders_are_followed_once(root: Path) -> None:
    disk = root.parent / "disk"
    for number in range(3):
        _save(disk / "sub" / f"{number}.png", BLUE)
    dogs = root / "train" / "dog"
    (dogs / "a").symlink_to(disk / "sub")  # part of what is linked next
    (dogs / "b").symlink_to(disk)
    (dogs / "deep").mkdir()
    _save(dogs / "deep" / "1.png", BLUE)
    (dogs / "again").symlink_to("deep")
    for link, goal in (("up", ".."), ("self", "."), ("top", root), ("all", "/"), ("deep/round", "..")):
        (dogs / link).symlink_to(goal)
    (root / "train" / "eel").symlink_to("..")  # would be a class of all images
    (disk / "back").symlink_to(dogs)
    data = _load(root)
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 1, 1, 1, 1, 1]
    ((reason, (count, _)),) = _passed(data).items()
    assert (reason, count) == ("folders that are read already, or lie above a link to them", 9)


def test_linked_splits_and_class_folders(root: Path) -> None:
    before = _load(root)
    (root / "train").rename(root.parent / "elsewhere")
    (root / "train").symlink_to("../elsewhere")
    (root / "val" / "dog").rename(root.parent / "dogs")
    (root / "val" / "dog").symlink_to(root.parent / "dogs")
    data = _load(root)
    assert (data.train_images == before.train_images).all()
    assert data.val_labels.tolist() == [0, 1]
    assert data.passed_over == ()


@pytest.mark.parametrize("link", ["val", "val/cat"])
def test_one_folder_in_both_splits(root: Path, link: str) -> None:
    shutil.rmtree(root / link)
    (root / link).symlink_to(root / link.replace("val", "train"))
    assert "in 'train' and in 'val'" in _error(root).problem


@pytest.mark.parametrize(("link", "problem"), [("val/cat/1.png", "in 'train' and in 'val'"),
                                               ("train/dog/1.png", "in two classes")])  # fmt: skip
def test_a_link_to_an_image_of_another_split_or_class(root: Path, link: str, problem: str) -> None:
    (root / "train" / "cat" / "again.png").symlink_to("0.png")
    assert _load(root).train_labels.tolist() == [0, 0, 1]
    (root / link).symlink_to(root / "train" / "cat" / "0.png")
    error = _error(root)
    assert problem in error.problem
    assert f"{root}/train/cat/0.png" in error.found
    (root / link).unlink()
    if "class" in problem:
        shutil.rmtree((root / link).parent)
        (root / link).parent.symlink_to("cat")
        assert problem in _error(root).problem


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_a_name_composed_and_decomposed_is_one_class(root: Path) -> None:
    (root / "train" / "cat").rename(root / "train" / DECOMPOSED)
    (root / "val" / "cat").rename(root / "val" / COMPOSED)
    data = _load(root)
    assert data.class_names == (COMPOSED, "dog")
    assert data.train_labels.tolist() == data.val_labels.tolist() == [0, 1]
    (root / "val" / COMPOSED).rename(root / "val" / DECOMPOSED)
    assert _load(root).class_names == (DECOMPOSED, "dog"), "one spelling stays as it is"


@pytest.mark.parametrize(
    ("name", "quoted", "difference"),
    [
        ("cat ", "'cat ' and 'cat'", "blanks"),
        ("Cat", "'Cat' and 'cat'", "upper and lower case"),
        ("c\u200bat", "'c\\u200bat' (c\\u200bat) and 'cat'", "characters that cannot be seen"),
        ("\uff43at", "'\uff43at' (\\uff43at) and 'cat'", "letters that look alike"),
    ],
)
def test_a_class_that_is_spelled_otherwise_in_the_other_split(
    root: Path, name: str, quoted: str, difference: str
) -> None:
    (root / "train" / "cat").rename(root / "train" / name)
    error = _error(root)
    assert "spelled otherwise" in error.problem
    assert quoted in error.found
    assert error.found.endswith(difference)
    assert "emove" not in error.remedy


def test_a_letter_of_another_alphabet_is_shown(root: Path) -> None:
    (root / "train" / "cat").rename(root / "train" / "c\u0430t")
    assert "train has no image of 'cat', but of 'c\u0430t' (c\\u0430t), which 'val' lacks" in _error(root).found


@pytest.mark.parametrize("pair", [(COMPOSED, DECOMPOSED), ("eel", "eel "), ("a b", "a  b")])
def test_two_classes_of_a_split_that_look_the_same(root: Path, pair: tuple[str, str]) -> None:
    for split in ("train", "val"):
        for name in pair:
            _save(root / split / name / "0.png")
    assert "look the same" in _error(root).problem


def test_case_may_tell_classes_apart(root: Path) -> None:
    for split in ("train", "val"):
        _save(root / split / "Cat" / "0.png")
    assert _load(root).class_names == ("Cat", "cat", "dog")


def test_a_class_name_that_is_no_text(root: Path) -> None:
    for split in ("train", "val"):
        os.mkdir(os.fsencode(root / split) + b"/caf\xe9")
    error = _error(root)
    assert "no text" in error.problem
    assert "caf\\udce9" in error.found


def test_a_class_whose_files_were_passed_over_says_so(root: Path) -> None:
    (root / "val" / "cat" / "0.png").rename(root / "val" / "cat" / "0.heic")
    assert "no image of cat; passed over: 1 of files with the ending .heic (val/cat/0.heic)" in _error(root).found


def test_a_moved_folder_is_the_same_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(root)
    monkeypatch.setattr(datasets, "_decode", lambda *_, **__: pytest.fail("decoded again"))
    moved = root.rename(root.parent / "animals [v2]")
    cache = root.parent / "cache"
    monkeypatch.chdir(root.parent)
    for path in (str(moved), "animals [v2]", "./animals [v2]/"):
        data = folder.load(folder.Settings(path=path), 8, cache)
        assert data.name == "animals [v2]"
        assert (data.train_images == first.train_images).all()


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
        (root / split / "dog").rename(root / split / ".dog")
    error = _error(root)
    assert "only one class" in error.problem
    assert "'cat'" in error.found
    assert error.found.endswith("passed over: 2 hidden files (train/.dog)")


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


def test_an_unlisted_folder_that_is_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may list what a file system keeps there."""
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if "lost+found" in os.fspath(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (root / "train" / "lost+found").mkdir()
    assert _passed(_load(root)) == {"files that systems leave behind": (1, "train/lost+found")}


def test_cache_that_cannot_be_written(root: Path) -> None:
    (root.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(NoSpaceError) as caught:
        _load(root)
    assert "cache" in caught.value.found


ENDINGS = st.sampled_from(["", ".png", ".PNG", ".Jpg", ".tiff", ".txt", ".png.bak", ".7", " ", ".png "])
STEMS = st.sampled_from(
    ["a", "b", "\u00e9", "e\u0301", "[x]", " ", "a\nb", "#1", "{0..9}", "*", "~", ".hidden", "._a", "\udcff", "@eaDir"]
)
KINDS = st.sampled_from(
    ["picture", "text", "empty", "cut", "pipe", "device", "dangling", "file link", "folder link", "loop", "folder"]
)
PLACES = st.sampled_from(
    ["train/cat", "train/dog", "val/dog", "train", "val", "train/cat/deep", "train/dog/.hid", "val/cat/@eaDir"]
)
GOALS = st.sampled_from(["", ".", "..", "../.."])


def _make(root: Path, place: str, name: str, kind: str, goal: str) -> tuple[int, bool]:
    """Make an entry: how many files that adds, and whether the folder may be refused for it."""
    file = root / place / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(file):
        return 0, False
    is_out = any(why_not_entered(step) for step in Path(place, name).parts)
    may_be_picture = not is_out and "/" in place and why_no_picture(name) is None
    is_class = not is_out and "/" not in place
    content = (root / "train" / "cat" / "0.png").read_bytes()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind in ("device", "dangling"):
        file.symlink_to({"device": "/dev/zero", "dangling": "not there"}[kind])
    elif kind == "loop":
        file.symlink_to(goal or file.name)
    elif kind == "folder link":
        disk = Path(tempfile.mkdtemp(dir=root.parent))
        for number in range(2):
            (disk / f"{number}.png").write_bytes(content)
        file.symlink_to(disk)
        return 1 if is_out else 2, is_class
    elif kind == "folder":
        file.mkdir()
        (file / "0.png").write_bytes(content)
        return 1, is_class
    elif kind == "file link":
        file.symlink_to(root / "train" / "cat" / "0.png")
        return 1, may_be_picture and not place.startswith("train/cat")
    else:
        file.write_bytes({"picture": content, "text": b"text", "empty": b"", "cut": content[:-20]}[kind])
    return 1, may_be_picture and kind in ("text", "empty", "cut", "dangling", "loop")


def _result(root: Path) -> ImageData | DataError:
    try:
        data = _load(root)
    except DataError as error:
        result: ImageData | DataError = error
        line = str(error)
    else:
        result, line = data, told(data)
    assert line.isprintable(), line
    return result


@given(st.lists(st.tuples(PLACES, STEMS, ENDINGS, KINDS, GOALS), max_size=12))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_folder_is_refused_or_every_file_of_it_is_counted(made: list[tuple[str, str, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent, "set")
        for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
            _save(root / name / "0.png")
        entries = [_make(root, place, stem + ending, kind, goal) for place, stem, ending, kind, goal in made]
        data = _result(root)
        if isinstance(data, DataError):
            assert any(may_be_refused for _, may_be_refused in entries), str(data)
            return
        counted = len(data.train_images) + len(data.val_images) + sum(one.count for one in data.passed_over)
        assert counted == 4 + sum(count for count, _ in entries), told(data)


NAMES = st.sampled_from(
    [
        "cat",
        "Cat",
        "cat ",
        "c\u200bat",
        "c\u0430t",
        "\uff43at",
        COMPOSED,
        DECOMPOSED,
        "[x]",
        "a\nb",
        "~",
        "{a}",
        "\udcff",
    ]
)


@given(st.sets(NAMES, min_size=1, max_size=4), st.sets(NAMES, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_class_names(train: set[str], val: set[str], are_alike: bool) -> None:
    val = train if are_alike else val
    with tempfile.TemporaryDirectory() as parent:
        for split, names in (("train", train), ("val", val)):
            for name in names:
                _save(Path(parent, "set", split, name, "0.png"))
        data = _result(Path(parent, "set"))
        if isinstance(data, DataError):
            assert not are_alike or len(train) == 1 or "look the same" in data.problem or "no text" in data.problem
            return
        own, other = ({unicodedata.normalize("NFC", name) for name in names} for names in (train, val))
        assert {unicodedata.normalize("NFC", name) for name in data.class_names} == own == other
        assert len(data.class_names) == len(train) == len(val)


def _in_one_part(folder_: Path, count: int = 10) -> Path:
    for name, colour in (("cat", RED), ("dog", BLUE)):
        for number in range(count):
            _save(folder_ / name / f"{number}.png", colour)
    return folder_


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_share_is_held_out_of_one_part(tmp_path: Path, inside: str) -> None:
    root = tmp_path / "pets"
    _in_one_part(root / inside)
    (root / "notes.txt").write_text("mine")
    settings = folder.Settings(path=str(root), val_share=0.3)
    data = folder.load(settings, 8, tmp_path / "cache")
    assert data.class_names == ("cat", "dog")
    assert np.bincount(data.train_labels).tolist() == [7, 7]
    assert np.bincount(data.val_labels).tolist() == [3, 3]
    assert "passed over: 1" in told(data)
    assert folder.check(settings) == ["cat", "dog"]
    again = folder.load(settings, 8, tmp_path / "other")
    assert np.array_equal(again.train_images, data.train_images)


def test_a_share_of_what_has_its_own_validation_images(root: Path) -> None:
    with pytest.raises(DataError, match=r"has a folder 'val', and a share is to be held out"):
        folder.check(folder.Settings(path=str(root), val_share=0.3))


def test_without_val_the_share_is_offered(tmp_path: Path) -> None:
    _in_one_part(tmp_path / "pets" / "train")
    with pytest.raises(DataError, match=r"no folder 'val'.*hold a share of each class out with `val_share`"):
        folder.check(folder.Settings(path=str(tmp_path / "pets")))


def test_one_image_of_a_class_cannot_be_held_out(tmp_path: Path) -> None:
    root = _in_one_part(tmp_path / "pets", 1)
    with pytest.raises(DataError, match=r"needs two images.*'cat' has 1"):
        folder.check(folder.Settings(path=str(root), val_share=0.3))
