"""What spaceevo may write into, and what belongs to the user.

A folder is ours if it holds `spaceevo.json`, which is written before anything else, or what earlier versions wrote
first. One that is neither ours nor empty is refused before anything in it is touched. A file that the user names is
replaced only if spaceevo wrote it, or if the user insists.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from spaceevo.artifacts import FileEntry, Sealed, read_file, storage_errors, write_atomically
from spaceevo.errors import ArtifactError

MARKER = "spaceevo.json"
FORMAT: Literal["spaceevo-folder-1"] = "spaceevo-folder-1"
GENERATOR = '<meta name="generator" content="spaceevo">'
#: First line of a table of predictions.
PREDICTIONS = ("network", "latency_ms", "num_outside")

Kind = Literal["run", "quantize", "target", "cells"]
_WORDS = {
    "run": "a run folder",
    "quantize": "an output folder of spaceevo quantize",
    "target": "the folder of a target",
    "cells": "a folder of distilled cells",
}
#: What an operating system puts into folders that are empty to their user.
_NOTHING = (".DS_Store", "Thumbs.db", "desktop.ini", "lost+found")
#: What a version without the marker has left that was killed before it wrote anything else.
_BARELY_STARTED = (".lock", ".stored.lock", ".stored.json", "cache")
_APPLICATION_ID = b"SPEV", 68  # of a store of measurements, and where SQLite keeps it
_PARQUET = b"PAR1"
_PARQUET_COLUMNS = (b"spaceevo", b"nsr_loss")  # of measurements, of block tables
_NUM_TOLD = 3
_SNIFFED_BYTES = 1 << 16


class Marker(Sealed):
    """Content of `spaceevo.json`.

    Attributes:
        format: `FORMAT`.
        kind: What the folder is for.
        files: Of those that belong to no stage.
        last_measured: When the last of the measurements was made that are in such a file.
    """

    model_config = ConfigDict(extra="ignore")
    format: Literal["spaceevo-folder-1"] = FORMAT
    kind: Kind
    files: dict[str, FileEntry] = Field({})
    last_measured: str = ""


def claim_folder(folder: Path, kind: Kind, setting: str = "place") -> Path:
    """Make a folder ours, and make it where it is absent; see `check_folder`."""
    folder = check_folder(folder, kind, setting)
    if not (folder / MARKER).exists():
        write_marker(folder, Marker(kind=kind_of(folder) or kind))
    return folder


def check_folder(folder: Path, kind: Kind, setting: str = "place") -> Path:
    """Refuse a folder that belongs to the user; nothing is written.

    Args:
        folder: It may be absent; a leading ~ is the home folder.
        kind: What it is for. The folder of a target may be any that is ours.
        setting: What names it, for the message.

    Returns:
        The folder.

    Raises:
        ArtifactError: It is not empty and not ours, or ours for something else; nothing was touched.
        StorageError: It cannot be made or written.
    """
    folder = at_home(folder)
    with storage_errors(folder):
        if os.path.lexists(folder) and not folder.is_dir():
            is_dangling = folder.is_symlink() and not folder.exists()
            raise ArtifactError(
                f"{folder} is no folder",
                found=f"It is a link to {os.readlink(folder)}, which is not there" if is_dangling else "It is a file",
                remedy=f"Nothing was touched. Choose a folder with `{setting}`",
            )
        names = _names(folder) if folder.exists() else []
    found = kind_of(folder)
    if found is None:
        more = f" and {len(names) - _NUM_TOLD} more" if len(names) > _NUM_TOLD else ""
        raise ArtifactError(
            f"{folder} is not empty, and not {_WORDS[kind]}",
            found=f"It holds {', '.join(names[:_NUM_TOLD])}{more}",
            remedy=f"Nothing was touched. Choose a new or an empty folder with `{setting}`",
        )
    if found not in ("", kind) and "target" not in (found, kind):
        raise ArtifactError(
            f"{folder} is {_WORDS[str(found)]}, not {_WORDS[kind]}",
            remedy=f"Nothing was touched. Choose another folder with `{setting}`",
        )
    return folder


def kind_of(folder: Path) -> Kind | Literal[""] | None:
    """What spaceevo made a folder for; "" where it is absent, empty or barely started, None where it is the user's.

    Raises:
        StorageError: It cannot be read.
    """
    if not folder.exists():
        return ""
    if marker := read_marker(folder):
        return marker.kind
    # As versions without the marker have left it
    if _is_recipe(folder / "recipe.yaml") and _is_provenance(folder / "provenance.json"):
        return "quantize" if (folder / "quantize.json").is_file() or (folder / "finetuning").is_dir() else "run"
    if {"hyperspace_hash", "data_hash", "w_qmax"} <= _json_keys(folder / "distillation.json"):
        return "cells"
    if _is_store(folder / "measurements.sqlite"):
        return "target"
    return "" if _is_barely_started(folder) else None


def read_marker(folder: Path) -> Marker | None:
    """What `write_marker` wrote; None where there is nothing, or something else.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        marker = Marker.model_validate_json(read_file(folder / MARKER))
    except (ValidationError, OSError):
        return None
    return marker if marker.sha256 == marker.own_hash else None


def write_marker(folder: Path, marker: Marker) -> None:
    """Write `spaceevo.json`."""
    write_atomically(folder / MARKER, marker.sealed().model_dump_json(indent=1))


def is_run(names: set[str]) -> bool:
    """Whether such files, by their names in a store, are those of a run."""
    return MARKER in names or {"recipe.yaml", "provenance.json"} <= names


def output_file(path: Path, *, force: bool = False, is_ours: Callable[[Path], bool] | None = None) -> Path:
    """Check, before long work, that its result can be written to a file that the user names.

    A device, such as /dev/stdout, is written into. An empty file is nobody's.

    Args:
        path: The file; a leading ~ is the home folder.
        force: Whether the user insists that it is overwritten.
        is_ours: Whether spaceevo wrote the file that is there; without it, `is_written_here`.

    Returns:
        The file.

    Raises:
        ArtifactError: It exists, and spaceevo did not write it.
        StorageError: It cannot be written there.
    """
    path = at_home(path)
    with storage_errors(path):
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder", remedy="Name a file in it")
        if path.exists() and not path.is_file():
            return path
        if path.exists() and path.stat().st_size and not force and not (is_ours or is_written_here)(path):
            raise ArtifactError(
                f"{path} exists already, and spaceevo did not write it",
                remedy="Choose another name, or overwrite it with `force`",
            )
        parent = path.resolve().parent
        while not parent.exists():
            parent = parent.parent
        with tempfile.TemporaryFile(dir=parent):
            pass
    return path


def is_written_here(path: Path) -> bool:
    """Whether spaceevo wrote a file: predictions, a parquet table, weights, or a page of plots."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
        file.seek(max(0, size - _SNIFFED_BYTES))
        tail = file.read()
    if head.startswith(_PARQUET):
        return any(column in tail for column in _PARQUET_COLUMNS)
    if head.startswith(",".join(PREDICTIONS).encode()):
        return head.splitlines()[0] == ",".join(PREDICTIONS).encode()
    return GENERATOR.encode() in head or _is_safetensors(path)


def at_home(path: Path) -> Path:
    """A path whose leading ~, which a shell has left as it is, is the home folder."""
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def _names(folder: Path) -> list[str]:
    """What the folder holds, without what does not count; of ours, what a process killed at once has left."""
    own = re.compile(rf"\.{re.escape(MARKER)}\.\d+\.tmp")
    return sorted(name for name in os.listdir(folder) if name not in _NOTHING and not own.fullmatch(name))


def _is_barely_started(folder: Path) -> bool:
    names = set(_names(folder))
    if not names <= set(_BARELY_STARTED):
        return False
    if "cache" in names and not _is_cache(folder / "cache"):
        return False
    lock = folder / ".lock"
    if lock.is_symlink():  # spaceevo makes none, and what is written would go elsewhere
        return False
    return not lock.exists() or (lock.is_file() and re.fullmatch(rb"\d{0,10}", read_file(lock)) is not None)


def _is_cache(folder: Path) -> bool:
    return folder.is_dir() and all(
        re.fullmatch(r"[\w.-]+-[0-9a-f]{16}\.npy|\..+\.tmp", name) for name in os.listdir(folder)
    )


def _is_store(path: Path) -> bool:
    application_id, offset = _APPLICATION_ID
    try:
        with path.open("rb") as file:
            return file.read(offset + len(application_id))[offset:] == application_id
    except OSError:
        return False


def _is_recipe(path: Path) -> bool:
    try:
        content = yaml.safe_load(read_file(path))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(content, dict) and {"name", "hyperspace", "target", "data", "seed"} <= content.keys()


def _is_provenance(path: Path) -> bool:
    return {"versions", "target", "seed"} == _json_keys(path)


def _json_keys(path: Path) -> set[str]:
    try:
        content: Any = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return False
        try:
            return "spaceevo" in json.loads(file.read(length))["__metadata__"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
