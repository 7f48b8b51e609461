"""Model files of anybody's: what they consist of and take, and why a runtime refuses one (the file is no runtime).

Nothing here asks a runtime: what is refused here is refused alike wherever a model is to run.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from spaceevo.errors import ArtifactError

#: What inputs are made of, by numpy's names.
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64",
          "uint8", "uint16", "uint32", "uint64", "bool")  # fmt: skip
#: Formats, and the runtimes that read them.
READERS = {
    "ONNX": ("onnxruntime", "openvino"),
    "TFLite": ("litert", "openvino"),
    "OpenVINO IR": ("openvino",),
}
MODEL_SUFFIXES = (".onnx", ".tflite", ".xml")  # usual ones
_MAX_INPUT_BYTES = 2**31
_MAX_REASON = 1000
#: How what is no model begins (in lower case), what it is, what to do.
_FOREIGN = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Fetch it with: git lfs pull"),
    (rb"<!doctype html|<html", "a page of HTML: a download that went wrong", "Download it again"),
    (rb"pk\x03\x04", "a zip archive, as checkpoints of PyTorch and Keras are", "Unpack it, or export the model"),
    (rb"\x89hdf", "an HDF5 file, as models of Keras are", "Export the model"),
    (rb"\x1f\x8b", "a gzip archive", "Unpack it"),
    (rb"\x80[\x02-\x05]", "a pickle, as checkpoints of PyTorch are", "Export the model"),
    (rb"(?s:.{4})ortm", "a model in ONNX Runtime's own format", "Take the ONNX file that it was made from"),
)


@dataclass(frozen=True, slots=True)
class Input:
    """What a model takes.

    Attributes:
        name: As the file calls it.
        dtype: One of `DTYPES`.
        shape: Each at least 1; a batch that the file leaves open is 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def as_json(self) -> list[Any]:
        """As the files for devices take it."""
        return [self.name, self.dtype, list(self.shape)]


@dataclass(frozen=True, slots=True)
class Model:
    """A model file that can be timed.

    Attributes:
        path: The file.
        inputs: In the file's order; may be empty.
        weights: Further files that it consists of, in its folder or below.
        is_ours: Whether spaceevo is known to have written it.
    """

    path: Path
    inputs: tuple[Input, ...]
    weights: tuple[Path, ...] = ()
    is_ours: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it consists of."""
        return (self.path, *self.weights)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def batch(self) -> int:
        """Images in one inference: the first axis of the input with the most axes; 1 where none has two.

        >>> Model(Path("m"), (Input("scale", "float32", (1, 3)), Input("x", "uint8", (8, 3, 4, 4)))).batch
        8
        """
        shapes = [own.shape for own in self.inputs if len(own.shape) > 1]
        return max(shapes, key=len)[0] if shapes else 1

    @property
    def digest(self) -> str:
        """SHA-256 of the file; of several, over their places and contents."""
        own = [_hash(file) for file in self.files]
        if not self.weights:
            return own[0]
        names = ["", *(file.relative_to(self.path.parent).as_posix() for file in self.weights)]
        return hashlib.sha256(repr(list(zip(names, own, strict=True))).encode()).hexdigest()


class Timed:
    """A model that a runtime of this machine has loaded and run once.

    Args:
        model: Its files and inputs.
        on_device: The runtime's file that loads and times (see `Runtime.ON_DEVICE`).
        explain: Turns what the runtime says of a model that it refuses into (found, remedy).
        runtime: For people.
        threads: Threads within an operator.
        options: Of `load`, as for devices.

    Raises:
        ArtifactError: The runtime refuses it.
    """

    def __init__(
        self,
        model: Model,
        on_device: ModuleType,
        explain: Callable[[str], tuple[str, str]],
        runtime: str,
        threads: int,
        **options: Any,
    ) -> None:
        self._inputs = [own.as_json() for own in model.inputs]
        self._on_device = on_device
        try:
            self._handle = on_device.load(str(model.path), threads, **options)
            self.time(1)
        except Exception as error:  # runtimes' exceptions share no base
            found, remedy = explain(str(error) or type(error).__name__)
            problem = f"{model.path} is no model that {runtime} can load"
            raise ArtifactError(problem, found=found, remedy=remedy) from error

    def time(self, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` inferences, after a few that do not count."""
        samples: list[float] = self._on_device.time(self._handle, self._inputs, repeats)
        return samples


def format_of(path: Path) -> str:
    """The format of a model file, a key of `READERS`, as far as its first bytes tell: what they do not is ONNX.

    Raises:
        ArtifactError: It cannot be read, is empty, or is known to be something else.
    """
    start = _start(path)
    if start[4:8] == b"TFL3":
        return "TFLite"
    told = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if told.startswith((b"<?xml", b"<net")):
        return "OpenVINO IR"
    for beginning, what, remedy in _FOREIGN:
        if re.match(beginning, told):
            raise ArtifactError(f"{path} is no model", found=f"It is {what}", remedy=remedy)
    return "ONNX"


def check_format(path: Path, runtime: str, *formats: str) -> str:
    """The format of a model file.

    Args:
        path: The file.
        runtime: For people.
        formats: That it reads.

    Raises:
        ArtifactError: It is no model, or of another format.
    """
    found = format_of(path)
    if found not in formats:
        told = f"It is a model in the format {found}"
        if found == "ONNX":  # that is not known
            told = f"It does not begin like a model in the format {' or '.join(formats)}"
        raise ArtifactError(
            f"{path} is no model that {runtime} can load",
            found=told,
            remedy=f"Convert it, or take a runtime that reads {found}: {', '.join(READERS[found])}",
        )
    return found


def make_input(path: Path, name: str, dtype: str, dims: Sequence[int | str] | None) -> Input:
    """An input of a model.

    Args:
        path: Of the model.
        name: Of the input.
        dtype: Its type, numpy's name where it has one.
        dims: Its axes; what is no number, or is negative, is open. None: not even their number is known.

    Raises:
        ArtifactError: Such an input cannot be made.

    >>> make_input(Path("m.onnx"), "x", "float32", ["batch", 3, 8, 8]).shape
    (1, 3, 8, 8)
    """
    if dtype not in DTYPES:
        raise ArtifactError(
            f"The input {name!r} of {path} cannot be made up",
            found=f"Its type is {dtype}; there are {', '.join(DTYPES)}",
            remedy="Export the model with an input of one of these types",
        )
    if dims is None:
        raise ArtifactError(
            f"The input {name!r} of {path} has no shape",
            found="The file does not tell how many axes it has",
            remedy="Export the model with fixed shapes",
        )
    is_open = [isinstance(dim, str) or dim < 0 for dim in dims]
    told = f"[{', '.join('?' if dim in ('', -1) else str(dim) for dim in dims)}]"
    if any(is_open[1:]):
        raise ArtifactError(
            f"The input {name!r} of {path} has no fixed shape",
            found=f"Its shape is {told}; only the first axis may be open, the batch, which counts as 1",
            remedy="Export the model with fixed sizes",
        )
    shape = tuple(1 if is_open[number] else int(dim) for number, dim in enumerate(dims))
    if 0 in shape or math.prod(shape) * np.dtype(dtype).itemsize > _MAX_INPUT_BYTES:
        raise ArtifactError(
            f"The input {name!r} of {path} is {'empty' if 0 in shape else 'too large'}",
            found=f"Its shape is {told}" + ("" if 0 in shape else f", its type {dtype}: more than 2 GiB"),
            remedy="Export the model with a shape that it is used with",
        )
    return Input(name, dtype, shape)


def check_links(model: Model, runtime: str, *folders: Path) -> Model:
    """The model, where none of its weights lies behind a link that a runtime does not follow.

    Args:
        model: Its file, and those that its weights lie in.
        runtime: For people.
        folders: Where the runtime looks for weights.

    Raises:
        ArtifactError: One does.
    """
    for file in model.weights:
        if not any(file.resolve().is_relative_to(folder) for folder in folders):
            raise ArtifactError(
                f"The weights of {model.path} cannot be read",
                found=f"{file} is a link to {file.resolve()}, out of its folder; {runtime} follows none",
                remedy="Copy all files into one folder, links followed (cp -L)",
            )
    return model


def shortened(reason: str) -> str:
    """A reason in one line, of which the end is kept: there it is told what matters."""
    text = " ".join(reason.split())
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON // 2]} ... {text[-_MAX_REASON // 2 :]}"


def without_cpp(message: str) -> str:
    """A native message without the place in the source, and the signature of the function, that it comes from.

    >>> without_cpp("failed:/src/a/b.h:46 void a::B(const std::map<int, int>&, bool) const Opset 99 is new")
    'failed: Opset 99 is new'
    """
    text = " ".join(message.split())
    while match := re.search(r"\S*?([\w./-]+\.(?:h|cc|cpp|hpp)):\d+:? ", text):
        before, after = text[: match.start(1)].rstrip(), text[match.end() :]
        head, bracket, _ = after.partition("(")
        if bracket and "::" in head:  # a signature: up to its closing bracket
            after = after[_closing(after, len(head)) + 1 :]
            after = re.sub(r"^(?: const\b| noexcept\b|::<lambda\([^)]*\)>| \[with [^\]]*\])+", "", after)
        else:
            after = re.sub(r"^[A-Z]\w*[a-z][A-Z]\w* ", "", after)  # the bare name of one
        text = f"{before} {after.strip()}".strip()
    return text


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`; the end where none does."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position
    return len(text)


def _start(path: Path) -> bytes:
    """The first bytes of a file, which there are."""
    if not path.is_file():
        found = "It is a folder" if path.is_dir() else "It is no regular file" if path.exists() else ""
        raise ArtifactError(f"There is no model at {path}", found=found, remedy="Check the path, or export it again")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # runtimes take paths as text
        raise ArtifactError(
            f"{path} has a name that runtimes cannot read", found="It is not UTF-8", remedy="Rename or link it"
        ) from error
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read", found=error.strerror or str(error)) from error
    if not start:
        raise ArtifactError(f"{path} is no model", found="It is empty", remedy="Export or download it again")
    return start


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
