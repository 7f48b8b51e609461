"""The run folder: one lock, one folder per stage, files that are either whole or absent.

    RUN/recipe.yaml             the resolved recipe
    RUN/provenance.json         versions, target, seed
    RUN/<stage>/stage.json      manifest, written last: input hash, seconds, size and SHA-256 of every file
    RUN/<stage>/...             the stage's files
    RUN/superseded/             stages whose inputs changed; a stage whose inputs change back returns from there

A stage with a manifest of the same input hash is not run again. A stage without one is unfinished: what it left
(checkpoints, stored measurements) belongs to the input hash in `inputs.json` and is continued.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from spaceevo.errors import ArtifactError, NoSpaceError, RunLockedError
from spaceevo.locks import claim

FORMAT = "spaceevo-stage-1"
MANIFEST = "stage.json"
INPUTS = "inputs.json"
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


class FileEntry(BaseModel):
    """One file of a finished stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a finished stage consists of.

    Attributes:
        format: `FORMAT`.
        stage: Name.
        input_hash: Hash of everything that the stage depends on.
        seconds: Time that the stage took, over all its attempts.
        peak_rss_mib: Largest resident memory of the process until then; jobs of an engine have their own.
        files: By path relative to the stage's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str
    stage: str
    input_hash: str
    seconds: float
    peak_rss_mib: float
    files: dict[str, FileEntry]

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


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a `NoSpaceError`.

    Args:
        path: What is being written, for the message.
    """
    try:
        yield
    except OSError as error:
        # Libraries that write through native code lose errno but keep the text.
        text = str(error).lower()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text
        if full or error.errno in _UNWRITABLE:
            raise NoSpaceError(
                f"{path} cannot be written",
                found=f"{'The disk is full' if full else error.strerror} ({_free_mib(path):.0f} MiB free there)",
                remedy="Make room or choose another folder with --out, then run the same command again: "
                "finished stages are kept and an unfinished one continues",
            ) from error
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is whole or absent, whatever interrupts.

    Raises:
        NoSpaceError: The disk is full or read-only; no partial file is left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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
                remedy="Wait until it has ended, or choose another folder with --out",
            )
        with claimed:
            yield

    def stage(self, name: str) -> StageFolder:
        """The folder of one stage."""
        return StageFolder(self.path, name)


class StageFolder:
    """Files of one stage."""

    def __init__(self, run: Path, name: str) -> None:
        self.run = run
        self.name = name
        self.path = run / name

    def finished(self, input_hash: str) -> Manifest | None:
        """The manifest if the stage is finished for these inputs, else None.

        Files of other inputs are set aside under `superseded/`, and earlier ones of these inputs fetched back.

        Raises:
            ArtifactError: A file is damaged, or the manifest is not ours.
        """
        if self.path.exists() and self._owner() != input_hash:
            self._set_aside(self._owner())
        aside = self._aside(input_hash)
        with storage_errors(self.path):
            if not self.path.exists() and aside.exists():
                aside.rename(self.path)
        manifest = self.manifest()
        if manifest:
            self._check_files(manifest)
        return manifest

    def manifest(self) -> Manifest | None:
        """The manifest, whatever the inputs; None without one.

        Raises:
            ArtifactError: It is not ours.
        """
        return self._manifest() if (self.path / MANIFEST).exists() else None

    def note_spent(self, input_hash: str, seconds: float) -> None:
        """Claim the folder for these inputs and note the time spent; files of an interrupted attempt stay."""
        write_atomically(self.path / INPUTS, json.dumps({"input_hash": input_hash, "seconds": seconds}))

    def spent_seconds(self) -> float:
        """Time spent by earlier, interrupted attempts."""
        try:
            return float(json.loads((self.path / INPUTS).read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def finish(self, input_hash: str, seconds: float, peak_rss_mib: float, files: list[Path]) -> Manifest:
        """Write the manifest, which makes the stage finished.

        Args:
            input_hash: As given to `note_spent`.
            seconds: Time taken.
            peak_rss_mib: Largest resident memory of the process.
            files: The stage's lasting files, inside its folder.
        """
        for partial in self.path.rglob(".*.tmp"):  # by a process that was killed while it wrote
            partial.unlink(missing_ok=True)
        entries = {
            str(path.relative_to(self.path)): FileEntry(size_bytes=path.stat().st_size, sha256=_file_hash(path))
            for path in sorted(files)
        }
        manifest = Manifest(
            format=FORMAT,
            stage=self.name,
            input_hash=input_hash,
            seconds=round(seconds, 3),
            peak_rss_mib=round(peak_rss_mib, 1),
            files=entries,
        )
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1))
        return manifest

    def _owner(self) -> str:
        if (self.path / MANIFEST).exists():
            return self._manifest().input_hash
        try:
            return str(json.loads((self.path / INPUTS).read_text(encoding="utf-8"))["input_hash"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def _manifest(self) -> Manifest:
        path = self.path / MANIFEST
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            raise ArtifactError(
                f"{path} is not a manifest that spaceevo wrote",
                found=str(error).splitlines()[0],
                remedy=f"Delete the folder {self.path} to have the stage done again",
            ) from error
        if manifest.format != FORMAT or manifest.stage != self.name:
            raise ArtifactError(
                f"{path} belongs to something else",
                found=f"format {manifest.format!r}, stage {manifest.stage!r}; expected {FORMAT!r}, {self.name!r}",
                remedy=f"Delete the folder {self.path} to have the stage done again",
            )
        return manifest

    def _check_files(self, manifest: Manifest) -> None:
        for name, entry in manifest.files.items():
            path = self.path / name
            found = "it is missing"
            if path.exists():
                size = path.stat().st_size
                if size == entry.size_bytes and _file_hash(path) == entry.sha256:
                    continue
                found = f"{size:,} bytes where {entry.size_bytes:,} were written"
                if size == entry.size_bytes:
                    found = "its content has another SHA-256 than was written"
            raise ArtifactError(
                f"{path}, a file of the finished stage {self.name!r}, is damaged",
                found=found[0].upper() + found[1:],
                remedy=f"Restore it, or delete the folder {self.path} to have this stage done again; "
                "the other stages are kept",
            )

    def _aside(self, input_hash: str) -> Path:
        return self.run / "superseded" / f"{self.name}-{input_hash[:16]}"

    def _set_aside(self, owner: str) -> None:
        target = self._aside(owner)
        with storage_errors(target):
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            self.path.rename(target)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_mib(path: Path) -> float:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free / 2**20
