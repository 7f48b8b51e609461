"""On-device quantization analysis: which operators gain from INT8 on a target (SpaceEvo, Section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from spaceevo import plugins
from spaceevo.errors import UnstableSessionError
from spaceevo.measure.campaign import Precision, Program, measure_programs
from spaceevo.measure.session import Plan, Progress
from spaceevo.measure.store import Store
from spaceevo.records import Measurement, Study, StudyRow, TargetDescription
from spaceevo.spaces.layers import INPUT, Activation, Feature, Tracer, make_divisible
from spaceevo.spaces.operators import operators
from spaceevo.spaces.subnet import BLOCKS, BlockSpec

WIDTHS = (16, 48, 128)
SIZES = (6, 12, 24)
PLAN = Plan(visits=6, runs_per_visit=3)

#: Copies in a chain: enough to swamp what surrounds them, few where one takes long.
_MAX_COPIES = 12
_CHAIN_MACS = 20e6

Declare = Callable[[Tracer, Feature, str], Feature]


def _convolution(kernel_size: int, activation: Activation | None = None) -> Declare:
    return lambda net, x, name: net.conv(name, x, x.channels, kernel_size=kernel_size, activation=activation)


def _depthwise(kernel_size: int) -> Declare:
    return lambda net, x, name: net.depthwise(name, x, kernel_size=kernel_size)


def _squeeze_excite(net: Tracer, x: Feature, name: str) -> Feature:
    return net.squeeze_excite(name, x, make_divisible(x.channels / 4))


def _block(kind: str, expand_ratio: float, activation: Activation) -> Declare:
    def declare(net: Tracer, x: Feature, name: str) -> Feature:
        spec = BlockSpec(x.channels, x.channels, 3, expand_ratio, 1, activation)
        with net.scope(name):
            output: Feature = plugins.load(BLOCKS, kind).declare(spec, x, net)
        return output

    return declare


#: What is studied. Activations are studied as 1x1 convolutions with them; blocks have kernel size 3.
OPERATORS: dict[str, Declare] = {
    "conv1x1": _convolution(1),
    "conv3x3": _convolution(3),
    "conv5x5": _convolution(5),
    "depthwise3x3": _depthwise(3),
    "depthwise5x5": _depthwise(5),
    "se": _squeeze_excite,
    "relu": _convolution(1, "relu"),
    "relu6": _convolution(1, "relu6"),
    "hard_swish": _convolution(1, "hard_swish"),
    "swish": _convolution(1, "swish"),
    "mbv1-dual": _block("mbv1-dual", 0, "relu"),
    "mbv2": _block("mbv2", 4, "relu6"),
    "mbv3": _block("mbv3", 4, "hard_swish"),
    "bottleneck": _block("bottleneck", 1, "relu"),
    "fused-mbconv": _block("fused-mbconv", 2, "swish"),
}


@dataclass(frozen=True, slots=True)
class _Point:
    operator: str
    width: int
    size: int
    copies: int


def study(
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    *,
    widths: Sequence[int] = WIDTHS,
    sizes: Sequence[int] = SIZES,
    plan: Plan = PLAN,
    progress: Progress,
) -> Study:
    """FP32 and INT8 latency of operator types on a target.

    An operator is measured in a chain: a 1x1 convolution to the width, copies of the operator, a global pool.
    The same without copies is measured too, and its latency taken away; what is left, divided by the number
    of copies, is the operator's. So neither the runtime's overhead nor the quantization of the input counts.
    The rows "relu", "relu6", "hard_swish" and "swish" are 1x1 convolutions with that activation, to be
    compared with "conv1x1", which has none: in INT8, relu and relu6 are the clamp of the convolution's output
    and have no latency of their own.

    Args:
        target: Where to measure.
        store: Of measurements; what it has is not measured again.
        work_dir: For model files, which are removed.
        widths: Channels.
        sizes: Heights = widths of feature maps.
        plan: How to measure.
        progress: Called with (steps done, steps).

    Returns:
        A row for each operator type, width and size, and advice that follows from them.

    Raises:
        TargetError: The target cannot be reached.
        UnstableSessionError: A chain was not slower than what surrounds it.
    """
    points = [
        _Point(name, width, size, _copies(name, width, size))
        for name in OPERATORS
        for width in widths
        for size in sizes
    ]
    bare = [_Point(name, width, size, 0) for name in ("conv1x1",) for width in widths for size in sizes]
    precisions: tuple[Precision, ...] = ("int8", "fp32")
    jobs = [(point, precision) for point in (*bare, *points) for precision in precisions]
    measurements = measure_programs(
        target,
        [(f"{point.operator} {point.width}x{point.size}", _chain(point), precision) for point, precision in jobs],
        store,
        work_dir,
        plan,
        progress,
    )
    measured = dict(zip(jobs, measurements, strict=True))
    around = {(point.width, point.size): point for point in bare}
    rows = []
    for point in points:
        reference = around[point.width, point.size]
        fp32_ms, int8_ms = (
            _difference(point, measured[point, precision], measured[reference, precision])
            for precision in ("fp32", "int8")
        )
        rows.append(
            StudyRow(operator=point.operator, width=point.width, size=point.size, fp32_ms=fp32_ms, int8_ms=int8_ms)
        )
    return Study(target=target, rows=tuple(rows), advice=advise(target, rows))


def advise(target: TargetDescription, rows: Sequence[StudyRow]) -> tuple[str, ...]:
    """Sentences that follow from the rows of a study."""
    speedups: dict[str, list[float]] = {}
    for row in rows:
        speedups.setdefault(row.operator, []).append(row.speedup)
    typical = {name: geometric_mean(values) for name, values in speedups.items()}
    ranked = sorted(typical, key=lambda name: -typical[name])
    half = max(1, min(3, len(ranked) // 2))
    advice = [
        f"INT8 gains most in {_listed(ranked[:half], typical)} "
        f"and least in {_listed(ranked[-half:], typical)} "
        "(FP32 over INT8 latency, geometric mean over widths and sizes)."
    ]
    slower = Counter(row.operator for row in rows if row.speedup < 1)
    if slower:
        listed = ", ".join(f"{name} ({count} of {len(speedups[name])})" for name, count in slower.most_common())
        advice.append(f"INT8 is slower than FP32 in {slower.total()} of {len(rows)} rows: {listed}.")
    else:
        advice.append("INT8 is faster than FP32 in every row.")
    advice += _activation_advice(rows)
    narrow, wide = min(row.width for row in rows), max(row.width for row in rows)
    if narrow < wide:
        means = [geometric_mean([r.speedup for r in rows if r.width == width]) for width in (narrow, wide)]
        advice.append(f"The mean speedup is {means[0]:.1f} at width {narrow} and {means[1]:.1f} at width {wide}.")
    return (*advice, _weights_advice(target))


def _activation_advice(rows: Sequence[StudyRow]) -> list[str]:
    """What activations add to a 1x1 convolution in INT8."""
    plain = {(row.width, row.size): row.int8_ms for row in rows if row.operator == "conv1x1"}
    costs = {}
    for name in ("relu", "relu6", "hard_swish", "swish"):
        ratios = [
            row.int8_ms / plain[row.width, row.size]
            for row in rows
            if row.operator == name and (row.width, row.size) in plain
        ]
        if ratios:
            costs[name] = geometric_mean(ratios)
    if not costs:
        return []
    listed = ", ".join(f"{ratio:.2f} with {name}" for name, ratio in costs.items())
    return [f"An INT8 1x1 convolution takes this many times as long with an activation: {listed}."]


def _weights_advice(target: TargetDescription) -> str:
    if target.machine.lower() not in ("x86_64", "amd64", "i386", "i686"):
        return f"Weight codes reach {target.w_qmax}: no intermediate sum saturates on {target.machine}."
    has_vnni = any("vnni" in flag for flag in target.flags)
    why = "has VNNI, which adds products in 32 bit" if has_vnni else "lacks VNNI: larger codes saturate 16-bit sums"
    return f"Weight codes reach {target.w_qmax}: the processor {why}."


def _listed(names: Sequence[str], speedups: dict[str, float]) -> str:
    return ", ".join(f"{name} ({speedups[name]:.1f}x)" for name in names)


def _chain(point: _Point) -> Program:
    net = Tracer()
    x = net.conv("first", Feature(INPUT, 3, point.size), point.width, activation="relu")
    for copy in range(point.copies):
        x = OPERATORS[point.operator](net, x, f"copy{copy}")
    net.pool("pool", x)
    return operators(tuple(net.layers))


def _copies(operator: str, width: int, size: int) -> int:
    macs = sum(op.macs for op in _chain(_Point(operator, width, size, 1)))
    return max(1, min(_MAX_COPIES, int(_CHAIN_MACS / macs)))


def _difference(point: _Point, chain: Measurement, reference: Measurement) -> float:
    """Latency of one copy, in ms; always positive."""
    latency_ms = (chain.latency_ms - reference.latency_ms) / point.copies
    if latency_ms <= 0:
        raise UnstableSessionError(
            f"The latency of {point.operator} (width {point.width}, size {point.size}) was lost in the noise",
            found=f"{point.copies} copies and what surrounds them took {chain.latency_ms:.4f} ms, "
            f"the surroundings alone {reference.latency_ms:.4f} ms",
            remedy="End other programs and measure again",
        )
    return latency_ms
