"""What executes an architecture: one package per runtime, without torch, whose `__init__` is a `Runtime`.

The modules of a package are named by what is in them: `installed` (name, version, what it says), `arithmetic` (where it
rounds otherwise), `writer`, `reader` (what a file holds), `session` (what runs it), `on_device`. What several runtimes
share lies beside them, in files that begin with an underscore.

Exports are atomic: a file that exists is complete. A file that cannot be loaded is an `ArtifactError`; a runtime that
is not installed is a `TargetError`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from spaceevo.errors import DataError, ExportError, TargetError
from spaceevo.graph.graphs import FloatGraph, IntegerGraph
from spaceevo.graph.nodes import Program
from spaceevo.plugins import Registry
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic
from spaceevo.runtimes._models import Model

CountedNode = tuple[str, str, str, float]  # name, type, layers, ms: what runtimes count (see `Runtime.ON_DEVICE`)


class Session(Protocol):
    """A file that a runtime has written, loaded."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C], of preprocessed images, float32 [N, 3, H, W]; one image at a time.

        Raises:
            DataError: The images have another size.
            ExportError: The runtime refuses to run the model.
        """
        ...

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Codes, uint8 [N, C, H, W], of every tapped tensor, for images as of `run`."""
        ...


class OpenSession(Protocol):
    """Loads a file that the runtime has written."""

    def __call__(self, path: Path, threads: int = 1, taps: Sequence[str] = ()) -> Session:
        """The loaded file.

        Args:
            path: What `export_int8` or `export_fp32` wrote.
            threads: Threads within an operator; operators run one after another.
            taps: Nodes whose codes `codes` gives: no `Relabel` (it has its input's) and no `Linear`.

        Raises:
            ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
            TargetError: The runtime is not installed.
        """
        ...


class Timed(Protocol):
    """A model of anybody's, loaded."""

    def time(self, repeats: int) -> list[float]:
        """Latencies of `repeats` inferences in a row, each in ms."""
        ...


class LoadModel(Protocol):
    """Loads a model of anybody's, to be timed."""

    def __call__(self, path: Path, threads: int = 1) -> Timed:
        """The loaded model.

        Raises:
            ArtifactError: Missing, damaged, or the runtime refuses it.
            TargetError: The runtime is not installed.
        """
        ...


class Benchmark(Protocol):
    """A program that times a runtime's files where there is no Python.

    Attributes:
        PROGRAM: Its name.
        HOW_TO_GET: Where a user finds it.
    """

    PROGRAM: str
    HOW_TO_GET: str

    @property
    def command(self) -> Callable[..., list[str]]:
        """The words that start it: `command(program, file, repeats, threads, **more)`."""
        ...

    def samples_ms(self, output: str, repeats: int) -> list[float]:
        """Latencies in its output, in ms."""
        ...

    def peak_memory_mib(self, output: str) -> float:
        """Peak memory in its output, in MiB."""
        ...

    def operator_times(self, output: str) -> dict[str, float]:
        """Milliseconds per kind of kernel in its output."""
        ...

    def complaints(self, output: str) -> Iterator[str]:
        """What it complains about."""
        ...

    def delegated(self, output: str) -> bool:
        """Whether the whole model ran where it is exact."""
        ...


class Runtime(Protocol):
    """A package or module of this folder, or of an entry point in the group `spaceevo.runtimes`.

    Attributes:
        NAME: For people.
        SUFFIX: Of its files, for example ".onnx".
        EXPORTER: Version of what its exports write: raised where the same network gives other files, so that it is
            measured again.
        LAYOUT: How its files read images: "NCHW" or "NHWC".
        ARITHMETIC: Where its integer results differ from the contract's.
    """

    NAME: str
    SUFFIX: str
    EXPORTER: int
    LAYOUT: str
    ARITHMETIC: Arithmetic

    @property
    def Session(self) -> OpenSession:
        """Loads a file that it has written."""
        ...

    @property
    def load(self) -> LoadModel:
        """Loads any model that it reads."""
        ...

    @property
    def ON_DEVICE(self) -> Path | None:
        """What loads and times models, here and on devices: a stand-alone file; None for none.

        It needs nothing but the standard library, numpy and the runtime's package, in Python 3.8 or newer: its text is
        sent to a device and run there. The runtime itself loads and times with the same functions:

            version() -> str                               ImportError: the package is not installed
            load(model, threads, **options) -> a handle    `model` is a path (or content); any error: it is refused
            time(handle, inputs, repeats) -> [ms]          after as many that do not count, at most `WARM_UP`; `inputs`
                                                           are (name, numpy's type, shape) each, and filled with
                                                           made-up values

        and, where the runtime counts the time of its nodes,

            profile(model, inputs, repeats, threads, **options) -> [(node, type, layers, ms)]
                                                           arguments as of both; `layers`, joined by commas, are those
                                                           of the file that a node comprises, where the runtime tells
                                                           them
        """
        ...

    @property
    def SNIPPET(self) -> Path | None:
        """How its files are run by who has nothing of ours; None for none.

        A file of its docstring, imports of the runtime's package alone, and `load(path) -> (shape, run)`: the shape of
        the input, and what gives the logits [N, C] of an input [N, ...], float32. Its text without the docstring
        becomes part of the program that lies beside exported models.
        """
        ...

    @property
    def on_device_options(self) -> Callable[[Path, Profile], dict[str, Any]] | None:
        """Options of that file's `load`, for a model and a kind of processor; None for none."""
        ...

    @property
    def operator_times(self) -> Callable[[Iterable[CountedNode]], dict[str, float]] | None:
        """Milliseconds per operator, from the nodes that the file's `profile` counts; None without one."""
        ...

    @property
    def BENCHMARK(self) -> Benchmark | None:
        """A program that times its files where there is no Python; None for none."""
        ...

    def version(self) -> str:
        """Version of the runtime.

        Raises:
            TargetError: It is not installed.
        """
        ...

    def w_qmax(self, profile: Profile) -> int:
        """Largest absolute weight code that is exact on a kind of processor, 1 to 127."""
        ...

    def export_int8(self, graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a quantized network with exactly the graph's parameters; nothing is calibrated again.

        Args:
            graph: A whole network, or a part: without logits, the output is the last tensor, dequantized.
            path: Written atomically.
            metadata: Put into the file, beside the versions.

        Raises:
            ExportError: The runtime does not take it, or it is not quantized as devices compute.
            NoSpaceError: The file cannot be written.
        """
        ...

    def export_fp32(self, graph: FloatGraph, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the FP32 twin in the form that the runtime runs fastest; arguments and errors as of `export_int8`."""
        ...

    def metadata(self, path: Path) -> dict[str, str]:
        """What an export was given as metadata, and the versions.

        Raises:
            ArtifactError: The file is none of the runtime's.
        """
        ...

    def constants(self, path: Path) -> dict[str, np.ndarray]:
        """Every scale, zero point, code and bias that a file holds, by name.

        Raises:
            ArtifactError: The file is none of the runtime's.
        """
        ...

    def float_operators(self, path: Path) -> tuple[str, ...]:
        """What the runtime would still compute in float; empty for a model that runs wholly in integers.

        Raises:
            ArtifactError: The file cannot be loaded.
        """
        ...

    def open_model(self, path: Path) -> Model:
        """The files and inputs of a model that anybody has made.

        Raises:
            ArtifactError: It cannot be timed.
        """
        ...

    def explain(self, message: str, version: str) -> tuple[str, str]:
        """What the runtime means when it refuses a model: what is wrong, and what to do."""
        ...

    def profile(self, path: Path, repeats: int, threads: int = 1) -> dict[str, float]:
        """Milliseconds per operator, in the context of the whole network.

        Raises:
            ArtifactError: The file cannot be loaded.
            TargetError: The runtime does not tell.
        """
        ...


RUNTIMES = Registry("spaceevo.runtimes", Runtime)


def require(package: str, runtime: str, extra: str) -> ModuleType:
    """Import the package of a runtime.

    Args:
        package: To import, for example "openvino".
        runtime: Its name, for people.
        extra: The extra of spaceevo that installs it.

    Raises:
        TargetError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise TargetError(
            f"{runtime} is not installed",
            found=str(error),
            remedy=f"Install it with: pip install 'spaceevo[{extra}]'",
        ) from error


def check_placement(program: Program) -> None:
    """Refuse an INT8 export of what is not quantized as devices compute.

    Raises:
        ExportError: A node leaves its output in float, as in the published placement.
    """
    for node in program:
        if node.out.stays_float or node.out.quantizer == "offset":
            raise ExportError(
                f"The operator {node.id} is not quantized as devices compute",
                found="It has the published placement: quantizers in front of convolutions, all else in float",
                remedy="Quantize its FP32 weights with: spaceevo quantize",
            )


def check_images(images: np.ndarray, shape: Sequence[int]) -> None:
    """Refuse images that a model does not take.

    Args:
        images: [N, 3, H, W].
        shape: The model's input, [1, 3, H, W].

    Raises:
        DataError: Another size, or not four dimensions.
    """
    if images.ndim != 4 or images.shape[1:] != tuple(shape[1:]):
        raise DataError(
            f"The model takes images of the shape {list(shape[1:])}",
            found=f"an array of the shape {list(images.shape)}",
            remedy="Resize the images to the model's resolution, channels first",
        )
