"""Measurements on disk: what was measured once is never measured again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError
from spaceevo.records import Measurement, TargetDescription

_APPLICATION_ID = 0x53504556  # "SPEV", in the header of the file
_VERSION = 1
_TABLE = """CREATE TABLE IF NOT EXISTS measurements (
    key TEXT PRIMARY KEY, measurement TEXT NOT NULL, created TEXT NOT NULL) WITHOUT ROWID"""
_BUSY_SECONDS = 30


def key(what: str, precision: str, target: TargetDescription, plan: object) -> str:
    """The key of a measurement: SHA-256 over everything that it depends on, the version of spaceevo included.

    Args:
        what: The architecture (`repr` of its program) or the hash of a model file.
        precision: "int8", "fp32" or "file".
        target: The target; its name counts too.
        plan: How it is measured; its `repr` counts.
    """
    content = json.dumps([version("spaceevo"), what, precision, target.model_dump(mode="json"), repr(plan)])
    return hashlib.sha256(content.encode()).hexdigest()


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

    def get(self, key: str) -> Measurement | None:
        """The measurement stored under `key`, or None.

        Args:
            key: As the function `key` makes it.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._told():
            row = self._connection.execute("SELECT measurement FROM measurements WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            return Measurement.model_validate_json(row[0])
        except ValidationError as error:
            raise self._damaged(f"measurement {key[:12]}: {error.errors()[0]['msg']}") from error

    def put(self, key: str, measurement: Measurement) -> None:
        """Store a measurement; it is on disk when this returns. An older one under the key is replaced.

        Raises:
            ArtifactError: The file is damaged.
            NoSpaceError: The disk is full, or the file cannot be written.
            RunLockedError: Another process has been writing for half a minute.
        """
        row = (key, measurement.model_dump_json(), datetime.now(UTC).isoformat())
        with self._told():
            self._connection.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?, ?)", row)

    def __len__(self) -> int:
        with self._told():
            count: int = self._connection.execute("SELECT count(*) FROM measurements").fetchone()[0]
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
                found=f"tables {', '.join(tables[:5])}",
                remedy="Choose another file",
            )
        if application == _APPLICATION_ID and (found := execute("PRAGMA user_version").fetchone()[0]) != _VERSION:
            raise ArtifactError(
                f"{self.path} has another format",
                found=f"version {found}, expected {_VERSION}",
                remedy="Delete it to measure anew",
            )
        if (fault := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._damaged(fault)
        self._use_write_ahead_log()
        execute("PRAGMA synchronous = FULL")
        execute("BEGIN IMMEDIATE")
        execute(_TABLE)
        execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        execute(f"PRAGMA user_version = {_VERSION}")
        execute("COMMIT")

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
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
                raise self._unwritable(error) from error
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise RunLockedError(
                    f"Another process has been writing {self.path} for long",
                    found=str(error),
                    remedy="Wait until it is done",
                ) from error
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def _damaged(self, found: str) -> ArtifactError:
        return ArtifactError(
            f"The measurements in {self.path} cannot be read",
            found=found,
            remedy="Delete the file (and those beside it that begin with its name) to measure anew",
        )

    def _unwritable(self, error: Exception) -> NoSpaceError:
        return NoSpaceError(
            f"The measurements in {self.path} cannot be written",
            found=str(error),
            remedy="Free space there, or choose a folder that can be written",
        )
