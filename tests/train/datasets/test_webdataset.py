"""Shards: what is read, and what each thing that is wrong with one is called."""

import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
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
    cache = root.parent / "cache"
    before = set(cache.rglob("*"))
    with pytest.raises(DataError) as caught:
        _load(root, **fields)
    assert caught.value.found
    assert caught.value.remedy
    assert not {file for file in cache.rglob("*") if file.is_file()} - before, "nothing is left behind"
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
    assert list(webdataset._expanded("{0..1}/x-{09..10}.tar")) == [
        "0/x-09.tar",
        "0/x-10.tar",
        "1/x-09.tar",
        "1/x-10.tar",
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("JPEG", "JPEG"), ("WEBP", "webp"), ("PNG", "png")])
def test_json_labels_formats_and_compression(root: Path, kind: str, extension: str, mode: str) -> None:
    label = json.dumps({"about": {"class": "dog"}, "width": 3}).encode()
    extra = [("b.json", label), (f"b.{extension}", _picture(GREEN, kind)), ("b.seg.png", b"not the image")]
    other = [("c.json", json.dumps({"about": {"class": 0}}).encode()), ("c.png", _picture(RED))]
    notes = [("README.md", b"not a sample"), (".hidden.png", b"no image"), ("d", b"")]
    notes += [("._b.png", b"of macOS"), ("@eaDir/b/SYNOPHOTO_THUMB_M.jpg", b"of a NAS")]
    for shard in ("train.tar", "val.tar"):
        _pack(root / shard, *notes, *extra, *other, mode=mode)
    data = _load(root, train=str(root / "train.tar"), label="json.about.class", class_names=("cat", "dog"))
    assert data.class_names == ("cat", "dog")
    assert data.val_labels.tolist() == [1, 0]
    np.testing.assert_allclose(data.val_images[0].mean(axis=(1, 2)), GREEN, atol=4)
    assert [(told.reason, told.count) for told in data.passed_over] == [
        ("files that systems leave behind", 4),
        ("files without an ending", 2),
        ("hidden files", 2),
        ("samples without image and label", 2),
    ]
    assert data.passed_over[3].example == f"README with .md in {root}/train.tar"


def test_cache_spares_decoding_until_a_shard_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(root)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "decoded", lambda *_: pytest.fail("decoded again"))
        assert (_load(root).train_images == first.train_images).all()
    _pack(root / "train-09.tar", *_sample("a/0", GREEN, 0), *_sample("a/1", BLUE, 1), *_sample("a/2", GREEN, 1))
    assert _load(root).train_images[2, :, 0, 0].tolist() == list(GREEN)


@pytest.mark.parametrize(
    ("train", "found", "remedy"),
    [
        ("train-{08..11}.tar", "train-11.tar (of", "current folder"),
        ("nothing-*.tar", "nothing-*.tar is not there", "current folder"),
        ("train-{08..999999999999}.tar", "names 999,999,999,992", "at most 1,000,000"),
        ("{0..9999}/{0..9999}.tar", "names 100,000,000", "at most 1,000,000"),
        ("train-{08..1000007}.tar", "train-11.tar (of", "current folder"),
        ("train-{10..08}.tar", "train-{10..08}.tar names 0", "from 000 to 146"),
        ("train-{08..10..2}.tar", "is not there", "no list and no steps"),
        ("train-{08,09}.tar", "is not there", "no list and no steps"),
        ("{train,val}-*.tar", "is not there", "no list and no steps"),
        ("train-08.tar::train-09.tar", "is not there", "Only files are read"),
        ("train-[0-9]*.tar", "is not there", "Brackets are letters"),
        ("link.tar", "link.tar is a link that leads nowhere", "as a file"),
        ("pipe.tar", "pipe.tar is no regular file", "as a file"),
        ("*e*.tar", "pipe.tar is no regular file", "as a file"),
        ("../s", "s is a folder", "as a file"),
    ],
)
def test_shards_that_are_not_there(root: Path, train: str, found: str, remedy: str) -> None:
    os.mkfifo(root / "pipe.tar")
    (root / "link.tar").symlink_to("nowhere")
    error = _error(root, train=f"{root}/{train}")
    assert found in error.found
    assert remedy in error.remedy


def test_a_zero_byte() -> None:
    with pytest.raises(ValidationError, match="train"):
        webdataset.Settings(train="\0*/a.tar", val="a")


@pytest.mark.parametrize(
    "address", ["s3://b/a-{0..1}.tar", "https://x.org/a.tar", "pipe:cat a.tar", "hf://datasets/a.tar"]
)
def test_addresses_are_not_read(root: Path, address: str) -> None:
    error = _error(root, val=address)
    assert "no addresses" in error.remedy
    assert address in error.found


def test_brackets_and_other_signs_are_letters(root: Path) -> None:
    for name in ("set [v2]", "[0-9]", "a{b,c}", "a::b", "[!x]"):
        for shard in root.glob("*.tar"):
            (root.parent / name).mkdir(exist_ok=True)
            (root.parent / name / shard.name).write_bytes(shard.read_bytes())
        for pattern in ("train-*.tar", "train-{08..10}.tar", "train-0?.tar", "train-08.tar"):
            folder = root.parent / name
            assert len(_load(root, train=f"{folder}/{pattern}", val=f"{folder}/val.tar").val_labels) == 2, name


def _numbered(root: Path, *names: str) -> None:
    for name in names:
        _pack(root / name, *_sample("a", RED, 0), *_sample("b", BLUE, 1))


@pytest.mark.parametrize(
    ("names", "pattern", "problem", "found"),
    [
        (("x-0-of-3.tar", "x-2-of-3.tar"), "x-*", "missing", "x-1-of-3.tar is not among the 2 found"),
        (("x-00001-of-00004.tar", "x-00002-of-00004.tar"), "x-*", "missing", "x-00000-of-00004.tar and 1 more"),
        (("x-1-of-3.tar", "x-3-of-3.tar"), "x-*", "missing", "x-2-of-3.tar is not"),
        (("x_00of03_a.tar", "x_01of03_b.tar"), "x_*", "missing", "x_02of03_a.tar is not"),
        (("x-0-of-2.tar", "x-1-of-2.tar", "x-0-of-3.tar"), "x-*", "two sets are mixed", "x-0-of-3.tar"),
        (("x-0-of-2.tar", "x-1-of-2.tar", "x-00-of-02.tar"), "x-*", "two sets are mixed", "x-0-of-2.tar"),
        (("x-0-of-2-aa.tar", "x-1-of-2-aa.tar", "x-1-of-2-bb.tar"), "x-*", "two sets are mixed", "x-1-of-2-bb.tar"),
        (("x-0-of-2.tar", "x-1-of-2.tar", "x-2-of-2.tar"), "x-*", "too high", "x-2-of-2.tar"),
        (
            ("x-0-of-1.tar", "x-7-of-999999999999.tar"),
            "x-7*",
            "missing",
            "x-0-of-999999999999.tar and 999999999997 more",
        ),
    ],
)
def test_numbered_sets_that_are_not_whole(
    root: Path, names: tuple[str, ...], pattern: str, problem: str, found: str
) -> None:
    _numbered(root, *names)
    error = _error(root, train=f"{root}/{pattern}")
    assert problem in error.problem
    assert found in error.found


def _told(data: ImageData) -> list[tuple[str, int, str]]:
    return [(told.reason, told.count, Path(told.example).name) for told in data.passed_over]


def test_numbered_sets_that_are_whole_or_told(root: Path) -> None:
    _numbered(root, "x-0-of-2.tar", "x-1-of-2.tar", "y-1-of-2.tar", "y-2-of-2.tar")
    assert not _told(_load(root, train=f"{root}/x-*", val=f"{root}/y-*"))
    assert not _told(_load(root, train=f"{root}/x-0-of-2.tar", val=f"{root}/x-1-of-2.tar"))
    left = ("shards of a numbered set that neither part names", 1, "x-1-of-2.tar")
    assert _told(_load(root, train=f"{root}/x-{{0..0}}-of-2.tar")) == [left]


def test_gaps_are_told(root: Path) -> None:
    gap = "shards that are missing between two others"
    (root / "train-09.tar").unlink()
    assert _told(_load(root, train=f"{root}/train-*.tar")) == [(gap, 1, "train-09.tar")]
    _numbered(root, "n-2-000.tar", "n-2-004.tar", "n-3-000.tar", "d-20240101.tar", "d-20240301.tar", "d-20240302.tar")
    assert _told(_load(root, train=f"{root}/n-*.tar")) == [(gap, 3, "n-2-001.tar")]
    assert not _told(_load(root, train=f"{root}/d-*.tar"))


def test_a_shard_counts_once_and_in_one_part(root: Path) -> None:
    data = _load(root, train=f"{root}/train-*{{8..9}}*.tar")
    assert len(data.train_labels) == 4
    assert len(_load(root, train=f"{root}/train-{{0..1}}*.tar".replace("{0..1}", "*{0..1}")).train_labels) == 6
    (root / "train-latest.tar").symlink_to("train-10.tar")
    data = _load(root, train=f"{root}/train-*.tar")
    assert len(data.train_labels) == 6
    assert _told(data) == [("shards that are another one under a second name", 1, "train-latest.tar")]
    assert "in both" in _error(root, val=f"{root}/train-latest.tar").found
    assert "val.tar in both" in _error(root, train=f"{root}/*.tar").found


def test_empty_shards(root: Path) -> None:
    _pack(root / "train-09.tar")
    assert _told(_load(root)) == [("shards without a sample", 1, "train-09.tar")]
    assert "'val'" in _error(root, val=str(_pack(root / "none.tar", ("README", b"")))).problem
    (root / "train-09.tar").write_bytes(b"")
    assert "train-09.tar: the file is empty" in _error(root).found


@pytest.mark.parametrize(
    ("stems", "found"),
    [
        (("s1", "s2.v2", "s3"), "s2.v2.png and s2.v2.cls in"),
        (("cam.2024.000", "cam.2024.001"), "cam.2024.000.png and cam.2024.000.cls in"),
        (("0.0", "0.1"), "0.0.png and 0.0.cls in"),
        (("d.x/0.a", "d.x/1.a"), "d.x/0.a.png and d.x/0.a.cls in"),
    ],
)
def test_stems_with_dots(root: Path, stems: tuple[str, ...], found: str) -> None:
    members = [member for number, stem in enumerate(stems) for member in _sample(stem, RED, number % 2)]
    error = _error(root, train=str(_pack(root / "train.tar", *members)))
    assert "dot" in error.problem
    assert found in error.found
    assert "first dot" in error.remedy


def test_dots_that_belong_to_no_other_sample(root: Path) -> None:
    parts = [("s.left.png", _picture(RED)), ("s.right.cls", b"1")]
    assert "s.left.png and s.right.cls in" in _error(root, val=str(_pack(root / "v.tar", *parts))).found
    lone = [("t.left.png", _picture(RED)), ("u.json", b"{}"), *_sample("a", RED, 0), *_sample("b", BLUE, 1)]
    assert _told(_load(root, val=str(_pack(root / "v.tar", *lone)))) == [
        ("samples without image and label", 2, "v.tar")
    ]
    both = [*_sample("a", RED, 0), *_sample("a.2", BLUE, 1), *_sample("b", BLUE, 1), ("b.mask.png", b"")]
    told = _told(_load(root, val=str(_pack(root / "v.tar", *both))))
    assert told == [("images with a label of their own within another sample", 1, "v.tar")]
    assert (
        "first dot" in _error(root, val=str(_pack(root / "v.tar", *_sample("a.2", RED, 0)[:1], ("a.cls", b"0")))).remedy
    )


def _pack_link(shard: Path, kind: bytes, name: str) -> Path:
    _pack(shard, *_sample("a", RED, 0), *_sample("b", BLUE, 1))
    with tarfile.open(shard, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "a.png"
        archive.addfile(info)
    return shard


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_without_content(root: Path, kind: bytes) -> None:
    for name in ("c.png", "c.cls"):
        error = _error(root, val=str(_pack_link(root / "v.tar", kind, name)))
        assert f"{name} in {root}/v.tar" in error.found
        assert "--dereference" in error.remedy
    assert len(_load(root, val=str(_pack_link(root / "v.tar", kind, "c.mask"))).val_labels) == 2


def test_names_of_members_lead_nowhere(root: Path) -> None:
    members = [*_sample("/etc/a", RED, 0), *_sample("../../b", BLUE, 1), *_sample("./c", BLUE, 1)]
    data = _load(root, val=str(_pack(root / "v.tar", *members)))
    assert data.val_labels.tolist() == [0, 1, 1]


def test_more_behind_the_end_and_samples_in_two_places(root: Path) -> None:
    """Archives joined by `cat`, and `tar -r` of what is there already."""
    content = (root / "val.tar").read_bytes()
    (root / "v.tar").write_bytes(content + content)
    assert "more behind its end" in _error(root, val=f"{root}/v.tar").found
    twice = [*_sample("a", RED, 0), *_sample("b", BLUE, 1), *_sample("a", RED, 0)]
    assert "files of a in two places" in _error(root, val=str(_pack(root / "v.tar", *twice))).found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(600), "by zstd"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"<html>" * 200, "it is no tar"),
    ],
)
def test_what_is_no_tar(root: Path, content: bytes, found: str) -> None:
    (root / "v.tar").write_bytes(content)
    error = _error(root, val=f"{root}/v.tar")
    assert found in error.found
    assert "\n" not in error.found


def test_sizes_that_cannot_be(root: Path) -> None:
    """A negative one leads tarfile back to where it was, a large one takes all memory."""
    shard = _pack(root / "v.tar", *_sample("a", RED, 0), ("note", b"x"), *_sample("b", BLUE, 1))
    with tarfile.open(shard) as archive:
        start = archive.getmember("note").offset
    content = shard.read_bytes()
    for size in (b"-0000001000\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"77777777777\0"):
        header = bytearray(content[start : start + tarfile.BLOCKSIZE])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        damaged = content[:start] + header + content[start + tarfile.BLOCKSIZE :]
        (root / "v.tar").write_bytes(damaged)
        assert f"{root}/v.tar" in _error(root, val=f"{root}/v.tar").found


def test_a_shard_that_changes_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(*_: object) -> None:
        _pack(root / "val.tar", *_sample("a", RED, 0))
        list(_[-1]())

    monkeypatch.setattr(webdataset, "cached", cached)
    assert "from 2 to 1 samples" in _error(root).found


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


@pytest.mark.parametrize(
    "content",
    [b"{", b"3", b"[]", b'{"label": null}', b'{"other": 1}', b'{"label": NaN}', b'{"label": 1.0}', b'{"label": true}',
     b'{"label": [1]}', b'{"label": {}}', b'"label"', b"[" * 100_000, b"\xff\xfe", b""],
)  # fmt: skip
def test_bad_json(root: Path, content: bytes) -> None:
    _pack(root / "val.tar", ("7.png", _picture(RED)), ("7.json", content))
    _pack(root / "train.tar", ("7.png", _picture(RED)), ("7.json", b'{"label": 1}'))
    error = _error(root, train=str(root / "train.tar"), label="json.label", class_names=("None", "True", "nan"))
    assert f"7.json in {root}/val.tar" in error.found


@pytest.mark.parametrize("text", [b" 1\r\n", b"\xef\xbb\xbf1", b"1", b"+1", b"01", b"\n1\n"])
def test_a_label_as_editors_write_it(root: Path, text: bytes) -> None:
    _pack(root / "val.tar", *_sample("a", RED, 0), ("b.png", _picture(BLUE)), ("b.cls", text))
    assert _load(root).val_labels.tolist() == [0, 1]
    (root / "val.tar").rename(root / "VAL.TAR")
    assert _load(root, val=f"{root}/VAL.TAR", label="CLS").val_labels.tolist() == [0, 1]


@pytest.mark.parametrize("text", [b"1_0", b"\xd9\xa1", b"1.0", b"nan", b"True", b"0x1", b"0 1", b"", b"9" * 30, b"1\0"])
def test_a_label_that_is_no_number(root: Path, text: bytes) -> None:
    _pack(root / "val.tar", *_sample("a", RED, 0), ("b.png", _picture(BLUE)), ("b.cls", text))
    assert f"b.cls in {root}/val.tar" in _error(root).found


def test_a_number_of_a_class_that_cannot_be(root: Path) -> None:
    _pack(root / "val.tar", *_sample("a", RED, 0), *_sample("b", BLUE, 10**17))
    error = _error(root)
    assert f"{10**17} in {root}/val.tar, of 8 samples" in error.found
    for text in (b"099", b"+99"):
        _pack(root / "val.tar", *_sample("a", RED, 0), ("b.png", _picture(BLUE)), ("b.cls", text))
        assert f"{text.decode()} in {root}/val.tar, of 8 samples" in _error(root).found


def test_names_that_are_numbers_of_other_classes(root: Path) -> None:
    """With names 1 and 2, label 1 is class 0 by name and class 1 by number; all by name or all by number is clear."""
    error = _error(root, class_names=("1", "2"))
    assert f"1 in {root}/train-08.tar is a name, 0 in {root}/train-08.tar can only be a number" in error.found
    assert _load(root, class_names=("0", "1")).train_labels[:2].tolist() == [0, 1]
    for shard in ("train", "val"):
        _pack(root / f"{shard}.tar", *_sample("a", RED, 2), *_sample("b", BLUE, 1))
    data = _load(root, train=f"{root}/train.tar", class_names=("1", "2"))
    assert [data.class_names[label] for label in data.val_labels] == ["2", "1"]
    _pack(root / "train.tar", *_sample("a", RED, "caf\u00e9"), *_sample("b", BLUE, "cat"))
    _pack(root / "val.tar", *_sample("a", RED, 1), *_sample("b", BLUE, "cat"))
    data = _load(root, train=f"{root}/train.tar", class_names=("cat", "cafe\u0301"))  # as macOS writes it
    assert (data.train_labels.tolist(), data.val_labels.tolist()) == ([1, 0], [1, 0])


def test_class_names_are_checked(root: Path) -> None:
    assert "none of a class" in _error(root, class_names=("only", "two", "three")[:2], val=f"{root}/train-08.tar",
                                       train=str(_pack(root / "t.tar", *_sample("a", RED, 2)))).problem  # fmt: skip
    assert "same name" in _error(root, class_names=("cat", "cat")).problem
    assert "lacks some" in _error(root, class_names=("cat", "dog", "eel")).problem


@pytest.mark.parametrize("label", ["", "json.", "a b", "cls.key"])
def test_label_option(label: str) -> None:
    with pytest.raises(ValidationError, match="label"):
        webdataset.Settings(train="a", val="b", label=label)


PARTS = {  # members of stem `s`, and as what they are told; none: a sample
    "sample": (lambda s: _sample(s, RED, 0), None),
    "another": (lambda s: [(f"{s}.JPG", _picture(BLUE, "JPEG")), (f"{s}.json", b"{}"), (f"{s}.Cls", b"1\n")], None),
    "notes": (lambda s: [(f"{s}.txt", b"x"), (f"{s}.json", b"{}")], "samples without image and label"),
    "mask": (lambda s: [(f"{s}.seg.png", b"x")], "samples without image and label"),
    "hidden": (lambda s: [("/.".join(f"/{s}".rsplit("/", 1))[1:] + ".png", b"x")], "hidden files"),
    "plain": (lambda s: [(f"{s}", b"x")], "files without an ending"),
    "dotted": (lambda s: _sample(f"{s}.v2", RED, 0), "error"),
    "lone": (lambda s: _sample(s, RED, 0)[:1], "error"),
    "strange": (lambda s: _sample(s, RED, "fish"), "error"),
}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(list(PARTS)), max_size=8),
    st.sampled_from(["{}", "d.1/{}", "/x/{}", "[é]/../\u0130\u0130{}"]),
    st.sampled_from(["w", "w:gz", "w:xz"]),
    st.lists(st.tuples(st.integers(0, 1 << 15), st.sampled_from(b"\0\x80\xff-7xLSg")), max_size=2),
)
def test_any_shard_is_read_right_or_refused(
    kinds: list[str], stem: str, mode: str, damage: list[tuple[int, int]]
) -> None:
    """What is read and what is told make up what was packed; damage ends in a `DataError`, or changes content only."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _pack(root / "val.tar", *_sample("a", RED, 0), *_sample("b", BLUE, 1))
        members = [member for number, kind in enumerate(kinds) for member in PARTS[kind][0](stem.format(number))]
        shard = _pack(root / "train.tar", *members, *_sample("a", RED, 0), *_sample("b", BLUE, 1), mode=mode)
        content = bytearray(shard.read_bytes())
        for place, value in damage:
            content[place % len(content)] = value
        shard.write_bytes(content)
        told = [PARTS[kind][1] for kind in kinds]
        data = None
        with suppress(DataError):
            data = _load(root, train=str(shard))
        if data is None:
            assert damage or "error" in told
        elif not damage:
            assert "error" not in told
            assert len(data.train_labels) == told.count(None) + 2
            assert {entry.reason: entry.count for entry in data.passed_over} == Counter(filter(None, told))
