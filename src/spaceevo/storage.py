"""A run folder that lies in an object store, such as `s3://bucket/runs/my`.

A run works in a folder of its machine, which is kept equal to the store: what is new in the store is fetched at the
start, what is written here goes there within seconds, in the order in which it was written, each file whole or not at
all. So whatever interrupts, the store holds what a killed run would have left, and the same command goes on from it on
any machine. While the store is away, the run goes on here and catches up later.

    URL/.holder.json            which session of a run has the store, and when it was last seen
    URL/...                     as in the run folder; not there: locks, `cache/` (of data), `work/`
    FOLDER/.stored.json         which versions of files this machine has had from the store or has brought there

Any file system of fsspec will do that puts a file whole or not at all, as S3-compatible stores, Google Cloud Storage
and Azure do. https://filesystem-spec.readthedocs.io

More than 400 lines: taking a place, watching it and giving it back share what is noted of it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import getnode, uuid4

import fsspec
from pydantic import BaseModel, ValidationError

from spaceevo.artifacts import FULL, storage_errors, write_atomically
from spaceevo.errors import ArtifactError, RunLockedError, SpaceEvoError, StorageError
from spaceevo.locks import claim
from spaceevo.ownership import at_home, is_run

HOLDER = ".holder.json"
NOTES = ".stored.json"
SECONDS_BETWEEN_PUSHES = 5.0
SECONDS_BETWEEN_SIGNS = 30.0
SECONDS_BETWEEN_TRIES = 1.0
#: How long a store may be away where its content is needed.
PATIENCE_SECONDS = 600.0
#: A session that has not been seen for so long is taken to be lost.
LOST_SECONDS = 300.0
_LEFT_OUT = ("cache", "work")  # made anew from the data; needed for a while only
_DATABASE = ".sqlite"
_BESIDE_DATABASE = ("-wal", "-shm")
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "mtime", "created", "LastModified")
T = TypeVar("T")


class _Held(BaseModel):
    """Content of `HOLDER`."""

    session: str
    machine: str
    pid: int
    seen: float
    ended: bool = False


class _Copied(BaseModel):
    """A file that is equal here and there: its version in both places."""

    here: str
    there: str


class _Notes(BaseModel):
    """Content of `NOTES`."""

    session: str = ""
    files: dict[str, _Copied] = {}


@lru_cache
def this_machine() -> str:
    """Name of this machine or container; many machines are called alike, so with what tells them apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        boot = f"{getnode():x}"
    return f"{platform.node()} ({boot[:8]})"


@dataclass(frozen=True)
class Storage:
    """A run's place in an object store, and the folder that is kept equal to it.

    It travels to the jobs of an engine; on another machine they work in a folder of the same path there.

    Attributes:
        url: Of the run in the store.
        folder: Of the run on this machine.
        session: Of the run that has the store; its jobs belong to it too.
        machine: Where that run was started, as `this_machine` calls it.
    """

    url: str
    folder: Path
    session: str = field(default_factory=lambda: uuid4().hex)
    machine: str = field(default_factory=this_machine)

    def joined(self) -> Storage:
        """As part of the session that has the store: for processes that help a run.

        Raises:
            StorageError: No run has it, or it does not answer.
        """
        held = _patiently(self, self._held)
        if held is None:
            raise StorageError(f"No run has started in {self.url}", remedy="Start it first, or choose another `place`")
        return replace(self, session=held.session, machine=held.machine)

    def pull(self) -> None:
        """Fetch what is new in the store.

        What was written here and is not there yet stays, unless it is of an earlier session.

        Raises:
            StorageError: The store does not answer for `PATIENCE_SECONDS`.
            NoSpaceError: This machine's disk is full.
        """
        _patiently(self, lambda: self._pull(self.session))

    def push(self) -> None:
        """Bring to the store what has been written, replaced or deleted here.

        Raises:
            StorageError: As of `pull`.
            RunLockedError: Another session has taken the store over.
        """
        _patiently(self, self._push)

    @contextmanager
    def pushed(self) -> Iterator[None]:
        """Push every few seconds meanwhile, and at the end; for jobs on other machines."""
        with _repeated(lambda: _try(self._push), SECONDS_BETWEEN_PUSHES):
            yield
        self.push()

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
        """Have the store for one session: fetch what is there, and bring there what is written until the end.

        Args:
            say: Told where the store is away for a while, in a sentence.

        Yields:
            To be called now and then: raises what has ended the session.

        Raises:
            StorageError: The store cannot be used or found.
            RunLockedError: Another session has it; from the function that is yielded, where one has taken it over.
        """
        try:
            self._begin()
        except SpaceEvoError:
            raise
        except Exception as error:
            raise StorageError(
                f"The object store at {self.url} cannot be used",
                found=_told(error),
                remedy="Correct `place`, the credentials or the endpoint (for S3: AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL), or try again when it answers",
            ) from error
        watch = _Watch(self, say)

        def push() -> None:
            if error := watch.attempt(self._push):
                raise error

        try:
            with (
                _repeated(lambda: watch.attempt(self._push), SECONDS_BETWEEN_PUSHES),
                _repeated(lambda: watch.attempt(self._give_sign), SECONDS_BETWEEN_SIGNS),  # a push may take long
            ):
                yield watch.check
            watch.check()
            watch.tell_of_the_end()
            _patiently(self, push)
        except BaseException:
            _try(self._push)  # the error that ends the run counts, not this
            raise
        finally:
            _try(self._release)  # else it is taken to be lost after a while

    def _begin(self) -> None:
        last = self._take()
        try:
            self._pull(last)
        except BaseException:
            _try(self._release)
            raise

    def _take(self) -> str:
        """Note that this session has the store; returns the session that had it last."""
        held = self._held()
        if held is not None and not self._is_over(held):
            raise self._taken(held)
        mine = self._as_held()
        if held is None:
            self._check_foreign()
            with suppress(FileExistsError):  # by someone who is as fast
                self._store.pipe_file(self._there(HOLDER), mine, mode="create")
        else:
            self._store.pipe_file(self._there(HOLDER), mine)
        now = self._held()
        if now is None or now.session != self.session:
            raise self._taken(now or _Held.model_validate_json(mine))
        return held.session if held else ""

    def _check_foreign(self) -> None:
        """That the place is empty, or holds a run that was copied there."""
        names = sorted(_versions_there(*_open(self.url)))
        if names and not is_run(set(names)):
            raise ArtifactError(
                f"{self.url} is not empty, and not the place of a run",
                found=f"It holds {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}",
                remedy="Nothing was touched. Choose a new or an empty place with `place`",
            )

    def _give_sign(self) -> None:
        self._check()
        self._store.pipe_file(self._there(HOLDER), self._as_held())

    def _check(self) -> None:
        """That no other session has taken the store over."""
        held = self._held()
        if held is not None and held.session != self.session:
            raise self._taken(held)

    def _release(self) -> None:
        self._check()
        self._store.pipe_file(self._there(HOLDER), self._as_held(ended=True))

    def _as_held(self, ended: bool = False) -> bytes:
        held = _Held(session=self.session, machine=self.machine, pid=os.getpid(), seen=time.time(), ended=ended)
        return held.model_dump_json(indent=1).encode()

    def _held(self) -> _Held | None:
        self._store.invalidate_cache()
        if not self._store.exists(self._there(HOLDER)):
            return None
        try:
            return _Held.model_validate_json(self._store.cat_file(self._there(HOLDER)))
        except ValidationError as error:
            raise StorageError(
                f"{self.url}/{HOLDER} is not what spaceevo wrote",
                found=_told(error),
                remedy="If no run works there, delete this file; what is in the store is kept",
            ) from error

    def _is_over(self, held: _Held) -> bool:
        if held.ended or time.time() - held.seen > LOST_SECONDS:
            return True
        return held.machine == this_machine() and not _is_alive(held.pid)

    def _taken(self, held: _Held) -> RunLockedError:
        return RunLockedError(
            f"Another run works in {self.url}",
            found=f"Its process is {held.pid} on {held.machine}, seen {max(0, time.time() - held.seen):.0f} s ago",
            remedy=f"Wait until it has ended ({LOST_SECONDS:.0f} s after it was last seen, it is taken to be lost), or "
            "choose another place with `place`",
        )

    @property
    def _store(self) -> Any:
        return _open(self.url)[0]

    def _there(self, name: str) -> str:
        return f"{_open(self.url)[1]}/{name}"

    def _pull(self, last: str) -> None:
        """Fetch; what is new here counts where it is of the session `last`, after which nobody had the store."""
        file_system, root = _open(self.url)
        with self._notes() as notes:
            goes_on = notes.session == last
            if goes_on:
                notes.session = self.session
            here, there = _versions_here(self.folder), _versions_there(file_system, root)
            for name in {*here, *there, *notes.files}:
                known, version = notes.files.get(name), there.get(name)
                is_new_here = here.get(name) != (known.here if known else None)
                is_new_there = version != (known.there if known else None)
                wanted = is_new_there and not is_new_here if goes_on else is_new_there or is_new_here
                if not wanted:
                    continue
                path = self.folder / name
                if version is None:
                    _remove(path)
                    notes.files.pop(name, None)
                else:
                    self._fetch(name)
                    notes.files[name] = _Copied(here=_version_here(path), there=version)
            notes.session = self.session

    def _fetch(self, name: str) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with storage_errors(path, only=FULL):  # what else goes wrong may be the store's, which is asked again
                path.parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(self._there(name), str(temporary))
                _remove(path)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _push(self) -> None:
        self._check()
        with self._notes() as notes:
            here = _versions_here(self.folder)
            for name, version in here.items():
                known = notes.files.get(name)
                if known is None or known.here != version:
                    uploaded = self._upload(name)
                    if uploaded:
                        notes.files[name] = _Copied(here=version, there=uploaded)
                        self._write(notes)
            for name in notes.files.keys() - here.keys():
                with suppress(FileNotFoundError):
                    self._store.rm_file(self._there(name))
                del notes.files[name]

    def _upload(self, name: str) -> str:
        """Bring one file to the store; its version there, or nothing where it has gone meanwhile."""
        path = self.folder / name
        try:
            with _snapshot(path) as source, self._store.transaction:
                self._store.put_file(str(source), self._there(name))
        except (FileNotFoundError, sqlite3.OperationalError):
            if path.exists():
                raise
            return ""
        self._store.invalidate_cache()
        return _version_there(self._store.info(self._there(name)))

    @contextmanager
    def _notes(self) -> Iterator[_Notes]:
        """The notes of this folder, for one process at a time; what has changed is written, whatever happens."""
        with storage_errors(self.folder):
            claimed = claim(self.folder / ".stored.lock", wait=True)
        assert claimed is not None
        with claimed:
            try:
                notes = _Notes.model_validate_json((self.folder / NOTES).read_bytes())
            except (OSError, ValidationError):
                notes = _Notes()  # all is fetched
            before = notes.model_dump_json()
            try:
                yield notes
            finally:
                if notes.model_dump_json() != before:
                    self._write(notes)

    def _write(self, notes: _Notes) -> None:
        write_atomically(self.folder / NOTES, notes.model_dump_json())


class _Watch:
    """What the threads of a session find.

    Args:
        storage: The run folder that is watched.
        say: Told where the store is away, and when it is back.
    """

    def __init__(self, storage: Storage, say: Callable[[str], None]) -> None:
        self._storage = storage
        self._say = say
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._lost: SpaceEvoError | None = None

    def attempt(self, exchange: Callable[[], None]) -> Exception | None:
        """Exchange something with the store, and take note of how that ends: in an error or not."""
        begun = time.monotonic()
        error = _try(exchange)
        self.see(error, begun)
        return error

    def see(self, error: Exception | None, begun: float) -> None:
        """Take note of how an exchange with the store has ended.

        Args:
            error: None where it succeeded.
            begun: When it began. That one from before the store was away succeeds does not tell that it is back.
        """
        with self._lock:
            url, since, now = self._storage.url, self._away_since, time.monotonic()
            if isinstance(error, SpaceEvoError):
                self._lost = error
            elif error is None and since is not None and begun > since:
                self._away_since = None
                self._say(f"{url} answers again, after {now - since:.0f} s")
            elif error is not None and since is None:
                self._away_since = now
                self._say(f"{url} does not answer ({_told(error)}); going on in {self._storage.folder}, trying again")

    def check(self) -> None:
        """Raise what has ended the session."""
        if self._lost is not None:
            raise self._lost

    def tell_of_the_end(self) -> None:
        """Say what a run that is done waits for, if anything."""
        if self._away_since is not None:
            self._say(f"Done here; waiting for {self._storage.url} to answer")


def located(place: Path | str) -> tuple[Path, Storage | None]:
    """Folder and storage of a run, from what the user gives.

    Args:
        place: A folder, or the URL of one in an object store; its folder on this machine lies below
            `$XDG_CACHE_HOME/spaceevo`, by default `~/.cache/spaceevo`.

    Raises:
        StorageError: There is no such kind of store, or the package for it is missing; or a name that libraries written
            in C do not take.
    """
    url = str(place).rstrip("/")
    try:
        url.encode()
    except UnicodeEncodeError:
        raise StorageError(
            "The name of the run folder is not UTF-8", found=url, remedy="Choose another folder with `place`"
        ) from None
    if "://" not in url:
        return at_home(Path(place)), None
    _open(url)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return cache / "spaceevo" / name, Storage(url, cache / "spaceevo" / name)


@lru_cache
def _open(url: str) -> tuple[Any, str]:
    try:
        file_system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{url} cannot be opened",
            found=_told(error),
            remedy="Install what it takes, for S3: pip install 'spaceevo[s3]', for Google Cloud Storage: "
            "pip install 'spaceevo[gcs]'; or give a folder",
        ) from error
    return file_system, root


def _patiently(storage: Storage, do: Callable[[], T]) -> T:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return do()
        except SpaceEvoError:
            raise
        except Exception as error:  # each kind of store raises what it likes
            if time.monotonic() > end:
                raise StorageError(
                    f"The object store at {storage.url} has not answered for {PATIENCE_SECONDS:.0f} s",
                    found=_told(error),
                    remedy=f"Nothing is lost: {storage.folder} has what the store lacks. When it answers, run the same "
                    "command again on this machine",
                ) from error
            time.sleep(SECONDS_BETWEEN_TRIES)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _try(do: Callable[[], None]) -> Exception | None:
    try:
        do()
    except Exception as error:
        return error
    return None


@contextmanager
def _repeated(do: Callable[[], object], seconds: float) -> Iterator[None]:
    """Do something again and again, beside."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _snapshot(path: Path) -> Iterator[Path]:
    """What is uploaded: of a database that is being written, a copy as it is now."""
    if path.suffix != _DATABASE:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        yield copy


def _remove(path: Path) -> None:
    beside = _BESIDE_DATABASE if path.suffix == _DATABASE else ()
    for suffix in (*beside, ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_kept(name: str) -> bool:
    """Whether a file, by its name in the run folder, lies in the store too; a store may hold any other names."""
    *folders, own = name.split("/")
    is_left_out = ".." in folders or (folders and folders[0] in _LEFT_OUT)
    return bool(own) and not (is_left_out or own.startswith(".") or own.endswith((".lock", *_BESIDE_DATABASE)))


def _versions_here(folder: Path) -> dict[str, str]:
    """Version of every file that is kept in the store, the one first that was written first."""
    found: list[tuple[int, str, str]] = []
    for parent, folders, files in os.walk(folder):
        base = Path(parent)
        if base == folder:
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for path in (base / name for name in files):
            if not _is_kept(name := path.relative_to(folder).as_posix()):
                continue
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, name, _version_here(path)))
    return {name: version for _, name, version in sorted(found)}


def _version_here(path: Path) -> str:
    stats = [path.stat()]
    if path.suffix == _DATABASE:  # what is new lies in the log at first
        with suppress(FileNotFoundError):
            log = path.with_name(path.name + _BESIDE_DATABASE[0]).stat()
            stats += [log] if log.st_size else []
    return " ".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats)


def _versions_there(file_system: Any, root: str) -> dict[str, str]:
    file_system.invalidate_cache()
    found = file_system.find(root, detail=True)
    names = {path.removeprefix(root).lstrip("/"): info for path, info in found.items()}
    return {name: _version_there(info) for name, info in names.items() if _is_kept(name)}


def _version_there(info: dict[str, Any]) -> str:
    return " ".join(str(info[key]) for key in ("size", *_VERSION_KEYS) if info.get(key) is not None)


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
