"""The run folder: files whole or absent, damaged stages told, one process at a time, full and read-only disks."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spaceevo import artifacts
from spaceevo.artifacts import Manifest, RunFolder, StageFolder, content_hash, storage_errors, write_atomically
from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError, StorageError

OLD, NEW = "1" * 64, "2" * 64


def _finish(stage: StageFolder, input_hash: str, text: str = "weights") -> Manifest:
    stage.note_spent(input_hash, 0)
    path = stage.path / "deep" / "file.bin"
    write_atomically(path, text)
    return stage.finish(input_hash, 1.23456, 100.04, [path])


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    return RunFolder(tmp_path / "run").stage("supernet")


def _mounted(tmp_path: Path, options: str) -> Path:
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no permission to mount: {done.stderr.strip()}")
    return folder


def _read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    try:
        folder = _mounted(tmp_path, "size=64k")
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- files


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "old")
    write_atomically(path, b"n\xffw")
    assert path.read_bytes() == b"n\xffw"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), NoSpaceError),
        (OSError(errno.EROFS, "Read-only file system"), NoSpaceError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (OSError(errno.EAGAIN, "Try again"), BlockingIOError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failing_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, raised: BaseException, told: type[BaseException]
) -> None:
    path = tmp_path / "b.txt"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(*((artifacts.os, "fsync") if broken == "fsync" else (Path, "replace")), fail)
    with pytest.raises(told):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_full_disk_is_told_with_path_room_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "b.txt"
    with pytest.raises(NoSpaceError) as caught, storage_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    text = str(caught.value)
    assert str(path) in text
    assert "disk is full" in text
    assert "MiB free" in text
    assert "`place`" in text


def test_native_libraries_that_lose_the_number_are_understood(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceError), storage_errors(tmp_path):
        raise OSError("Write error: No space left on device")


@pytest.mark.parametrize("other", [OSError(errno.ENOENT, "gone"), ValueError("x")])
def test_other_errors_pass(tmp_path: Path, other: Exception) -> None:
    with pytest.raises(type(other)) as caught, storage_errors(tmp_path):
        raise other
    assert caught.value is other


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NoSpaceError, match="file"), RunFolder(tmp_path / "file").locked():
        pass
    with pytest.raises(NoSpaceError, match="file"):
        write_atomically(tmp_path / "file" / "x", "")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_really_full_disk(small_disk: Path) -> None:
    path = small_disk / "b.bin"
    write_atomically(path, b"old")
    with pytest.raises(NoSpaceError, match="disk is full"):
        write_atomically(path, os.urandom(1 << 20))
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["b.bin"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_really_read_only_disk(small_disk: Path) -> None:
    path = small_disk / "b.bin"
    write_atomically(path, b"old")
    _read_only(small_disk)
    with pytest.raises(NoSpaceError, match="Read-only"):
        write_atomically(path, b"new")
    with pytest.raises(NoSpaceError, match="Read-only"), RunFolder(small_disk / "run").locked():
        pass
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_someone_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(NoSpaceError, match="Permission denied"):
        write_atomically(tmp_path / "b.bin", b"new")
    tmp_path.chmod(0o755)


# --- stages


def test_manifest_round_trip(stage: StageFolder) -> None:
    written = _finish(stage, OLD)
    read = stage.finished(OLD)
    assert read == written
    assert (written.stage, written.input_hash, written.seconds, written.peak_rss_mib) == ("supernet", OLD, 1.235, 100.0)
    assert list(written.files) == ["deep/file.bin"]
    assert written.files["deep/file.bin"].size_bytes == 7
    assert json.loads((stage.path / "stage.json").read_text())["format"] == artifacts.FORMAT


def test_what_a_killed_process_was_writing_is_removed(stage: StageFolder) -> None:
    stage.note_spent(OLD, 0)
    partial = stage.path / "deep" / ".file.bin.123.tmp"
    write_atomically(partial, "hal")
    _finish(stage, OLD)
    assert not partial.exists()


def test_output_hash_follows_names_and_contents(tmp_path: Path) -> None:
    hashes = [_finish(StageFolder(tmp_path / str(i), "a"), OLD, text).output_hash for i, text in enumerate("xxy")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_unfinished_stage_keeps_its_files_for_the_same_inputs(stage: StageFolder) -> None:
    assert stage.finished(OLD) is None
    stage.note_spent(OLD, 7.5)
    (stage.path / "checkpoint").write_text("half")
    assert stage.finished(OLD) is None
    assert (stage.path / "checkpoint").read_text() == "half"
    assert stage.spent_seconds() == 7.5


def test_an_unfinished_stage_of_other_inputs_is_set_aside(stage: StageFolder) -> None:
    stage.note_spent(OLD, 7.5)
    (stage.path / "checkpoint").write_text("half")
    assert stage.finished(NEW) is None
    assert not stage.path.exists()
    assert stage.spent_seconds() == 0
    assert stage.finished(OLD) is None
    assert (stage.path / "checkpoint").read_text() == "half"


def test_a_superseded_stage_returns_when_its_inputs_change_back(stage: StageFolder) -> None:
    old = _finish(stage, OLD, "old")
    assert stage.finished(NEW) is None
    new = _finish(stage, NEW, "new")
    assert stage.finished(NEW) == new
    assert stage.finished(OLD) == old
    assert (stage.path / "deep" / "file.bin").read_text() == "old"
    assert stage.finished(NEW) == new
    assert (stage.path / "deep" / "file.bin").read_text() == "new"


def _state(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_nothing_that_is_set_aside_replaces_another(stage: StageFolder) -> None:
    for text in ("first", "second", "third"):
        write_atomically(stage.path / "half", text)
        assert stage.finished(NEW) is None
        assert not stage.path.exists()
    assert sorted(_state(stage.run / "superseded").values()) == ["first", "second", "third"]
    old = _finish(stage, OLD, "old")
    (stage.run / "superseded" / f"supernet-{OLD[:16]}").mkdir()
    assert stage.finished(NEW) is None
    assert stage.finished(OLD) == old
    assert (stage.path / "deep" / "file.bin").read_text() == "old"


def test_files_of_the_user_stay_where_they_are(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("supernet", ("deep/*.bin", "half"))
    users = {
        "notes.txt": "n",
        "deep/notes.txt": "d",
        "own/file.bin": "o",
        "deep/.draft.tmp": "t",
        ".notes.txt.12.tmp": "u",
    }
    old = _finish(stage, OLD, "old")
    for name, text in users.items():
        write_atomically(stage.path / name, text)
    (stage.path / "link").symlink_to(tmp_path)
    assert stage.finished(NEW) is None
    assert _state(stage.path) == users
    assert (stage.path / "link").is_symlink()
    new = _finish(stage, NEW, "new")
    for manifest, text in ((old, "old"), (new, "new"), (old, "old")):
        assert stage.finished(manifest.input_hash) == manifest
        assert {**_state(stage.path), "deep/file.bin": text} == _state(stage.path)
        assert users.items() <= _state(stage.path).items()
    assert set(_state(tmp_path / "superseded").values()) & set(users.values()) == set()


def test_a_file_of_a_finished_stage_is_its_own_whatever_its_name(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("supernet", ("other",))
    _finish(stage, OLD)
    assert stage.finished(NEW) is None
    assert not stage.path.exists(), "nothing of the old inputs may be taken for the new ones"


def test_only_our_files_are_removed(tmp_path: Path) -> None:
    for name in ("1-2.npy", "deep/3-4.npy", "mine.npy", "deep/mine/x", ".1-2.npy.77.tmp"):
        write_atomically(tmp_path / "maps" / name, "")
    artifacts.remove_own(tmp_path / "maps", ("[0-9]*.npy", "deep/[0-9]*.npy"))
    assert set(_state(tmp_path / "maps")) == {"mine.npy", "deep/mine/x"}
    artifacts.remove_own(tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
    artifacts.remove_own(tmp_path / "maps")


def test_a_manifest_tells_of_further_files_and_of_its_own_damage(stage: StageFolder) -> None:
    stage.note_spent(OLD, 0)
    write_atomically(stage.path / "notes.jsonl", "x")
    write_atomically(stage.path / "a.lock", "")
    manifest = _finish(stage, OLD)
    assert set(manifest.files) == {"deep/file.bin"}
    assert set(manifest.kept) == {"notes.jsonl", "inputs.json"}
    path = stage.path / "stage.json"
    path.write_text(path.read_text().replace("1.235", "1.236"))
    with pytest.raises(ArtifactError, match="another SHA-256"):
        stage.finished(OLD)
    earlier = json.loads(path.read_text())
    del earlier["sha256"], earlier["kept"]
    path.write_text(json.dumps(earlier))
    assert stage.finished(OLD).output_hash == manifest.output_hash  # type: ignore[union-attr]


def test_a_link_is_written_through_and_a_device_into(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    write_atomically(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "real").read_text() == "x"
    write_atomically(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()


FAILING = ["ENOLCK", "ENOSYS", "ENOTSUP", "EIO", "ESTALE", "ENOTCONN"]


@pytest.mark.parametrize("name", FAILING)
def test_a_file_system_that_fails_is_told_and_nothing_is_called_damaged(
    stage: StageFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(errno, name)
    with (
        pytest.raises(StorageError, match=r"file system of .* local disk with `place`"),
        storage_errors(stage.path),
    ):
        raise OSError(number, os.strerror(number))
    _finish(stage, OLD)

    def fail(self: Path, *_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number), str(self))

    for broken in ("read_bytes", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, broken, fail)
            with pytest.raises(StorageError, match=os.strerror(number)) as caught:
                stage.finished(OLD)
            assert "elete" not in str(caught.value)
    assert stage.finished(OLD)


@pytest.mark.parametrize("notes", ["", "{", "[]", "{}", '{"seconds": "x"}'])
def test_damaged_notes_of_an_unfinished_stage_count_as_none(stage: StageFolder, notes: str) -> None:
    stage.path.mkdir(parents=True)
    (stage.path / "inputs.json").write_text(notes)
    assert stage.spent_seconds() == 0
    assert stage.finished(OLD) is None


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.write_text("weight"), "6 bytes where 7 were written"),
        (lambda path: path.write_text(""), "0 bytes where 7 were written"),
        (lambda path: path.write_text("Weights"), "another SHA-256"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["truncated", "emptied", "changed", "missing"],
)
def test_a_damaged_file_is_told_with_a_remedy(stage: StageFolder, damage: object, found: str) -> None:
    _finish(stage, OLD)
    damage(stage.path / "deep" / "file.bin")  # type: ignore[operator]
    with pytest.raises(ArtifactError) as caught:
        stage.finished(OLD)
    text = str(caught.value)
    assert str(stage.path / "deep" / "file.bin") in text
    assert found in text
    assert f"delete the folder {stage.path} " in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b'{"a": 1}',
        b'{"format": "spaceevo-stage-1", "stage": "supernet"}',
    ],
)
@pytest.mark.parametrize("inputs", [OLD, NEW])
def test_what_is_no_manifest_is_told(stage: StageFolder, content: bytes, inputs: str) -> None:
    _finish(stage, OLD)
    (stage.path / "stage.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a manifest that spaceevo wrote") as caught:
        stage.finished(inputs)
    assert f"Delete the folder {stage.path} " in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("format", "spaceevo-stage-0"), ("stage", "blocks")])
def test_a_foreign_manifest_is_told(stage: StageFolder, key: str, value: str) -> None:
    _finish(stage, OLD)
    path = stage.path / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "", key: value}))
    with pytest.raises(ArtifactError, match=f"belongs to something else.*{value}"):
        stage.finished(OLD)


def test_content_hash() -> None:
    assert content_hash({"a": 1, "b": [2, 3]}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])
    assert content_hash({"a": 1}) != content_hash({"a": "1"})


# --- the lock

TRY = """
import sys
from pathlib import Path
from spaceevo.artifacts import RunFolder
from spaceevo.errors import RunLockedError
try:
    with RunFolder(Path(sys.argv[1])).locked():
        print("mine", flush=True)
        sys.stdin.read()
except RunLockedError as error:
    print(error)
"""


def _try(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRY, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _listing(folder: Path) -> list[tuple[str, int, bytes]]:
    return [(str(path), path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())]


def test_a_second_process_is_told_and_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder).locked():
        (folder / "file").write_text("x")
        before = _listing(folder)
        said, _ = _try(folder).communicate("")
        assert f"Another run works in {folder}" in said
        assert f"process is {os.getpid()}" in said
        assert "`place`" in said
        assert _listing(folder) == before
    said, _ = _try(folder).communicate("")
    assert said == "mine\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with _try(tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(RunLockedError, match=str(other.pid)), RunFolder(tmp_path).locked():
            pass
        other.kill()
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunFolder(tmp_path).locked():
        raise KeyError
    with RunFolder(tmp_path).locked():
        pass
