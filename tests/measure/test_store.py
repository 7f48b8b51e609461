"""The store survives crashes, strangers and company."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError
from spaceevo.measure import store as storage
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store, key
from spaceevo.records import Measurement, TargetDescription

TARGET = TargetDescription(
    name="r@t",
    runtime="r",
    runtime_version="1",
    device="d",
    machine="m",
    flags=("avx2",),
    threads=1,
    w_qmax=63,
)


def measurement(latency_ms: float = 1.0) -> Measurement:
    return Measurement(latency_ms=latency_ms, low_ms=latency_ms, high_ms=latency_ms, samples_ms=(latency_ms, 1.25))


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.db"
    with Store(path) as store:
        assert store.get("a") is None
        store.put("a", measurement(1.5))
        store.put("a", measurement(2.5))
        store.put("b", measurement(3.5))
    with Store(path) as store:
        assert store.get("a") == measurement(2.5)
        assert len(store) == 2


def test_the_key_depends_on_everything() -> None:
    keys = {
        key("program", "int8", TARGET, Plan()),
        key("other program", "int8", TARGET, Plan()),
        key("program", "fp32", TARGET, Plan()),
        key("program", "int8", TARGET.model_copy(update={"runtime_version": "2"}), Plan()),
        key("program", "int8", TARGET.model_copy(update={"device": "e"}), Plan()),
        key("program", "int8", TARGET.model_copy(update={"flags": ()}), Plan()),
        key("program", "int8", TARGET.model_copy(update={"threads": 2}), Plan()),
        key("program", "int8", TARGET, Plan(visits=11)),
    }
    assert len(keys) == 8
    assert key("program", "int8", TARGET, Plan()) in keys


@pytest.mark.parametrize("content", [b"not a database at all, but long enough " * 40, b"\0" * 5000])
def test_a_foreign_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"m\.db"):
        Store(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (id)")
    connection.close()
    with pytest.raises(ArtifactError, match="accounts"):
        Store(path)


def test_another_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "m.db").close()
    monkeypatch.setattr(storage, "_VERSION", 2)
    with pytest.raises(ArtifactError, match="Version 1, expected 2"):
        Store(tmp_path / "m.db")


def filled(path: Path) -> bytes:
    with Store(path) as store:
        for number in range(200):
            store.put(str(number), measurement(1.0 + number))
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_told(tmp_path: Path, share: float) -> None:
    path = tmp_path / "m.db"
    content = filled(path)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="cannot be read"):
        Store(path)


def test_a_damaged_measurement_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE measurements SET measurement = '{\"latency_ms\": 1' WHERE key = '7'")
    connection.close()
    with Store(path) as store:
        assert store.get("8") == measurement(9.0)
        with pytest.raises(ArtifactError, match="Measurement 7"):
            store.get("7")


def test_nothing_that_was_put_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    code = f"""
from pathlib import Path
from spaceevo.measure.store import Store
from spaceevo.records import Measurement
store = Store(Path({str(path)!r}))
for number in range(10**6):
    store.put(str(number), Measurement(latency_ms=1, low_ms=1, high_ms=1, samples_ms=(1,)))
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        while next(lines).strip() != "20":
            pass
        os.kill(process.pid, signal.SIGKILL)
        last = max([20, *(int(line) for line in lines if line.endswith("\n"))])
    with Store(path) as store:
        assert all(store.get(str(number)) is not None for number in range(last + 1))


def test_two_connections_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Store(path) as store:
                for number in range(40):
                    store.put(f"{name}{number}", measurement())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store(path) as store:
        assert len(store) == 120


def test_a_store_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BUSY_SECONDS", 0.1)
    path = tmp_path / "m.db"
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunLockedError, match="Another process"):
            store.put("a", measurement())
        other.execute("COMMIT")
        other.close()
        store.put("a", measurement())


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with Store(tmp_path / "m.db") as store:
        store.put("a", measurement())
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        large = measurement().model_copy(update={"samples_ms": (1.25,) * 10_000})
        with pytest.raises(NoSpaceError, match="full"):
            store.put("b", large)
        assert store.get("a") == measurement()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpaceError, match="cannot be written"):
        Store(tmp_path / "file" / "m.db")
