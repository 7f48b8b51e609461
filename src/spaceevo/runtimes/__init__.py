"""What executes an architecture: one file per runtime.

A runtime is a module, without torch, with

    SUFFIX: str                                      suffix of its files, for example ".onnx"
    ARITHMETIC: Arithmetic                           where its integer results differ from the contract's
    KINDS: frozenset[str]                            kinds of operators that its files have a form for
    version() -> str                                 version of the runtime
    w_qmax(profile) -> int                           largest weight code that is exact on such a processor
    export_int8(graph: IntegerGraph, path, metadata) write the INT8 model; nothing is calibrated again
    export_fp32(graph: FloatGraph, path, metadata)   write its FP32 twin in the form that is fastest there
    metadata(path) -> {key: text}                    what `export_*` was given, and the versions
    constants(path) -> {name: array}                 every scale, zero point, code and bias that a file holds
    float_operators(path) -> tuple[str, ...]         what the runtime would still compute in float
    Session(path, threads=1, taps=())                .run(images) -> logits, .time(repeats) -> [ms],
                                                     .codes(images) -> {tap: codes} of the tensors named by `taps`
    profile(path, repeats, threads=1) -> {operator: ms}

Exports are atomic: a file that exists is complete. A file that cannot be loaded is an `ArtifactError`; a runtime that
is not installed is a `TargetError`.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from spaceevo.errors import DataError, ExportError, TargetError
from spaceevo.spaces.operators import Operator

SATURATION_FREE_CODE = 63  # 2 * 255 * 63 < 2**15


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of processor, as far as it matters for INT8.

    Attributes:
        name: Recorded in exported files.
        about: For people.
        machines: Architectures, in lower case; empty for any.
        flags: The processor has one of these; empty for any.
        pair_sums_saturate: Whether its fastest u8 x s8 instruction adds two products in saturating 16 bit: exact
            only while weight codes stay within `SATURATION_FREE_CODE`.
    """

    name: str
    about: str
    machines: frozenset[str]
    flags: frozenset[str]
    pair_sums_saturate: bool


_X86 = frozenset({"x86_64", "amd64", "x86", "i686"})
_ARM = frozenset({"aarch64", "arm64"})
#: The first that fits a processor is its profile.
PROFILES = (
    Profile("x86-vnni", "x86 with VNNI", _X86, frozenset({"avx512_vnni", "avx_vnni", "avx512vnni"}), False),
    Profile("x86-avx2", "x86 without VNNI", _X86, frozenset(), True),
    Profile("arm-dotprod", "ARM with dot products", _ARM, frozenset({"asimddp"}), False),
    Profile("arm", "ARM without dot products", _ARM, frozenset(), False),
    Profile("other", "another processor", frozenset(), frozenset(), False),
)


def profile_of(machine: str, flags: Collection[str]) -> Profile:
    """The profile of a processor.

    Args:
        machine: Architecture, for example "x86_64" or "aarch64".
        flags: What it names as its flags.

    >>> profile_of("x86_64", ["avx2"]).name, profile_of("aarch64", ["asimddp"]).name
    ('x86-avx2', 'arm-dotprod')
    """
    return next(
        profile
        for profile in PROFILES
        if (not profile.machines or machine.lower() in profile.machines)
        and (not profile.flags or not profile.flags.isdisjoint(flags))
    )


@cache
def this_profile() -> Profile:
    """The profile of the processor that this process runs on; without Linux's list of flags the most careful one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()[1:]}
    return profile_of(platform.machine(), flags)


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


def check_operators(operators: Iterable[Operator], kinds: Collection[str], runtime: str) -> None:
    """Refuse a network that a runtime's files have no form for.

    Args:
        operators: Of the network.
        kinds: That the files have.
        runtime: For people.

    Raises:
        ExportError: An operator is of another kind, or leaves its output in float, as the published placement does.
    """
    for operator in operators:
        if operator.kind not in kinds:
            raise ExportError(
                f"{runtime} has no form for the operator {operator.name}",
                found=f"Its kind is {operator.kind!r}; there are {', '.join(sorted(kinds))}",
                remedy="Take a hyperspace whose blocks do without it, or another runtime",
            )
        if operator.stays_float or operator.quantizer == "offset":
            raise ExportError(
                f"The operator {operator.name} is not quantized as devices compute",
                found="It has the published placement: quantizers in front of convolutions, all else in float",
                remedy="Quantize its FP32 weights with: spaceevo quantize",
            )


def check_images(images: np.ndarray, shape: Sequence[int]) -> None:
    """Refuse images that a model does not take.

    Args:
        images: [N, 3, S, S].
        shape: The model's input, [1, 3, S, S].

    Raises:
        DataError: Another size, or not four dimensions.
    """
    if images.ndim != 4 or images.shape[1:] != tuple(shape[1:]):
        raise DataError(
            f"The model takes images of the shape {list(shape[1:])}",
            found=f"an array of the shape {list(images.shape)}",
            remedy="Resize the images to the model's resolution, channels first",
        )
