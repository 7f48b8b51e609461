"""Run folders in an object store: equal here and there, one session at a time, nothing lost while the store is away."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo import storage
from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError, RunLockedError, StorageError
from spaceevo.storage import HOLDER, Storage, located, this_machine

DATABASE = "measurements.sqlite"
Tree = dict[str, bytes]


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a run that nobody has begun."""
    if request.param == "memory":
        return f"memory://{uuid4().hex}/run"
    store: Any = request.getfixturevalue("object_store")
    return f"{store.url}/run"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_PUSHES", 0.05)
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_SIGNS", 0.05)


def silent(sentence: str) -> None:
    raise AssertionError(sentence)


def tree(folder: Path) -> Tree:
    """What is kept of a folder."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not path.name.startswith(".")}


def session(url: str, folder: Path) -> Storage:
    return Storage(url, folder)


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        write_atomically(folder / "stage" / name, content)


def names_there(url: str) -> set[str]:
    file_system, root = storage._open(url)
    file_system.invalidate_cache()
    return {path.removeprefix(root).lstrip("/") for path in file_system.find(root)}


# --- two machines


def test_another_machine_goes_on(url: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, old="1", gone="1", stays="1")
    with session(url, first).held(silent):
        write(first, new="1")
    with session(url, second).held(silent):
        assert tree(second) == tree(first)
        write(second, old="2", added="2")
        (second / "stage" / "gone").unlink()
    with session(url, first).held(silent):
        assert tree(first) == tree(second)
        assert set(tree(first)) == {f"stage/{name}" for name in ("old", "new", "stays", "added")}


def test_what_a_killed_run_had_not_brought_stays(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with session(url, folder).held(silent):
        write(folder, brought="1", gone="1")
    write(folder, brought="2", fresh="2")
    (folder / "stage" / "gone").unlink()
    with session(url, folder).held(silent):
        assert tree(folder) == {"stage/brought": b"2", "stage/fresh": b"2"}
    assert names_there(url) == {HOLDER, "stage/brought", "stage/fresh"}


def test_it_goes_where_another_machine_went_on_since(url: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with session(url, first).held(silent):
        write(first, file="1", gone="1")
    write(first, file="of the past", fresh="of the past")
    (first / "stage" / "gone").unlink()
    with session(url, second).held(silent):
        write(second, other="2")
    with session(url, first).held(silent):
        assert tree(first) == tree(second) == {"stage/file": b"1", "stage/gone": b"1", "stage/other": b"2"}


def test_jobs_elsewhere_and_the_run_exchange_files(url: str, tmp_path: Path) -> None:
    home = session(url, tmp_path / "a")
    with home.held(silent):
        write(home.folder, inputs="of the run")
        home.push()
        job = Storage(url, tmp_path / "b", home.session, home.machine)
        job.pull()
        write(job.folder, result="of the job")
        write(home.folder, notes="written meanwhile")
        with job.pushed():
            pass
        home.pull()
        assert tree(home.folder) == {
            "stage/inputs": b"of the run",
            "stage/notes": b"written meanwhile",
            "stage/result": b"of the job",
        }


def test_a_helper_belongs_to_the_session(url: str, tmp_path: Path) -> None:
    home = session(url, tmp_path / "a")
    with pytest.raises(StorageError, match="No run has started"):
        session(url, tmp_path / "b").joined()
    with home.held(silent):
        write(home.folder, file="1")
        home.push()
        write(home.folder, fresh="2")
        helper = session(url, home.folder).joined()
        helper.pull()
        assert (helper.session, helper.machine) == (home.session, this_machine())
        assert "stage/fresh" in tree(home.folder), "a helper in the same folder drops nothing"


def test_only_what_lasts_is_kept(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for name in (
        "stage/work/file",
        "cache/data.npy",
        "work/model.onnx",
        "blocks/cells/teacher.lock",
        ".lock",
        "blocks/.file.1.tmp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    write(folder, empty="", cache="a file of this name")
    with session(url, folder).held(silent):
        pass
    assert names_there(url) == {HOLDER, "stage/empty", "stage/cache", "stage/work/file"}


def test_foreign_names_in_the_store_are_left_alone(url: str, tmp_path: Path) -> None:
    file_system, root = storage._open(url)
    foreign = {".stored.json", "stage/.hidden", "cache/data.npy", "stage/a.lock", "m.sqlite-wal"}
    ours = {"spaceevo.json", "stage/file"}
    for name in foreign | ours:
        file_system.pipe_file(f"{root}/{name}", b"x")
    with session(url, tmp_path / "a").held(silent):
        assert tree(tmp_path / "a") == dict.fromkeys(ours, b"x")
    assert names_there(url) == foreign | ours | {HOLDER}


def test_a_place_that_is_not_empty_and_of_no_run_is_refused(url: str, tmp_path: Path) -> None:
    file_system, root = storage._open(url)
    for name in ("thesis.txt", "work/notes", "recipe.yaml"):
        file_system.pipe_file(f"{root}/{name}", b"mine")
    told = pytest.raises(ArtifactError, match=r"is not empty.*It holds recipe\.yaml, thesis\.txt")
    with told, session(url, tmp_path / "a").held(silent):
        pass
    assert names_there(url) == {"thesis.txt", "work/notes", "recipe.yaml"}
    assert file_system.cat_file(f"{root}/thesis.txt") == b"mine"


def test_a_run_that_was_copied_to_the_store_is_gone_on_with(url: str, tmp_path: Path) -> None:
    file_system, root = storage._open(url)
    copied = {"recipe.yaml": b"a", "provenance.json": b"b", "study/stage.json": b"c"}
    for name, content in copied.items():
        file_system.pipe_file(f"{root}/{name}", content)
    with session(url, tmp_path / "a").held(silent):
        assert tree(tmp_path / "a") == copied


@pytest.mark.parametrize("name", ["../file", "stage/../../file", "stage/", ".."])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    assert not storage._is_kept(name)


def test_a_database_that_is_being_written(url: str, tmp_path: Path) -> None:
    first, second = session(url, tmp_path / "a"), session(url, tmp_path / "b")
    first.folder.mkdir()
    connection = sqlite3.connect(first.folder / DATABASE, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    with first.held(silent):
        first.push()
        connection.executemany("INSERT INTO t VALUES (?)", [(0,), (1,)])
        assert (first.folder / f"{DATABASE}-wal").stat().st_size, "what is new lies in the log alone"
    with second.held(silent):
        assert rows(second.folder) == [0, 1]
    connection.close()


def test_a_database_that_another_machine_has_written_since(url: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with session(url, first).held(silent), sqlite3.connect(first / DATABASE) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with session(url, second).held(silent), sqlite3.connect(second / DATABASE) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    connection.close()
    # A process that is killed while it writes leaves a log
    write = "import sqlite3, os, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    write += "c.execute('PRAGMA journal_mode = WAL'); c.execute('INSERT INTO t VALUES (1)'); os._exit(0)"
    subprocess.run([sys.executable, "-c", write, first / DATABASE], check=True)
    assert (first / f"{DATABASE}-wal").stat().st_size
    with session(url, first).held(silent):
        assert rows(first) == [2]


def rows(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t")]


changes = st.dictionaries(st.sampled_from("abcd"), st.none() | st.binary(max_size=3), max_size=4)


@given(st.lists(st.tuples(st.booleans(), changes), max_size=6))
@settings(max_examples=40)
def test_both_machines_have_what_the_last_one_wrote(turns: list[tuple[bool, dict[str, bytes | None]]]) -> None:
    import tempfile

    place, expected = f"memory://{uuid4().hex}", {}
    with tempfile.TemporaryDirectory() as base:
        folders = Path(base) / "a", Path(base) / "b"
        for is_second, changed in turns:
            folder = folders[is_second]
            with session(place, folder).held(silent):
                assert tree(folder) == expected
                for name, content in changed.items():
                    if content is None:
                        (folder / name).unlink(missing_ok=True)
                    else:
                        write_atomically(folder / name, content)
                expected = tree(folder)
        assert names_there(place) - {HOLDER} == set(expected)


# --- uploads


def test_files_arrive_in_the_order_in_which_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = session(f"memory://{uuid4().hex}", tmp_path / "a")
    for name in ("weights", "notes", "stage.json"):
        write(home.folder, **{name: "1"})
        time.sleep(0.01)
    write(home.folder, weights="2")
    arrived: list[str] = []
    upload = Storage._upload

    def until_the_line_breaks(self: Storage, name: str) -> str:
        if len(arrived) == 2:
            raise OSError("broken")
        arrived.append(name)
        return upload(self, name)

    monkeypatch.setattr(Storage, "_upload", until_the_line_breaks)
    with pytest.raises(OSError, match="broken"):
        home._push()
    assert arrived == ["stage/notes", "stage/stage.json"]
    arrived.clear()
    home._push()
    assert arrived == ["stage/weights"], "what has arrived is not brought again"


def test_an_upload_that_breaks_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = session(f"memory://{uuid4().hex}", tmp_path / "a")
    write(home.folder, weights="whole")
    home._push()
    file_system, root = storage._open(home.url)
    write(home.folder, weights="new and longer")

    def break_off(local: str, there: str) -> None:
        with file_system.open(there, "wb") as file:
            file.write(b"half")
            raise OSError("broken")

    monkeypatch.setattr(file_system, "put_file", break_off)
    with pytest.raises(OSError, match="broken"):
        home._push()
    assert file_system.cat_file(f"{root}/stage/weights") == b"whole"


# --- one session at a time


def test_a_second_run_is_told(url: str, tmp_path: Path) -> None:
    with (
        session(url, tmp_path / "a").held(silent),
        pytest.raises(RunLockedError, match=rf"Another run works in .*{os.getpid()} on .*seen \d s ago"),
        session(url, tmp_path / "b").held(silent),
    ):
        pass
    with session(url, tmp_path / "b").held(silent):
        pass


def test_a_killed_run_is_followed_at_once_on_its_machine(url: str, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    held = storage._Held(session="lost", machine=this_machine(), pid=ended.pid, seen=time.time())
    _put_holder(url, held)
    with session(url, tmp_path / "a").held(silent):
        pass


def test_a_machine_that_was_lost_is_followed_after_a_while(url: str, tmp_path: Path) -> None:
    _put_holder(url, storage._Held(session="lost", machine="elsewhere", pid=1, seen=time.time() - 240))
    with pytest.raises(RunLockedError, match="1 on elsewhere, seen 24"), session(url, tmp_path / "a").held(silent):
        pass
    _put_holder(url, storage._Held(session="lost", machine="elsewhere", pid=1, seen=time.time() - 301))
    with session(url, tmp_path / "a").held(silent):
        pass


@pytest.mark.usefixtures("quick")
def test_a_run_gives_signs_of_life_while_it_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = session(f"memory://{uuid4().hex}", tmp_path / "a")
    goes_on = threading.Event()
    monkeypatch.setattr(Storage, "_upload", lambda self, name: str(goes_on.wait(60)))
    with home.held(silent):
        write(home.folder, large="1")
        begun = time.time()
        _until(lambda: home._held().seen > begun + 0.1)
        goes_on.set()


@pytest.mark.usefixtures("quick")
def test_a_run_whose_store_was_taken_over_ends(url: str, tmp_path: Path) -> None:
    def wait() -> None:
        with session(url, tmp_path / "a").held(silent) as check:
            _put_holder(url, storage._Held(session="other", machine="elsewhere", pid=1, seen=time.time()))
            write(tmp_path / "a", file="of the past")
            end = time.monotonic() + 20
            while time.monotonic() < end:
                check()
                time.sleep(0.01)

    with pytest.raises(RunLockedError, match="1 on elsewhere"):
        wait()
    assert names_there(url) == {HOLDER}


def test_a_foreign_file_in_the_place_of_the_holder(url: str, tmp_path: Path) -> None:
    file_system, root = storage._open(url)
    file_system.pipe_file(f"{root}/{HOLDER}", b"{")
    with pytest.raises(StorageError, match=r"is not what spaceevo wrote"), session(url, tmp_path).held(silent):
        pass


def _put_holder(url: str, held: Any) -> None:
    file_system, root = storage._open(url)
    file_system.pipe_file(f"{root}/{HOLDER}", held.model_dump_json().encode())


# --- stores that are away


@pytest.mark.usefixtures("quick")
def test_a_store_that_is_away_for_a_while(object_store: Any, tmp_path: Path) -> None:
    told: list[str] = []
    home = session(f"{object_store.url}/run", tmp_path / "a")
    with home.held(told.append):
        write(home.folder, before="1")
        _until(lambda: "stage/before" in names_there(home.url))
        with object_store.away():
            write(home.folder, meanwhile="2")
            _until(lambda: len(told) == 1)
        _until(lambda: len(told) == 2)
    assert "does not answer (Could not connect" in told[0]
    assert f"going on in {home.folder}" in told[0]
    assert "answers again, after" in told[1]
    assert {"stage/before", "stage/meanwhile"} < names_there(home.url)


def test_what_began_before_does_not_tell_that_the_store_is_back(url: str, tmp_path: Path) -> None:
    told: list[str] = []
    watch = storage._Watch(session(url, tmp_path / "a"), told.append)

    def fail() -> None:
        raise ConnectionError("gone")

    watch.attempt(lambda: watch.attempt(fail))
    assert ["does not answer (gone" in one for one in told] == [True]
    watch.attempt(lambda: None)
    assert "answers again" in told[1]


def test_a_store_that_goes_away_at_the_end_is_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for it, and nothing else would say why."""
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_PUSHES", 1000.0)
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_TRIES", 0.01)
    push, failures = Storage._push, [ConnectionError("gone"), ConnectionError("gone still")]

    def fail_first(self: Storage) -> None:
        if failures:
            raise failures.pop(0)
        push(self)

    told: list[str] = []
    home = session(url, tmp_path / "a")
    with home.held(told.append):
        write(home.folder, last="1")
        monkeypatch.setattr(Storage, "_push", fail_first)
    assert [("does not answer (gone" in one, "answers again" in one) for one in told] == [(True, False), (False, True)]
    assert "stage/last" in names_there(url)


def test_a_store_that_stays_away(object_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.1)
    home = session(f"{object_store.url}/run", tmp_path / "a")
    write(home.folder, file="1")
    with object_store.away():
        with pytest.raises(StorageError, match=r"has not answered for 0 s.*Nothing is lost: .*/a has what") as told:
            home.push()
        assert "\n" not in str(told.value)
        with pytest.raises(StorageError, match=r"cannot be used.*Could not connect"), home.held(silent):
            pass


def test_a_bucket_that_does_not_exist(object_store: Any, tmp_path: Path) -> None:
    home = session("s3://no-such-bucket/run", tmp_path / "a")
    with (
        pytest.raises(StorageError, match=r"cannot be used.*does not exist.*Correct `place`"),
        home.held(silent),
    ):
        pass


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- places


def test_a_folder_has_no_storage(tmp_path: Path) -> None:
    assert located(tmp_path) == (tmp_path, None)
    assert located("runs/my") == (Path("runs/my"), None)


def test_each_url_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (one, kept), (other, _) = located("memory://a/my/"), located("memory://b/my")
    assert one.parent == other.parent == tmp_path / "spaceevo"
    assert one != other
    assert one.name.startswith("my-")
    assert kept is not None
    assert (kept.url, kept.folder) == ("memory://a/my", one)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("ftpx://a/b", r"ftpx://a/b cannot be opened\. Protocol not known: ftpx\. Install what it takes"),
        ("gs://a/b", r"gs://a/b cannot be opened\. .*gcsfs.* pip install 'spaceevo\[gcs\]'"),
    ],
)
def test_a_place_that_cannot_be(place: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=told):
        located(place)


def test_a_name_that_is_not_utf8_is_told_at_once() -> None:
    """SQLite and runtimes would not find files there."""
    with pytest.raises(StorageError, match=r"not UTF-8.*`place`"):
        located("runs/caf\udce9")
