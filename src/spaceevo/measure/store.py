"""Measurements on disk: what was measured once is never measured again.

More than 400 lines: reading and writing are one format.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from spaceevo.artifacts import storage_errors, write_atomically
from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError, StorageError
from spaceevo.records import Measurement, TargetDescription

REFERENCE = "reference"  # the precision under which the reference model of a target is kept
_APPLICATION_ID = 0x53504556  # "SPEV", in the header of the file
_VERSION = 2
_TABLES = (
    """CREATE TABLE IF NOT EXISTS measurements (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, what TEXT NOT NULL, precision TEXT NOT NULL, target TEXT NOT NULL,
    plan TEXT NOT NULL, reference_ms REAL, spaceevo TEXT NOT NULL, measurement TEXT NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS metrics (
    key TEXT PRIMARY KEY, metric TEXT NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL, precision TEXT NOT NULL,
    target TEXT NOT NULL, plan TEXT NOT NULL, spaceevo TEXT NOT NULL, value REAL NOT NULL, created TEXT NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS programs (what TEXT PRIMARY KEY, program TEXT NOT NULL)",
    # Of the rows of both by their keys; those that a version without it has written have none.
    "CREATE TABLE IF NOT EXISTS checksums (of_key TEXT PRIMARY KEY, sha256 TEXT NOT NULL)",
)
_COLUMNS = "key, name, what, precision, target, plan, reference_ms, spaceevo, measurement, created"
_METRIC_COLUMNS = "key, metric, name, what, precision, target, plan, spaceevo, value, created"
_BUSY_SECONDS = 30


@dataclass(frozen=True)
class Subject:
    """What a measurement is of, where, and how it is measured.

    Attributes:
        what: SHA-256 of the architecture (the `identity` of its program) or of a model file.
        precision: "int8", "fp32", "file", or `REFERENCE`.
        target: The target; its name counts too.
        plan: How it is measured, and by which code: `versions.how`.
        reference_ms: What the reference model took when the target was first measured.
        name: For people; does not count.
        program: The nodes of the architecture as JSON, "" for a file; does not count, as `what` does.
    """

    what: str
    precision: str
    target: TargetDescription
    plan: str
    reference_ms: float | None = None
    name: str = ""
    program: str = ""

    @cached_property
    def key(self) -> str:
        """SHA-256 over everything that the measurement depends on."""
        target = self.target.model_dump(mode="json")
        content = [self.what, self.precision, target, self.plan, self.reference_ms]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """A stored measurement.

    Attributes:
        subject: What it is of.
        spaceevo: The version that measured it.
        created: When, in ISO 8601, UTC.
        measurement: What was measured.
    """

    subject: Subject
    spaceevo: str
    created: str
    measurement: Measurement


@dataclass(frozen=True)
class Stale:
    """Measurements of a target that no longer count, because something about it has changed.

    Attributes:
        count: How many measurements there are.
        runtime: Name of the runtime.
        differences: What they have that the target no longer has, by field of `TargetDescription`; or by
            "spaceevo", the version whose code measured or exported otherwise, or "reference_ms", what the reference
            model took.
    """

    count: int
    runtime: str
    differences: Mapping[str, Any]

    def __str__(self) -> str:
        """For example "120 measurements are of onnxruntime 1.31 and are not used"."""
        told = []
        for field, value in self.differences.items():
            match field:
                case "runtime_version":
                    told.append(f"of {self.runtime} {value}")
                case "spaceevo":
                    told.append(f"by spaceevo {value}")
                case "flags":
                    told.append(f"with the processor flags {' '.join(value) or '(none)'}")
                case "reference_ms":
                    told.append(f"from when the reference model took {value:.4g} ms")
                case _:
                    told.append(f"with {field} = {value}")
        which = "measurement is" if self.count == 1 else "measurements are"
        return f"{self.count} {which} {', '.join(told)} and {'is' if self.count == 1 else 'are'} not used"


class Store:
    """An SQLite file of measurements by key, safe to kill at any time and to share between processes.

    Args:
        path: The file; made, with its folder, when it is missing.

    Raises:
        ArtifactError: The file is damaged or was not written by spaceevo.
        NoSpaceError: The disk is full, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._told():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def get(self, subject: Subject) -> Measurement | None:
        """The measurement of a subject, or None.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._told():
            row = self._connection.execute(
                f"SELECT {_COLUMNS}, sha256 FROM measurements LEFT JOIN checksums ON key = of_key WHERE key = ?",
                (subject.key,),
            ).fetchone()
        if row is None:
            return None
        self._check(row)
        return self._measurement(subject.key, row[8])

    def put(self, subject: Subject, measurement: Measurement, *, replace: bool = True) -> None:
        """Store a measurement; it is on disk when this returns.

        Args:
            subject: What it is of.
            measurement: Latencies and how they were measured.
            replace: Whether an older one of the subject is replaced, or else kept.

        Raises:
            ArtifactError: The file is damaged.
            NoSpaceError: The disk is full, or the file cannot be written.
            RunLockedError: Another process has been writing for half a minute.
        """
        row = (
            *(subject.key, subject.name, subject.what, subject.precision, subject.target.model_dump_json()),
            *(subject.plan, subject.reference_ms, version("spaceevo")),
            *(measurement.model_dump_json(), datetime.now(UTC).isoformat()),
        )
        with self._told(), self._transaction() as execute:
            or_else = "REPLACE" if replace else "IGNORE"
            if execute(f"INSERT OR {or_else} INTO measurements VALUES ({_places(row)})", row).rowcount:
                execute("INSERT OR REPLACE INTO checksums VALUES (?, ?)", (subject.key, _checksum(row)))
            program = subject.what, subject.program
            if subject.program and execute("INSERT OR IGNORE INTO programs VALUES (?, ?)", program).rowcount:
                execute("INSERT OR REPLACE INTO checksums VALUES (?, ?)", (subject.what, _checksum(program)))

    def get_metric(self, subject: Subject, metric: str) -> float | None:
        """What a metric beside latency is of a subject, in the unit that its name ends in, or None.

        Args:
            subject: What it is of; its `reference_ms` plays no part.
            metric: Name of the metric.

        Raises:
            ArtifactError: The file is damaged.
        """
        key = _metric_key(subject, metric)
        with self._told():
            row = self._connection.execute(
                f"SELECT {_METRIC_COLUMNS}, sha256 FROM metrics LEFT JOIN checksums ON key = of_key WHERE key = ?",
                (key,),
            ).fetchone()
        if row is None:
            return None
        self._check(row)
        return float(row[8])

    def put_metric(self, subject: Subject, metric: str, value: float) -> None:
        """Store the value of a metric beside latency; it is on disk when this returns. An older one is replaced.

        Args:
            subject: What it is of; its `reference_ms` plays no part.
            metric: Name of the metric.
            value: In the unit that the name ends in.

        Raises:
            ArtifactError: The file is damaged.
            NoSpaceError: The disk is full, or the file cannot be written.
            RunLockedError: Another process has been writing for half a minute.
        """
        row = (
            *(_metric_key(subject, metric), metric, subject.name, subject.what, subject.precision),
            *(
                subject.target.model_dump_json(),
                subject.plan,
                version("spaceevo"),
                value,
                datetime.now(UTC).isoformat(),
            ),
        )
        with self._told(), self._transaction() as execute:
            execute(f"INSERT OR REPLACE INTO metrics VALUES ({_places(row)})", row)
            execute("INSERT OR REPLACE INTO checksums VALUES (?, ?)", (row[0], _checksum(row)))

    def num_metrics(self) -> int:
        """How many values of metrics beside latency there are."""
        with self._told():
            count: int = self._connection.execute("SELECT count(*) FROM metrics").fetchone()[0]
        return count

    def rows(self) -> Iterator[Row]:
        """All measurements, in the order of measuring.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._told():
            rows = self._connection.execute(
                f"SELECT {_COLUMNS}, sha256 FROM measurements LEFT JOIN checksums ON key = of_key ORDER BY created, key"
            ).fetchall()
            programs = self._connection.execute(
                "SELECT what, program, sha256 FROM programs LEFT JOIN checksums ON what = of_key"
            ).fetchall()
        for row in (*rows, *programs):
            self._check(row)
        told = {what: program for what, program, _ in programs}
        for key, name, what, precision, target, plan, reference_ms, spaceevo, measurement, created, _ in rows:
            program = told.get(what, "")
            try:
                description = TargetDescription.model_validate_json(target)
            except ValidationError as error:
                raise self._damaged(f"Target of measurement {key[:12]}: {error.errors()[0]['msg']}") from error
            subject = Subject(what, precision, description, plan, reference_ms, name, program)
            yield Row(subject, spaceevo, created, self._measurement(key, measurement))

    def stale(
        self,
        target: TargetDescription,
        reference_ms: float | None = None,
        code_differs: Callable[[str, str], bool] = lambda plan, runtime: False,
    ) -> list[Stale]:
        """The measurements under a target's name, threads and cores that are not used any more, and why.

        They stay, and count again should what has changed change back.

        Args:
            target: As it is now.
            reference_ms: What its reference model takes; None where that is not known, and does not matter then.
            code_differs: Whether a measurement with such a `Subject.plan` on such a runtime was made by other code
                than today's.

        Returns:
            By what has changed, the largest number first.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._told():
            found = self._connection.execute(
                "SELECT target, spaceevo, plan, reference_ms, count(*) FROM measurements WHERE precision != ?"
                " GROUP BY target, spaceevo, plan, reference_ms ORDER BY count(*) DESC, max(created)",
                (REFERENCE,),
            ).fetchall()
        now = {"spaceevo": "", "reference_ms": reference_ms, **target.model_dump(mode="json")}
        stale: list[Stale] = []
        for text, spaceevo, plan, own_ms, count in found:
            try:
                by = spaceevo if code_differs(plan, target.runtime) else ""
                then = {**now, "spaceevo": by, **json.loads(text)}
            except (ValueError, TypeError) as error:
                raise self._damaged(f"The target of {count} measurements: {error}") from error
            if reference_ms is not None:
                then["reference_ms"] = own_ms
            differences = {field: then[field] for field in then if then[field] != now.get(field)}
            if differences and not differences.keys() & {"name", "runtime", "threads", "cores"}:
                if len(differences) > 1:  # another state of the target has another reference, too
                    differences.pop("reference_ms", None)
                for position, own in enumerate(stale):
                    if own.differences == differences:
                        stale[position] = Stale(own.count + count, own.runtime, differences)
                        break
                else:
                    stale.append(Stale(count, target.runtime, differences))
        return sorted(stale, key=lambda own: -own.count)

    def export_parquet(self, path: Path, target_name: str = "") -> int:
        """Write measurements as a Parquet table, atomically; how many there are.

        The columns are the fields of `Subject`, of its target (as "target_..."), of `Row` and of `Measurement`.

        Args:
            path: Of the parquet file, which is replaced.
            target_name: Only those of targets of this name, in all their versions; empty for all.

        Raises:
            ArtifactError: The store is damaged.
            NoSpaceError: The table cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, list[Any]] = {name: [] for name in _schema().names}
        count = 0
        for row in self.rows():
            subject, measurement = row.subject, row.measurement
            if target_name not in ("", subject.target.name):
                continue
            values = {
                **{name: getattr(subject, name) for name in ("name", "what", "precision", "plan", "reference_ms")},
                **{f"target_{name}": value for name, value in subject.target.model_dump(mode="json").items()},
                **{"program": subject.program or None, "spaceevo": row.spaceevo, "created": row.created},
                **measurement.model_dump(mode="json"),
            }
            for name, column in columns.items():
                column.append(values[name])
            count += 1
        content = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_schema()), content)
        write_atomically(path, content.getvalue())
        return count

    def __len__(self) -> int:
        with self._told():
            count: int = self._connection.execute("SELECT count(*) FROM measurements").fetchone()[0]
        return count

    def last_measured(self) -> str:
        """When the last measurement was made, in ISO 8601; "" where there is none."""
        with self._told():
            found: str | None = self._connection.execute("SELECT max(created) FROM measurements").fetchone()[0]
        return found or ""

    def check(self) -> int:
        """Make sure that every row is as it was written; how many of them have no checksum, of earlier versions.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._told():
            if (fault := self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise self._damaged(fault)
            unchecked = "SELECT count(*) FROM measurements WHERE key NOT IN (SELECT of_key FROM checksums)"
            count: int = self._connection.execute(unchecked).fetchone()[0]
        for _ in self.rows():
            pass
        metrics = f"SELECT {_METRIC_COLUMNS}, sha256 FROM metrics LEFT JOIN checksums ON key = of_key"
        with self._told():
            for row in self._connection.execute(metrics).fetchall():
                self._check(row)
        return count

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        execute = self._connection.execute
        tables = [row[0] for row in execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        application = execute("PRAGMA application_id").fetchone()[0]
        if tables and application != _APPLICATION_ID:
            raise ArtifactError(
                f"{self.path} is a database, but not one of measurements",
                found=f"Tables {', '.join(tables[:5])}",
                remedy="Choose another file",
            )
        if application == _APPLICATION_ID and (found := execute("PRAGMA user_version").fetchone()[0]) != _VERSION:
            raise ArtifactError(
                f"The measurements in {self.path} have another format",
                found=f"Version {found}, expected {_VERSION}",
                remedy="Rename the file to measure anew; what it has does not tell what it is of"
                if found < _VERSION
                else "Install the later spaceevo that wrote it, or rename the file to measure anew",
            )
        if (fault := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._damaged(fault)
        self._use_write_ahead_log()
        execute("PRAGMA synchronous = FULL")
        if {"checksums", "metrics"} <= set(tables):  # all is there, and opening it changes nothing
            return
        with self._transaction():
            for table in _TABLES:
                execute(table)
            execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """All or nothing; yields the connection's `execute`."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield execute
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back some failures
                execute("ROLLBACK")
            raise

    def _use_write_ahead_log(self) -> None:
        """Switch the journal; SQLite itself does not wait for others here."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of SQLite into ours."""
        try:
            with storage_errors(self.path):
                yield
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.DatabaseError) -> StorageError:
        """What an error of SQLite means. Only a damaged file is called damaged: what was measured is not to be lost."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return self._unwritable(error)
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return RunLockedError(
                f"Another process has been writing {self.path} for long",
                found=str(error),
                remedy="Wait until it is done",
            )
        is_damaged = name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_FORMAT"))
        if is_damaged or not isinstance(error, sqlite3.OperationalError):
            return self._damaged(str(error))
        return StorageError(
            f"The file system of {self.path} does not do what SQLite needs",
            found=f"{str(error)[:1].upper()}{str(error)[1:]} ({name})",
            remedy="Choose a folder on a local disk, with `place` or, for a target, `folder`; measurements are kept",
        )

    def _check(self, row: tuple[Any, ...]) -> None:
        """That a row is as it was written, where its checksum, the last column, is known."""
        *values, sha256 = row
        if sha256 is not None and sha256 != _checksum(tuple(values)):
            raise self._damaged(f"Row {values[0][:12]} is not what was written: its SHA-256 differs")

    def _measurement(self, key: str, text: str) -> Measurement:
        try:
            return Measurement.model_validate_json(text)
        except ValidationError as error:
            raise self._damaged(f"Measurement {key[:12]}: {error.errors()[0]['msg']}") from error

    def _damaged(self, found: str) -> ArtifactError:
        return ArtifactError(
            f"The measurements in {self.path} cannot be read",
            found=found,
            remedy="Restore the file; or move it away, and those beside it that begin with its name, to measure anew",
        )

    def _unwritable(self, error: Exception) -> NoSpaceError:
        return NoSpaceError(
            f"The measurements in {self.path} cannot be written",
            found=str(error),
            remedy="Free space there, or choose a folder that can be written with `place` or, for a target, `folder`",
        )


def _metric_key(subject: Subject, metric: str) -> str:
    return hashlib.sha256(json.dumps([metric, replace(subject, reference_ms=None).key]).encode()).hexdigest()


def _checksum(values: tuple[Any, ...]) -> str:
    same = [float(value) if isinstance(value, int) else value for value in values]  # SQLite keeps them so
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()


def _places(row: tuple[Any, ...]) -> str:
    return ", ".join("?" * len(row))


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    state = pa.struct([("load", number), ("frequency_mhz", number), ("temperature_c", number)])
    return pa.schema(
        [
            *((name, text) for name in ("name", "what", "precision")),
            *((name, number) for name in ("latency_ms", "low_ms", "high_ms", "scale")),
            *(("samples_ms", pa.list_(number)), ("busy", pa.bool_())),
            *(("before", state), ("after", state), ("plan", text), ("reference_ms", number)),
            *((f"target_{name}", text) for name in ("name", "runtime", "runtime_version", "device", "machine")),
            *(("target_flags", pa.list_(text)), ("target_threads", pa.int64()), ("target_w_qmax", pa.int64())),
            *(("target_cores", pa.list_(pa.int64())), ("spaceevo", text), ("created", text), ("program", text)),
        ]
    )
