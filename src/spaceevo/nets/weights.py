"""Files of weights: what is read of them, by whom ever they were written, and what is refused.

Nothing in a file can execute code. Every loader takes its numbers through `weight`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from spaceevo.errors import ArtifactError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
#: How files begin that are taken for weights: what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "a pointer of git-lfs instead of the file", "Fetch the file: git lfs pull"),
    (b"<", "a page of HTML or XML, as a download gives that was refused", "Download the file itself"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "Give weights that torch or safetensors wrote"),
    (b"\x93NUMPY", "an array of numpy", "Give weights that torch or safetensors wrote"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it"),
    (b"BZh", "compressed with bzip2", "Unpack it"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it"),
)
#: Run by the user, where such a file is trusted.
_SAVE_TENSORS = (
    "import sys, torch; c = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    "c = c.state_dict() if hasattr(c, 'state_dict') else c; s = c.get('state_dict', c.get('model', c)); "
    "torch.save({k: v for k, v in s.items() if torch.is_tensor(v)}, 'tensors.pth')"
)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name; not so one that cannot be read."""
    if not os.path.isfile(path):
        return False
    try:
        head = _head(path)
    except OSError:
        return False
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)


def read_safetensors(path: Path, what: str = "safetensors file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file.

    Args:
        path: The file.
        what: What it should be, for errors.

    Raises:
        ArtifactError: Missing, damaged, or another kind of file.
    """
    problem = f"{path} is not a whole {what}"
    _check_file(path, problem)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # damaged files make the reader raise nearly anything
        if not is_safetensors(path) and (_members(path, "data.pkl") or _head(path)[:1] == b"\x80"):
            raise ArtifactError(
                problem,
                found="It is a file of torch.save or another pickle, which may execute code when it is loaded",
                remedy="Save the tensors alone: safetensors.torch.save_file(state_dict, FILE), where the file was made",
            ) from error
        raise _other(
            path, problem, error, "Copy it again, whole; if a run made it, delete it and run the same command again"
        ) from error


def read_notes(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What spaceevo noted in a file of weights; None in a file of others.

    Raises:
        ArtifactError: The notes are damaged.
    """
    if "spaceevo" not in metadata:
        return None
    try:
        notes = json.loads(metadata["spaceevo"])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"The notes in {path} are damaged", found=_line(error), remedy="Copy it again") from error
    return notes if isinstance(notes, dict) else None


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, made of tensors, numbers, texts, lists and dictionaries alone.

    Raises:
        ArtifactError: Missing, damaged, another kind of file, or holding other objects, which could execute code.
    """
    problem = f"{path} cannot be read as a checkpoint"
    _check_file(path, problem)
    try:
        # An open file: of a path, torch takes the suffix for the format
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused next
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise nearly anything
        if objects := re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"but got <class '([\w.]+)'>", str(error)):
            raise ArtifactError(
                problem,
                found=f"Beside tensors it holds objects of other kinds ({objects[1]}), and loading those could execute "
                "any code",
                remedy="Only tensors are read. Where you trust the file, save them alone with `python -c "
                f'"{_SAVE_TENSORS}" {shlex.quote(str(path))}`, and give tensors.pth',
            ) from error
        raise _other(
            path, problem, error, "Give a file that holds only tensors, of torch.save or safetensors"
        ) from error


def weight(key: str, value: Tensor, where: object) -> Tensor:
    """One tensor of a file, as the float32 numbers that a network takes.

    Args:
        key: Its name.
        value: Of float16, bfloat16, float32 or float64.
        where: The file, for errors.

    Raises:
        ArtifactError: Empty, of another type, not finite, or a negative variance.
    """
    check_plain(key, value, where)
    shape = list(value.shape)
    if value.dtype not in _FLOATS:  # 8-bit floats are codes, too
        raise ArtifactError(
            f"{key} in {where} holds no floating-point numbers of 16 bits or more",
            found=f"{value.dtype}, {shape}",
            remedy="Give FP32 weights; codes of fewer bits say nothing without their scales",
        )
    if not value.numel():
        raise ArtifactError(f"{key} in {where} is empty", found=f"Shape {shape}", remedy="Give trained weights")
    numbers = value.detach().to(torch.float32)
    bad = ~torch.isfinite(numbers)
    if bad.any():
        first = value.flatten()[int(bad.flatten().nonzero()[0, 0])].item()
        found = f"{int(bad.sum())} of {value.numel()} values in {key}, {value.dtype}, the first is {first:g}"
        if math.isfinite(first):
            found += ", more than float32 holds"
        raise ArtifactError(
            f"{where} holds weights that are not finite numbers",
            found=found,
            remedy="Give weights of a training that went well",
        )
    if key.endswith("running_var") and (numbers < 0).any():
        raise ArtifactError(
            f"{where} holds a variance of batch norm that is negative",
            found=f"{numbers.min().item():g} in {key}",
            remedy="Give weights of a training that went well",
        )
    return numbers


def check_plain(key: str, value: Tensor, where: object) -> None:
    """Make sure that a tensor of a file holds its numbers one by one.

    Args:
        key: Its name.
        value: The tensor.
        where: The file, for errors.

    Raises:
        ArtifactError: It is nested, quantized, sparse or without content.
    """
    kinds = {"nested": value.is_nested, "quantized": value.is_quantized, "without content": value.is_meta,
             str(value.layout): value.layout != torch.strided}  # fmt: skip
    if found := next((kind for kind, is_it in kinds.items() if is_it), ""):
        raise ArtifactError(f"{key} in {where} is no plain tensor", found=f"It is {found}", remedy="Save it as float32")


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from being those of a network, in words; more tensors than wanted are no misfit."""
    problems = []
    for key, own in wanted.items():
        shape = list(own.shape)
        if key not in tensors:
            problems.append(f"{key}, {shape}, is missing")
        elif list(tensors[key].shape) != shape:
            problems.append(f"{key} has the shape {list(tensors[key].shape)}, that of the network {shape}")
    return problems


def _check_file(path: Path, problem: str) -> None:
    if not os.path.isfile(path):
        kinds = {"It is a folder": os.path.isdir, "It is no plain file": os.path.exists}
        found = next((found for found, is_it in kinds.items() if is_it(path)), "It is not there")
        raise ArtifactError(problem, found=found, remedy="Give a file of weights")
    try:
        _head(path)
    except OSError as error:
        raise ArtifactError(problem, found=_line(error), remedy="Make it readable") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _members(path: Path, end: str) -> list[str]:
    """Names in a zip archive that end so; none in another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if name.endswith(end)]
    except Exception:  # damaged archives make the reader raise nearly anything
        return []


def _other(path: Path, problem: str, error: Exception, remedy: str) -> ArtifactError:
    """Tell what a file is that cannot be read."""
    head, size = _head(path), path.stat().st_size
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what, what_to_do in _OTHERS:
        if head.startswith(magic) or start.startswith(magic):
            return ArtifactError(problem, found=f"It is {what}", remedy=what_to_do)
    if not head:
        found = "It is empty"
    elif head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        found, remedy = (
            "It is a tar archive, as torch wrote before version 0.4",
            f"Load it there and save it anew. {remedy}",
        )
    elif is_safetensors(path):
        found = f"It is a damaged safetensors file of {size:,} bytes: {_line(error)}"
    elif _members(path, "constants.pkl"):
        found = "It is a TorchScript archive, which holds code"
    elif _members(path, ""):
        found = f"It is a zip archive that holds no tensors of torch.save: {_line(error)}"
    elif head.startswith(b"PK"):
        found = f"It is a zip archive that is cut off after {size:,} bytes"
    else:
        found = f"Its {size:,} bytes begin with {head[:12]!r}: {_line(error)}"
    return ArtifactError(problem, found=found, remedy=remedy)


def _line(error: Exception) -> str:
    """The first line of a library's message; of torch's, which advises to load unsafely, the reason alone."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    line = text.splitlines()[0][:200] if text else ""
    return type(error).__name__ if not line or "weights_only" in line else line
