"""One file per data set; see `procedural` for the contract. Here: the cache of pixels that they share."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spaceevo.errors import NoSpaceError

_DIGEST_BYTES = 32
_CHUNK_BYTES = 1 << 20


def cached(cache: Path, source: str, inputs: object, build: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `build` makes, read from `cache` where an intact copy lies there.

    A cache file is a plain .npy followed by a SHA-256 over its key and content, so a damaged, truncated,
    renamed or foreign file is noticed, and built anew. It appears whole or not at all.

    Args:
        cache: Folder of the cache; made when it is missing.
        source: `__file__` of the data set; its text is part of the key, so a changed renderer never
            meets old pixels.
        inputs: All else that determines the array; its `repr` is part of the key.
        build: Makes the array.

    Raises:
        NoSpaceError: The disk is full, or the folder cannot be written.
    """
    key = hashlib.sha256(Path(source).read_bytes() + repr(inputs).encode()).digest()
    path = cache / f"{Path(source).stem}-{key.hex()[:16]}.npy"
    array = _read(path, key)
    if array is None:
        array = build()
        try:
            _write(path, key, array)
        except OSError as error:
            raise NoSpaceError(
                "The cache of a data set cannot be written",
                found=f"{path}: {error.strerror or error} ({array.nbytes / 2**20:.0f} MiB needed)",
                remedy="Free space there, or choose a folder that can be written",
            ) from error
    return array


def _read(path: Path, key: bytes) -> np.ndarray | None:
    """The cached array, or None where it is missing or not intact."""
    try:
        with path.open("rb") as file:
            content_bytes = path.stat().st_size - _DIGEST_BYTES
            if content_bytes <= 0 or _digest(file, key, content_bytes) != file.read():
                return None
            file.seek(0)
            array: np.ndarray = np.load(file, allow_pickle=False)
            return array
    except OSError:
        return None


def _write(path: Path, key: bytes, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            np.save(file, array, allow_pickle=False)
            content_bytes = file.tell()
            file.seek(0)
            digest = _digest(file, key, content_bytes)
            file.write(digest)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest(file: BinaryIO, key: bytes, num_bytes: int) -> bytes:
    """SHA-256 of the key and of the next `num_bytes` of the file, read in chunks to spare memory."""
    digest = hashlib.sha256(key)
    while num_bytes > 0 and (chunk := file.read(min(num_bytes, _CHUNK_BYTES))):
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.digest()
