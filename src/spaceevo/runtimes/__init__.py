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
    Session(path, threads=1, taps=())                of such a file: .run(images) -> logits,
                                                     .codes(images) -> {tap: codes} of the tensors named by `taps`

and, for any model that the runtime reads, spaceevo's own or not,

    open_model(path) -> Model                        its files and inputs (see `_models`); refuses what cannot be timed
    load(path, threads=1)                            .time(repeats) -> [ms]
    explain(message, version) -> (found, remedy)     what the runtime's words for refusing a model mean
    profile(path, repeats, threads=1) -> {operator: ms}
    LAYOUT: str                                      optional: "NHWC" where its files read images so; else NCHW

and, where other machines are to run its files,

    ON_DEVICE: Path                                  a stand-alone file that loads and times them (see `_on_device`)
    operator_times(nodes) -> {operator: ms}          optional: of the nodes that its `profile` gives, where it has one
    on_device_options(path, profile) -> {name: value}  optional: of its `load`, for a kind of processor
    BENCHMARK: ModuleType                            optional: a program that times them where there is no Python; has
                                                     what `_benchmark_model` has

Exports are atomic: a file that exists is complete. A file that cannot be loaded is an `ArtifactError`; a runtime that
is not installed is a `TargetError`.
"""

from __future__ import annotations

import importlib
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from spaceevo.errors import DataError, ExportError, TargetError
from spaceevo.spaces.operators import Operator

RUNTIMES = __name__  # the folder of plug-ins

Node = tuple[str, str, str, float]  # name, type, layers, ms: what runtimes count (see `_on_device`)
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


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What Linux tells of a processor.

    Attributes:
        model: The first of its names, or its board's; "" where nothing is told.
        flags: Every flag of the first core.
        cores: Numbers of the logical cores that are on; gaps are usual. Empty where none is told.
    """

    model: str
    flags: frozenset[str]
    cores: frozenset[int]


#: Names of cores, as /proc/cpuinfo numbers implementers and parts.
_PARTS = {
    "0x41": {
        "0xc05": "Cortex-A5", "0xc07": "Cortex-A7", "0xc08": "Cortex-A8", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15",
        "0xd01": "Cortex-A32", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1",
        "0xd41": "Cortex-A78", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
        "0xd48": "Cortex-X2", "0xd49": "Neoverse-N2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3",
        "0xd4f": "Neoverse-V2", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
    },
    "0x51": {
        "0x802": "Kryo-3xx-Gold", "0x803": "Kryo-3xx-Silver", "0x804": "Kryo-4xx-Gold", "0x805": "Kryo-4xx-Silver",
    },
}  # fmt: skip


def parse_cpuinfo(text: str) -> CpuInfo:
    """The processor that a text of the form of /proc/cpuinfo describes.

    >>> parse_cpuinfo("processor : 4\\nmodel name : Fast 1\\nflags : avx2\\n")
    CpuInfo(model='Fast 1', flags=frozenset({'avx2'}), cores=frozenset({4}))
    """
    fields: dict[str, str] = {}
    parts: Counter[str] = Counter()
    cores: set[int] = set()
    implementer = ""
    for line in text.splitlines():
        key, separator, value = (part.strip() for part in line.partition(":"))
        if not separator:
            continue
        fields.setdefault(key, value)  # of the first core
        if key == "processor" and value.isdecimal():
            cores.add(int(value))
        implementer = value if key == "CPU implementer" else implementer
        if key == "CPU part":
            parts[_PARTS.get(implementer.lower(), {}).get(value.lower(), f"{implementer} {value}".strip())] += 1
    flags = fields.get("flags") or fields.get("Features", "")  # x86, Arm
    names = [
        fields.get("model name") or fields.get("Hardware") or ("" if "flags" in fields else fields.get("Model", ""))
    ]
    names += [" + ".join(f"{number} x {name}" for name, number in parts.items())]
    return CpuInfo(", ".join(filter(None, names)), frozenset(flags.split()), frozenset(cores))


def this_cpuinfo() -> str:
    """The text that Linux describes this machine's processor with; "" elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def this_profile() -> Profile:
    """The profile of the processor that this process runs on; without Linux's list of flags the most careful one."""
    return profile_of(platform.machine(), parse_cpuinfo(this_cpuinfo()).flags)


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


def check_operators(
    operators: Iterable[Operator], kinds: Collection[str], runtime: str, *, quantized: bool = True
) -> None:
    """Refuse a network that a runtime's files have no form for.

    Args:
        operators: Of the network.
        kinds: That the files have.
        runtime: For people.
        quantized: Whether the file is to compute on codes.

    Raises:
        ExportError: An operator is of another kind; or, where quantized, leaves its output in float, as the published
            placement does.
    """
    for operator in operators:
        if operator.kind not in kinds:
            raise ExportError(
                f"{runtime} has no form for the operator {operator.name}",
                found=f"Its kind is {operator.kind!r}; there are {', '.join(sorted(kinds))}",
                remedy="Take a hyperspace whose blocks do without it, or another runtime",
            )
        if quantized and (operator.stays_float or operator.quantizer == "offset"):
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
