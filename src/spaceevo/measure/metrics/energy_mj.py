"""Energy of an inference."""

from __future__ import annotations

from pathlib import Path

from spaceevo.errors import TargetError
from spaceevo.graph.nodes import layers
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.subnet import Subnet, network_program

ABOUT = "Energy of an inference by the device's own counter, all that runs beside it included."
WINDOW_MS = 500.0  # counters advance in steps of about a millisecond
MIN_RUNS = 20


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Energy in mJ, mean over about half a second of inferences in a row.

    Raises:
        TargetError: The device has no energy counter, or it does not advance.
    """
    transport.energy_uj()  # where there is no counter, nothing is loaded
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


def features(subnet: Subnet) -> tuple[float, ...]:
    """A constant, layers, millions of MACs, of parameters and of elements put out."""
    outputs = [layer[-1].out_shape for layer in layers(network_program(subnet)[1:])]
    elements = sum(shape.num_elements for shape in outputs)
    return 1.0, float(len(outputs)), subnet.macs / 1e6, subnet.num_params / 1e6, elements / 1e6
