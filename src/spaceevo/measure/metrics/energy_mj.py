"""Energy of an inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spaceevo.errors import TargetError
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.operators import Operator

ABOUT = "Energy of an inference by the device's own counter, all that runs beside it included."
DEVICE = True
WINDOW_MS = 500.0  # counters advance in steps of about a millisecond
MIN_RUNS = 20


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Energy in mJ, mean over about half a second of inferences in a row.

    Raises:
        TargetError: The device has no energy counter, or it does not advance.
    """
    before = transport.energy_uj()  # first of all: where there is none, nothing is loaded
    model = transport.load(target.runtime, path, target.threads, target.cores)
    try:
        num_runs = max(MIN_RUNS, round(WINDOW_MS / latency_ms))
        model.time(MIN_RUNS)
        before = transport.energy_uj()
        model.time(num_runs)
        used = transport.energy_uj() - before
    finally:
        model.close()
    if used <= 0:
        raise TargetError(
            f"The energy counter of {target.name} does not advance",
            found=f"{used:g} microjoules over {num_runs} inferences",
            remedy="Leave energy_mj out for this target",
        )
    return used / num_runs / 1e3


def features(program: Sequence[Operator]) -> tuple[float, ...]:
    """A constant, operators, millions of MACs, weights and elements put out."""
    return (
        1.0,
        float(len(program)),
        sum(operator.macs for operator in program) / 1e6,
        sum(operator.num_weights for operator in program if operator.has_weights) / 1e6,
        sum(operator.out_channels * operator.out_size**2 for operator in program) / 1e6,
    )
