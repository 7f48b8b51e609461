"""The store survives crashes, strangers and company."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError, StorageError
from spaceevo.measure import store as storage
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store, Subject
from spaceevo.records import MachineState, Measurement, TargetDescription

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


def subject(what: object, **fields: object) -> Subject:
    defaults = {"what": str(what), "precision": "int8", "target": TARGET, "plan": repr(Plan()), "reference_ms": 0.1}
    return Subject(**{**defaults, **fields})  # type: ignore[arg-type]


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.db"
    with Store(path) as store:
        assert store.get(subject("a")) is None
        store.put(subject("a"), measurement(1.5))
        store.put(subject("a"), measurement(2.5))
        store.put(subject("b"), measurement(3.5))
        store.put(subject("b"), measurement(4.5), replace=False)
    with Store(path) as store:
        assert store.get(subject("a")) == measurement(2.5)
        assert store.get(subject("b")) == measurement(3.5)
        assert len(store) == 2


def test_the_key_depends_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [
        subject("program"),
        subject("other program"),
        subject("program", precision="fp32"),
        subject("program", reference_ms=0.2),
        subject("program", reference_ms=None),
        subject("program", plan=repr(Plan(visits=11))),
        *(
            subject("program", target=TARGET.model_copy(update=change))
            for change in (
                {"runtime_version": "2"}, {"device": "e"}, {"flags": ()}, {"threads": 2}, {"cores": (1,)}, {"name": "q"}
            )
        ),
    ]  # fmt: skip
    assert len({one.key for one in own}) == len(own) == 12
    assert subject("program", name="other name", program="[]").key == own[0].key
    monkeypatch.setattr(storage, "version", lambda package: "99")
    assert subject("program").key == own[0].key, "the code that measures has versions of its own, in the plan"


def test_rows_tell_what_they_are_of(tmp_path: Path) -> None:
    full = measurement(2.0).model_copy(update={"after": MachineState(load=1.5), "scale": 0.97})
    with Store(tmp_path / "m.db") as store:
        store.put(subject("a", name="first", program='[{"kind": "conv"}]'), measurement())
        store.put(subject("a", precision="fp32", name="first", program='[{"kind": "conv"}]'), measurement())
        other = TARGET.model_copy(update={"name": "q@t", "cores": (1, 3)})
        store.put(subject("b", precision="file", target=other), full)
        rows = list(store.rows())
        assert [(row.subject.name, row.subject.precision) for row in rows] == [
            ("first", "int8"), ("first", "fp32"), ("", "file")
        ]  # fmt: skip
        assert rows[0].subject.program == rows[1].subject.program == '[{"kind": "conv"}]'
        assert rows[2].subject == subject("b", precision="file", target=other)
        assert rows[2].measurement == full
        assert store.export_parquet(tmp_path / "m.parquet") == 3
        assert store.export_parquet(tmp_path / "q.parquet", "q@t") == 1
    table = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert table[0]["program"] == '[{"kind": "conv"}]'
    assert table[2]["program"] is None
    assert table[2]["target_cores"] == [1, 3]
    assert table[2]["samples_ms"] == [2.0, 1.25]
    assert table[2]["after"] == {"load": 1.5, "frequency_mhz": None, "temperature_c": None}
    assert (table[2]["latency_ms"], table[2]["scale"], table[2]["reference_ms"]) == (2.0, 0.97, 0.1)
    assert {row["target_runtime_version"] for row in table} == {"1"}
    assert pq.read_table(tmp_path / "q.parquet").to_pylist() == table[2:]
    for field in (*TargetDescription.model_fields,):
        assert f"target_{field}" in table[0]
    assert set(Measurement.model_fields) <= set(table[0])


def test_what_an_upgrade_made_stale_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(**fields: object) -> TargetDescription:
        return TARGET.model_copy(update=fields)

    with Store(tmp_path / "m.db") as store:
        for number in range(3):
            store.put(subject(number, target=changed(runtime_version="0.9")), measurement())
        for number in range(2):
            store.put(subject(number, target=changed(flags=("avx2", "avx512f"), w_qmax=127)), measurement())
        store.put(subject("x", reference_ms=0.2), measurement())
        store.put(subject("new"), measurement())
        store.put(subject("reference", precision=storage.REFERENCE, target=changed(device="e")), measurement())
        for other in ({"threads": 2}, {"cores": (1,)}, {"name": "q@t"}):  # targets of their own
            store.put(subject("new", target=changed(**other)), measurement())
        told = [str(one) for one in store.stale(TARGET, 0.1)]
        assert told == [
            "3 measurements are of r 0.9 and are not used",
            "2 measurements are with the processor flags avx2 avx512f, with w_qmax = 127 and are not used",
            "1 measurement is from when the reference model took 0.2 ms and is not used",
        ]
        assert sum(one.count for one in store.stale(TARGET)) == 5
        assert store.stale(changed(name="unknown")) == []
        monkeypatch.setattr(storage, "version", lambda package: "99")
        by_other_code = store.stale(TARGET, None, lambda plan, runtime: runtime == TARGET.runtime)
        assert "2 measurements are by spaceevo" in str(by_other_code[-1])


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
    monkeypatch.setattr(storage, "_VERSION", 3)
    with pytest.raises(ArtifactError, match=r"Version 2, expected 3.*Rename the file to measure anew"):
        Store(tmp_path / "m.db")
    monkeypatch.setattr(storage, "_VERSION", 1)
    with pytest.raises(ArtifactError, match=r"Version 2, expected 1.*Install the later spaceevo"):
        Store(tmp_path / "m.db")


def filled(path: Path) -> bytes:
    with Store(path) as store:
        for number in range(200):
            store.put(subject(number), measurement(1.0 + number))
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
        connection.execute("UPDATE measurements SET measurement = '{\"latency_ms\": 1' WHERE what = '7'")
        text = measurement().model_dump_json().replace('"latency_ms":1.0', '"latency_ms":0.0')
        connection.execute("UPDATE measurements SET measurement = ? WHERE what = '9'", (text,))
        connection.execute("DELETE FROM checksums")  # as earlier versions left it
    connection.close()
    with Store(path) as store:
        assert store.get(subject(8)) == measurement(9.0)
        for what in (7, 9):  # no latency is 0
            with pytest.raises(ArtifactError, match=f"Measurement {subject(what).key[:12]}"):
                store.get(subject(what))
        with pytest.raises(ArtifactError, match="cannot be read"):
            list(store.rows())


@pytest.mark.parametrize(
    "change",
    [
        "measurements SET measurement = replace(measurement, '9.0', '8.0')",  # another latency, and a valid one
        "measurements SET created = '1999'",
        "measurements SET reference_ms = 0.2",
        "programs SET program = '[1]'",
    ],
)
def test_a_changed_digit_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m.db"
    with Store(path) as store:
        store.put(subject(8, program="[]", reference_ms=1), measurement(9.0))  # an integer, which SQLite makes a float
        store.put(subject(7), measurement(7.0))
    with Store(path) as store:
        assert store.check() == 0
        assert len(list(store.rows())) == 2
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {change}" + " WHERE what = '8'")
    connection.close()
    with Store(path) as store:
        assert store.get(subject(7)) == measurement(7.0)
        if "programs" not in change:
            with pytest.raises(ArtifactError, match="is not what was written"):
                store.get(subject(8, reference_ms=1))
        for read in (store.check, lambda: list(store.rows())):
            with pytest.raises(ArtifactError, match="is not what was written"):
                read()


def test_a_store_of_an_earlier_version_is_read_and_its_rows_are_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with Store(path) as store:
        store.put(subject(1), measurement())
        store._connection.execute("DROP TABLE checksums")
    with Store(path) as store:
        assert store.get(subject(1)) == measurement()
        store.put(subject(2), measurement())
        assert store.check() == 1


def test_opening_changes_nothing(tmp_path: Path) -> None:
    content = filled(tmp_path / "m.db")
    with Store(tmp_path / "m.db") as store:
        assert len(list(store.rows())) == 200
    assert (tmp_path / "m.db").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SQLITE_PROTOCOL", StorageError),
        ("SQLITE_IOERR_LOCK", StorageError),
        ("SQLITE_NOLFS", StorageError),
        ("SQLITE_FULL", NoSpaceError),
        ("SQLITE_READONLY_DBMOVED", NoSpaceError),
        ("SQLITE_CANTOPEN", NoSpaceError),
        ("SQLITE_BUSY_RECOVERY", RunLockedError),
        ("SQLITE_CORRUPT_INDEX", ArtifactError),
        ("SQLITE_NOTADB", ArtifactError),
    ],
)
def test_only_a_damaged_file_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: type[StorageError]
) -> None:
    class Far(sqlite3.Connection):
        """On a file system that fails."""

        def execute(self, text: str, *more: object) -> sqlite3.Cursor:
            if "journal_mode" in text:
                error = sqlite3.OperationalError("locking protocol")
                error.sqlite_errorname = name
                raise error
            return super().execute(text, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "_BUSY_SECONDS", 0.02)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **more: connect(*words, **{**more, "factory": Far}))
    with pytest.raises(told) as caught:
        Store(tmp_path / "m.db")
    assert type(caught.value) is told
    if told is not ArtifactError:
        assert "elete" not in str(caught.value)
    if told is StorageError:
        assert f"Locking protocol ({name}). Choose a folder on a local disk, with `place`" in str(caught.value)


def test_nothing_that_was_put_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    code = f"""
from pathlib import Path
from spaceevo.measure.store import Store
from spaceevo.measure.store import Subject
from spaceevo.records import Measurement, TargetDescription
target = TargetDescription.model_validate_json({TARGET.model_dump_json()!r})
store = Store(Path({str(path)!r}))
for number in range(10**6):
    subject = Subject(str(number), "int8", target, {repr(Plan())!r}, 0.1, program="[]")
    store.put(subject, Measurement(latency_ms=1, low_ms=1, high_ms=1, samples_ms=(1,)))
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
        assert all(store.get(subject(number)) is not None for number in range(last + 1))


def test_two_connections_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Store(path) as store:
                for number in range(40):
                    store.put(subject(f"{name}{number}"), measurement())
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


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    code = f"""
import sys
from pathlib import Path
from spaceevo.measure.store import Store, Subject
from spaceevo.records import Measurement, TargetDescription
target = TargetDescription.model_validate_json({TARGET.model_dump_json()!r})
with Store(Path({str(path)!r})) as store:
    for number in range(40):
        for what in (f"{{sys.argv[1]}}{{number}}", f"shared{{number}}"):
            subject = Subject(what, "int8", target, {repr(Plan())!r}, 0.1, program="[]")
            store.put(subject, Measurement(latency_ms=1, low_ms=1, high_ms=1, samples_ms=(1,)))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE) for name in "abc"]
    for process in processes:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    with Store(path) as store:
        assert len(store) == 4 * 40
        assert all(row.subject.program == "[]" for row in store.rows())


def test_a_store_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BUSY_SECONDS", 0.1)
    path = tmp_path / "m.db"
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunLockedError, match="Another process"):
            store.put(subject("a"), measurement())
        other.execute("COMMIT")
        other.close()
        store.put(subject("a"), measurement())


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with Store(tmp_path / "m.db") as store:
        store.put(subject("a"), measurement())
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        large = measurement().model_copy(update={"samples_ms": (1.25,) * 10_000})
        with pytest.raises(NoSpaceError, match="full"):
            store.put(subject("b", program="[]"), large)
        assert store.get(subject("a")) == measurement()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpaceError, match="cannot be written"):
        Store(tmp_path / "file" / "m.db")
