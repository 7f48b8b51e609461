"""The run folder: one lock, one folder per stage, files that are either whole or absent.

    RUN/recipe.yaml             the resolved recipe
    RUN/provenance.json         versions, target, seed
    RUN/<stage>/stage.json      manifest, written last: input hash, seconds, size and SHA-256 of every file
    RUN/<stage>/...             the stage's files
    RUN/superseded/             stages whose inputs changed; a stage whose inputs change back returns from there

A file within them that no stage writes is the user's: it is neither moved nor deleted.

A stage with a manifest of the same input hash is not run again. A stage without one is unfinished: what it left
(checkpoints, stored measurements) belongs to the input hash in `inputs.json` and is continued.

More than 400 lines: manifest, run folder and stage folder are one format.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError, StorageError
from spaceevo.locks import claim

FORMAT = "spaceevo-stage-1"
MANIFEST = "stage.json"
INPUTS = "inputs.json"
_PARTIAL = re.compile(r"\.(.+)\.\d+\.tmp")  # as `write_atomically` names it
FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EFBIG)
#: What file systems answer that lack something, or whose server or disk fails.
_FAILING = tuple(
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EIO", "ESTALE", "EREMOTEIO", "ENOTCONN", "EHOSTDOWN",
                 "ENODEV", "ENXIO", "ETIMEDOUT", "EUCLEAN")
    if hasattr(errno, name)
)  # fmt: skip


class FileEntry(BaseModel):
    """One file of a finished stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size_bytes: int
    sha256: str


class Sealed(BaseModel):
    """A record on disk that carries the hash of its content.

    Attributes:
        sha256: Of all other fields; "" where none was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    sha256: str = ""

    @property
    def own_hash(self) -> str:
        """What `sha256` has to be."""
        return content_hash(self.model_dump(mode="json", exclude={"sha256"}))

    def sealed(self) -> Self:
        """The same with the hash of its content."""
        return self.model_copy(update={"sha256": self.own_hash})


class Manifest(Sealed):
    """What a finished stage consists of.

    Attributes:
        format: `FORMAT`.
        stage: Name of the stage.
        input_hash: Hash of everything that the stage depends on.
        seconds: Time that the stage took, over all its attempts.
        peak_rss_mib: Largest resident memory of the process until then; jobs of an engine have their own.
        files: By path relative to the stage's folder.
        kept: Further files that lie there, which no other stage reads.
        sha256: Earlier versions wrote none.
    """

    format: str
    stage: str
    input_hash: str
    seconds: float
    peak_rss_mib: float
    files: dict[str, FileEntry]
    kept: dict[str, FileEntry] = {}

    @property
    def output_hash(self) -> str:
        """Hash over all files."""
        return content_hash({name: entry.sha256 for name, entry in self.files.items()})


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a stage.

    Raises:
        ArtifactError: It is none.
        StorageError: The file system does not give it.
    """
    remedy = f"Delete the folder {path.parent} to have the stage done again"
    try:
        manifest = Manifest.model_validate_json(read_file(path))
        if manifest.sha256 not in ("", manifest.own_hash):
            raise ValueError("Its content has another SHA-256 than was written")
    except (ValueError, OSError) as error:
        found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(f"{path} is not a manifest that spaceevo wrote", found=found, remedy=remedy) from error
    if manifest.format != FORMAT:
        found = f"Format {manifest.format!r}; expected {FORMAT!r}"
        raise ArtifactError(f"{path} belongs to something else", found=found, remedy=remedy)
    return manifest


def entry_of(path: Path) -> FileEntry:
    """Size and SHA-256 of a file as it is."""
    with path.open("rb") as file:
        return FileEntry(size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def fault_of(path: Path, entry: FileEntry) -> str:
    """What is wrong with a file, as it was written once; "" where nothing is.

    Raises:
        StorageError: The file system does not give it.
    """
    with storage_errors(path):
        if not path.is_file():
            return "it is no file" if os.path.lexists(path) else "it is missing"
        size = path.stat().st_size
        if size != entry.size_bytes:
            return f"{size:,} bytes where {entry.size_bytes:,} were written"
        return "" if entry_of(path) == entry else "its content has another SHA-256 than was written"


@contextmanager
def storage_errors(path: Path, only: Container[int] | None = None) -> Iterator[None]:
    """Turn what a disk or a file system refuses into a `StorageError`.

    Args:
        path: What is being written, for the message.
        only: Numbers of the errors that are told; without it, all that are known. Others pass.

    Raises:
        NoSpaceError: The disk is full or read-only, or there is no such place.
        StorageError: The file system fails, or lacks what is needed.
    """
    try:
        yield
    except OSError as error:
        # Libraries that write through native code lose errno but keep the text.
        is_full = error.errno in FULL or "no space left" in str(error).lower()
        if not is_full and only is not None and error.errno not in only:
            raise
        if is_full or error.errno in (*_DENIED, *_NO_PLACE) or _is_gone(error, path):
            raise NoSpaceError(
                f"{path} cannot be written",
                found=f"{'The disk is full' if is_full else error.strerror}{_free_mib(path)}",
                remedy=f"{'Make room' if is_full else 'Make it writable'} or choose another folder with `place`, then "
                "run the same command again: finished stages are kept and an unfinished one continues",
            ) from error
        if error.errno in _FAILING:
            raise _failing(path, error) from error
        raise


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is none.
        StorageError: There may be one, and the file system does not give it; nothing is known to be damaged.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in _FAILING:
            raise _failing(path, error) from error
        if error.errno in _DENIED:
            raise StorageError(
                f"{path} cannot be read", found=error.strerror or str(error), remedy="Make it readable, and try again"
            ) from error
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is whole or absent, whatever interrupts.

    What a link leads to is replaced, not the link. A device, such as /dev/stdout, is written into.

    Raises:
        NoSpaceError: The disk is full or read-only; no partial file is left.
        StorageError: The file system fails.
    """
    data = content.encode() if isinstance(content, str) else content
    with storage_errors(path):
        if path.is_symlink():
            path = path if _is_special(path) else path.resolve()
        if _is_special(path):
            path.write_bytes(data)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # what went wrong first counts
                temporary.unlink(missing_ok=True)
            raise


def remove_own(folder: Path, patterns: Iterable[str] = ("*",)) -> None:
    """Delete files that spaceevo wrote into a folder, then folders that are empty; what else lies there stays.

    Args:
        folder: Need not exist.
        patterns: Of their paths relative to the folder; a star stands for slashes, too.
    """
    own = tuple(patterns)
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside comes first
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif is_own(path.relative_to(folder).as_posix(), own):
                path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, locked by this process.

    Attributes:
        path: Created where absent.
    """

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; the system frees it when the process ends, however it ends.

        Raises:
            RunLockedError: Another process holds it; nothing was touched.
            StorageError: The folder's file system has no locks.
        """
        lock = self.path / ".lock"
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            claimed = claim(lock, note=str(os.getpid()))
        if claimed is None:
            raise RunLockedError(
                f"Another run works in {self.path}",
                found=f"Its process is {lock.read_text(encoding='utf-8', errors='replace').strip() or 'unknown'}",
                remedy="Wait until it has ended, or choose another folder with `place`",
            )
        with claimed:
            yield

    def stage(self, name: str, patterns: Sequence[str] = ("*",)) -> StageFolder:
        """The folder of one stage.

        Args:
            name: Name of the stage; that of its folder too.
            patterns: Of the files that it writes there; see `StageFolder`.
        """
        return StageFolder(self.path, name, patterns)


class StageFolder:
    """Files of one stage.

    Args:
        run: The run folder.
        name: Name of the stage; that of its folder too.
        patterns: Of the files that the stage writes, relative to its folder; a star stands for slashes, too. Others
            are the user's, and stay where they are.
    """

    def __init__(self, run: Path, name: str, patterns: Sequence[str] = ("*",)) -> None:
        self.run = run
        self.name = name
        self.path = run / name
        self._patterns = (MANIFEST, INPUTS, *patterns)

    def finished(self, input_hash: str) -> Manifest | None:
        """The manifest if the stage is finished for these inputs, else None.

        Files of other inputs are set aside under `superseded/`, and earlier ones of these inputs fetched back.

        Raises:
            ArtifactError: A file is damaged, or the manifest is not ours.
            StorageError: The file system fails.
        """
        with storage_errors(self.path):
            if (owner := self._owner(self.path)) != input_hash and self._own_files():
                self._set_aside(owner)
            if not self._own_files():
                self._fetch_back(input_hash)
            manifest = self.manifest()
        if manifest:
            self._check_files(manifest)
        return manifest

    def manifest(self) -> Manifest | None:
        """The manifest, whatever the inputs; None without one.

        Raises:
            ArtifactError: It is not ours.
        """
        return self._manifest(self.path) if (self.path / MANIFEST).exists() else None

    def note_spent(self, input_hash: str, seconds: float) -> None:
        """Claim the folder for these inputs and note the time spent; files of an interrupted attempt stay."""
        write_atomically(self.path / INPUTS, json.dumps({"input_hash": input_hash, "seconds": seconds}))

    def spent_seconds(self) -> float:
        """Time spent by earlier, interrupted attempts."""
        try:
            return float(json.loads(read_file(self.path / INPUTS))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def finish(self, input_hash: str, seconds: float, peak_rss_mib: float, files: list[Path]) -> Manifest:
        """Write the manifest, which makes the stage finished.

        Args:
            input_hash: As given to `note_spent`.
            seconds: Time taken, over all attempts.
            peak_rss_mib: Largest resident memory of the process.
            files: The stage's lasting files, inside its folder.
        """
        for partial in self._own_files():  # by a process that was killed while it wrote
            if _PARTIAL.fullmatch(partial.name):
                partial.unlink(missing_ok=True)
        entries = {path.relative_to(self.path).as_posix(): entry_of(path) for path in sorted(files)}
        manifest = Manifest(
            format=FORMAT,
            stage=self.name,
            input_hash=input_hash,
            seconds=round(seconds, 3),
            peak_rss_mib=round(peak_rss_mib, 1),
            files=entries,
            kept={
                name: entry_of(path)
                for path in self._own_files()
                if (name := path.relative_to(self.path).as_posix()) not in (*entries, MANIFEST)
                and path.is_file()
                and path.suffix != ".lock"
            },
        ).sealed()
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1))
        return manifest

    def _owner(self, folder: Path) -> str:
        if (folder / MANIFEST).exists():
            return self._manifest(folder).input_hash
        try:
            return str(json.loads(read_file(folder / INPUTS))["input_hash"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def _manifest(self, folder: Path) -> Manifest:
        manifest = read_manifest(folder / MANIFEST)
        if manifest.stage != self.name:
            raise ArtifactError(
                f"{folder / MANIFEST} belongs to something else",
                found=f"Stage {manifest.stage!r}; expected {self.name!r}",
                remedy=f"Delete the folder {folder} to have the stage done again",
            )
        return manifest

    def _check_files(self, manifest: Manifest) -> None:
        for name, entry in manifest.files.items():
            path = self.path / name
            if not (found := fault_of(path, entry)):
                continue
            raise ArtifactError(
                f"{path}, a file of the finished stage {self.name!r}, is damaged",
                found=found[0].upper() + found[1:],
                remedy=f"Restore it, or delete the folder {self.path} to have this stage done again; "
                "the other stages are kept",
            )

    def _own_files(self) -> list[Path]:
        """What spaceevo wrote."""
        listed = self._manifest(self.path).files if (self.path / MANIFEST).exists() else {}
        own = (*self._patterns, *map(glob.escape, listed))
        return [path for path in _files(self.path) if is_own(path.relative_to(self.path).as_posix(), own)]

    def _asides(self, input_hash: str) -> Iterator[Path]:
        """The folder that a stage of these inputs is set aside to, and those to take where it exists already."""
        first = self.run / "superseded" / f"{self.name}-{input_hash[:16]}"
        yield first
        for number in count(2):
            yield first.with_name(f"{first.name}-{number}")

    def _set_aside(self, owner: str) -> None:
        target = next(path for path in self._asides(owner) if not os.path.lexists(path))
        own = {path.relative_to(self.path) for path in self._own_files()}
        target.parent.mkdir(exist_ok=True)
        self.path.rename(target)
        self._give_back(target, own)

    def _fetch_back(self, input_hash: str) -> None:
        """Take back the stage of these inputs that was set aside last, if there is one."""
        for aside in reversed(list(takewhile(os.path.lexists, self._asides(input_hash)))):
            if self._owner(aside) != input_hash:
                continue
            if not self.path.exists():
                aside.rename(self.path)
                return
            # Beside files of the user. Whatever interrupts, what has come is an unfinished stage of these inputs.
            order = {INPUTS: 0, MANIFEST: 2}
            for path in sorted(_files(aside), key=lambda path: order.get(path.name, 1)):
                _move(path, self.path / path.relative_to(aside))
            remove_own(aside, ())
            return

    def _give_back(self, aside: Path, kept: set[Path]) -> None:
        """Move what is the user's back from where the whole folder went in one step, which cannot be interrupted."""
        for path in _files(aside):
            if path.relative_to(aside) not in kept:
                _move(path, self.path / path.relative_to(aside))


def _files(folder: Path) -> list[Path]:
    """All files, in order; a link is one."""
    return [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]


def is_own(name: str, patterns: Iterable[str]) -> bool:
    """Whether a relative path, or that of what is written to it, is one of those that spaceevo writes."""
    folder, _, own = name.rpartition("/")
    if partial := _PARTIAL.fullmatch(own):
        name = f"{folder}/{partial[1]}".removeprefix("/")
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _move(source: Path, target: Path) -> None:
    """Move a file unless something is in its place."""
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _is_gone(error: OSError, path: Path) -> bool:
    """Whether it is the place itself that is not there, as below /proc; what else is missing is another matter."""
    if error.errno != errno.ENOENT or not isinstance(error.filename, str):
        return False
    missing = Path(error.filename)
    return path.is_relative_to(missing) or missing.is_relative_to(path.parent)


def _failing(path: Path, error: OSError) -> StorageError:
    has_no_locks = error.errno == errno.ENOLCK
    return StorageError(
        f"The file system of {path} {'has no locks' if has_no_locks else 'fails'}",
        found=error.strerror or str(error),
        remedy="Choose a folder on a local disk with `place`, or try again when it works; what is written is kept",
    )


def _free_mib(path: Path) -> str:
    """In words, where it can be told."""
    with suppress(OSError):
        while not path.exists() and path != path.parent:
            path = path.parent
        return f" ({shutil.disk_usage(path).free / 2**20:.0f} MiB free there)"
    return ""
