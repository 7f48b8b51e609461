"""LiteRT's own benchmark program, for devices without Python: its command line, and how its output reads.

The program is `benchmark_model` of TensorFlow Lite; it prints statistics, in whole microseconds, and no single times:

    count=50 first=249042 curr=250889 min=247067 max=254474 avg=249684 std=1442
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

PROGRAM = "benchmark_model"
WARM_UP = 5
HOW_TO_GET = (
    "Build it (bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:benchmark_model) or download"
    " a nightly build of it"
)
_MAX_SECONDS = 600
_STATISTICS = re.compile(r"\bcount=(\d+)((?: \w+=[-+.\w]+)+)")
_PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([\d.e+]+)")
#: A row of its profile: kind, first and mean milliseconds of a call, two shares, memory, calls in an inference, name.
_KERNEL = re.compile(
    r"\s*(?P<kind>\S.*?)\s+[\d.]+\s+(?P<ms>[\d.]+)\s+[\d.]+%\s+[\d.]+%\s+[-\d.]+\s+(?P<calls>\d+)\s+\S.*"
)
_DELEGATE = "TfLiteXNNPackDelegate"  # the sum of its kernels
#: What the program says where the kernels are not the ones of LiteRT on the other devices.
_NOT_DELEGATED = re.compile(r"[^\n]*XNNPACK[^\n]*will (?:not be|be partially) executed by the delegate[^\n]*")


def command(
    program: str, model: str, repeats: int, threads: int, *, memory: bool = False, profile: bool = False
) -> list[str]:
    """The command that times a model.

    Args:
        program: Its path on the device.
        model: Path of the model there.
        repeats: Inferences that count.
        threads: Threads within an operator.
        memory: Watch the memory too, which may disturb the times.
        profile: Count the time of every kernel, which disturbs them.
    """
    words = [program, f"--graph={model}", f"--num_threads={threads}", "--use_xnnpack=true", f"--num_runs={repeats}"]
    words += ["--min_secs=0", f"--max_secs={_MAX_SECONDS}", f"--warmup_runs={WARM_UP}", "--warmup_min_secs=0"]
    words += ["--report_peak_memory_footprint=true"] if memory else []
    return [*words, "--enable_op_profiling=true"] if profile else words


def samples_ms(output: str, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` inferences, as far as the statistics tell them.

    Number, first, last, fastest, slowest and sum are the program's; up to three inferences are told by them fully.
    Of more, the others stand at their mean.

    Raises:
        ValueError: The output has no such statistics, or they contradict each other; it tells which.
    """
    found = [_statistics(match) for match in _STATISTICS.finditer(output)]
    if not found or "Inference timings in us" not in output:
        raise ValueError("no statistics of inferences")
    told = found[-1]  # after those of the warm-up
    count, last = int(told["count"]), told["curr"]
    if count != repeats:
        raise ValueError(f"{count} inferences instead of {repeats}")
    first, low, high, mean = (
        told.get(key, last) for key in ("first", "min", "max", "avg")
    )  # equal ones have `curr` only
    if not 0 < low <= min(first, last, mean * 1.00001) <= max(first, last, mean / 1.00001) <= high:
        raise ValueError(f"times that contradict each other: {told}")
    known = [first, last][:count]
    known += [extreme for extreme in (low, high) if extreme not in known and len(known) < count]
    rest = count - len(known)
    if rest:  # the mean has six digits
        known[1:1] = [min(high, max(low, (mean * count - sum(known)) / rest))] * rest
    return [microseconds / 1e3 for microseconds in known]


def peak_memory_mib(output: str) -> float:
    """Largest resident memory of the program, in MiB.

    Raises:
        ValueError: The output does not tell it.
    """
    match = _PEAK.search(output)
    if not match or not float(match[1]) > 0:
        raise ValueError("no peak memory: this build of the program cannot watch it")
    return float(match[1])


def operator_times(output: str) -> dict[str, float]:
    """Milliseconds per kind of kernel: XNNPACK numbers its kernels, and does not tell which operators they are of.

    Returns:
        By "~" and the kind, for example "~Convolution (NHWC, QC8) IGEMM".

    Raises:
        ValueError: The output does not tell them.
    """
    _, _, told = output.partition("Operator-wise Profiling Info for Regular Benchmark Runs")
    times: dict[str, float] = {}
    for table in told.split(" Run Order ")[1:]:  # of the graph, and of what a delegate made of it
        for line in table.partition("\n=")[0].splitlines():
            match = _KERNEL.fullmatch(line)
            if match and match["kind"] != _DELEGATE:
                kind = f"~{match['kind']}"
                times[kind] = times.get(kind, 0.0) + float(match["ms"]) * int(match["calls"])
    if not times:
        raise ValueError("no times of kernels: this build of the program cannot count them")
    return times


def complaints(output: str) -> Iterator[str]:
    """What the program complains about: errors, and operators that XNNPACK does not compute."""
    for line in output.splitlines():
        if line.startswith(("ERROR:", "E tflite", "Failed to", "Benchmarking failed")) or _NOT_DELEGATED.search(line):
            yield line.strip()


def delegated(output: str) -> bool:
    """Whether XNNPACK computes the whole model, as on other devices; where nothing is said it does."""
    return not _NOT_DELEGATED.search(output)


def _statistics(match: re.Match[str]) -> dict[str, float]:
    words: Sequence[str] = match[2].split()
    told = dict(word.split("=", 1) for word in words)
    return {"count": float(match[1]), **{key: float(re.sub(r"[^\d.e+-].*", "", value)) for key, value in told.items()}}
