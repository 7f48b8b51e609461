"""On-device quantization analysis: which operators gain from INT8 on a target (SpaceEvo, Section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import geometric_mean

from spaceevo.errors import UnstableSessionError
from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Activation, Feature, Tracer
from spaceevo.measure.campaign import Precision, measure_programs
from spaceevo.measure.session import Plan, Progress
from spaceevo.measure.store import Store
from spaceevo.records import Measurement, Study, StudyRow, TargetDescription
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.choices import make_divisible
from spaceevo.spaces.hyperspace import Hyperspace

WIDTHS = (16, 48, 128)
SIZES = (6, 12, 24)
CONV_WIDTHS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256)
#: Multiples that widths may better have, and how much less time per MAC makes them better.
_MULTIPLES = (64, 32, 16, 8)
_BETTER = 0.9
_MIN_RATIOS = 2
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


def _block(kind: str, kernel_sizes: tuple[int, ...], expand_ratio: float, activation: Activation) -> Declare:
    def declare(net: Tracer, x: Feature, name: str) -> Feature:
        spec = BlockSpec(x.channels, x.channels, kernel_sizes, expand_ratio, 1, activation)
        with net.scope(name):
            return BLOCKS.load(kind).declare(spec, x, net)

    return declare


#: Operator types that are studied on every target. Activations are studied as 1x1 convolutions with them.
OPERATORS: dict[str, Declare] = {
    "conv1x1": _convolution(1),
    "conv3x3": _convolution(3),
    "conv5x5": _convolution(5),
    "depthwise3x3": _depthwise(3),
    "depthwise5x5": _depthwise(5),
    "depthwise7x7": _depthwise(7),
    "se": _squeeze_excite,
    "relu": _convolution(1, "relu"),
    "relu6": _convolution(1, "relu6"),
    "hard_swish": _convolution(1, "hard_swish"),
    "swish": _convolution(1, "swish"),
}


def block_types(hyperspace: Hyperspace) -> dict[str, Declare]:
    """The block types of a hyperspace, each at kernel size 3 (or its smallest) and its middle expand ratio."""
    declared: dict[str, Declare] = {}
    for choice in (choice for stage in hyperspace.searched for choice in stage.choices):
        kind, activation = choice.block_type.kind, choice.block_type.activation
        kernel_size = 3 if 3 in choice.kernel_sizes else choice.kernel_sizes[0]
        ratio = choice.expand_ratios[len(choice.expand_ratios) // 2]
        kernel_sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size,)
        declared.setdefault(str(choice.block_type), _block(kind, kernel_sizes, ratio, activation))
    return declared


@dataclass(frozen=True, slots=True)
class _Point:
    operator: str
    width: int
    size: int
    copies: int
    declare: Declare = field(compare=False)


def study(
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    *,
    hyperspace: Hyperspace,
    conv_widths: Sequence[int] = CONV_WIDTHS,
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
        hyperspace: Its block types are studied too.
        conv_widths: Further channels of 1x1 convolutions, at the middle size.
        widths: Channels of the studied operators.
        sizes: Heights = widths of feature maps.
        plan: How to measure.
        progress: Called with (steps done, steps).

    Returns:
        A row for each operator type, width and size, and advice that follows from them.

    Raises:
        TargetError: The target cannot be reached.
        UnstableSessionError: A chain was not slower than what surrounds it.
    """
    blocks, cells = _cells(hyperspace, conv_widths, widths, sizes)
    points = [_with_copies(_Point(*cell, 1, (OPERATORS | blocks)[cell[0]])) for cell in cells]
    bare = [replace(point, copies=0) for point in points if point.operator == "conv1x1"]
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
    return Study(target=target, rows=tuple(rows), advice=advise(target, rows, tuple(blocks), hyperspace.name))


def num_chains(hyperspace: Hyperspace, conv_widths: Sequence[int], widths: Sequence[int], sizes: Sequence[int]) -> int:
    """How many chains `study` measures, each in INT8 and in FP32."""
    _, cells = _cells(hyperspace, conv_widths, widths, sizes)
    return 2 * sum(2 if name == "conv1x1" else 1 for name, *_ in cells)


def _cells(
    hyperspace: Hyperspace, conv_widths: Sequence[int], widths: Sequence[int], sizes: Sequence[int]
) -> tuple[dict[str, Declare], list[tuple[str, int, int]]]:
    """Block types of a hyperspace, and (operator type, width, size) of what is studied."""
    blocks = block_types(hyperspace)
    cells = [(name, width, size) for name in (*OPERATORS, *blocks) for width in widths for size in sizes]
    middle = sorted(sizes)[len(sizes) // 2]
    cells += [("conv1x1", width, middle) for width in sorted(set(conv_widths) - set(widths))]
    return blocks, cells


def advise(
    target: TargetDescription, rows: Sequence[StudyRow], blocks: Sequence[str] = (), hyperspace: str = ""
) -> tuple[str, ...]:
    """Sentences that follow from the rows of a study.

    Args:
        target: Where they were measured.
        rows: Of operator types and of block types.
        blocks: Names of the block types.
        hyperspace: Whose block types they are.
    """
    speedups: dict[str, list[float]] = {}
    for row in rows:
        speedups.setdefault(row.operator, []).append(row.speedup)
    typical = {name: geometric_mean(values) for name, values in speedups.items()}
    most, least = _extremes([name for name in typical if name not in blocks] or list(typical), typical)
    advice = [
        f"INT8 gains most in {most} and least in {least} "
        "(FP32 over INT8 latency, geometric mean over widths and sizes)."
    ]
    if len(blocks) > 1:
        most, least = _extremes(blocks, typical)
        advice.append(
            f"Of the block types of {hyperspace}, INT8 gains most in {most} and least in {least}: of two networks of "
            "equal FP32 latency, the one of the former is the faster in INT8."
        )
    slower = Counter(row.operator for row in rows if row.speedup < 1)
    if slower:
        listed = ", ".join(f"{name} ({count} of {len(speedups[name])})" for name, count in slower.most_common())
        advice.append(f"INT8 is slower than FP32 in {slower.total()} of {len(rows)} rows: {listed}.")
    else:
        advice.append("INT8 is faster than FP32 in every row.")
    advice += _activation_advice(rows)
    return (*advice, *_width_advice(rows), _weights_advice(target))


def _extremes(names: Sequence[str], speedups: dict[str, float]) -> tuple[str, str]:
    ranked = sorted(names, key=lambda name: -speedups[name])
    half = max(1, min(3, len(ranked) // 2))
    return _listed(ranked[:half], speedups), _listed(ranked[-half:], speedups)


def _width_advice(rows: Sequence[StudyRow]) -> list[str]:
    """How 1x1 convolutions depend on the width, at the size of which most widths were measured."""
    own = [row for row in rows if row.operator == "conv1x1"]
    if len({row.width for row in own}) < 2:
        return []
    size = Counter(row.size for row in own).most_common(1)[0][0]
    by_width = {row.width: row for row in own if row.size == size}
    narrow, wide = min(by_width), max(by_width)
    advice = [
        f"The speedup of a 1x1 convolution is {by_width[narrow].speedup:.1f} at {narrow} channels and "
        f"{by_width[wide].speedup:.1f} at {wide}."
    ]
    for multiple in _MULTIPLES:
        # A width against its neighbours, so that overheads, which weigh more on narrow layers, do not count
        ratios = []
        widths = sorted(by_width)
        for below, width, above in zip(widths, widths[1:], widths[2:], strict=False):
            if width % multiple == 0 and below % multiple and above % multiple:
                per_mac = [by_width[one].int8_ms / one**2 for one in (below, width, above)]
                ratios.append(per_mac[1] / geometric_mean([per_mac[0], per_mac[2]]))
        if len(ratios) >= _MIN_RATIOS and (ratio := geometric_mean(ratios)) < _BETTER:
            advice.append(
                f"Widths that are multiples of {multiple} pay: in INT8 they take {ratio:.2f} of the time per MAC of "
                "the widths beside them."
            )
            break
    return advice


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
    net = Tracer(square(3, point.size))
    x = net.conv("first", net.input, point.width, activation="relu")
    for copy in range(point.copies):
        x = point.declare(net, x, f"copy{copy}")
    net.pool("pool", x)
    return net.program


def _with_copies(point: _Point) -> _Point:
    macs = sum(node.macs for node in _chain(point))
    return replace(point, copies=max(1, min(_MAX_COPIES, int(_CHAIN_MACS / macs))))


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
