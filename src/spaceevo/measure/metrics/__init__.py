"""One file per metric: what an inference costs beside its latency. The file's name ends in the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from spaceevo.measure.transports import Transport
from spaceevo.plugins import Registry
from spaceevo.records import TargetDescription
from spaceevo.spaces.subnet import Subnet


class MeasureMetric(Protocol):
    """Measures a metric of a model file."""

    def __call__(self, transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
        """The value, in the unit that the metric's name ends in.

        Args:
            transport: Reaches the target.
            target: Where to measure.
            path: The file.
            latency_ms: Its latency, which need not be exact.

        Raises:
            TargetError: The device cannot tell; it is never a number that was not measured.
        """
        ...


class Metric(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.measure.metrics`.

    Attributes:
        ABOUT: For people, one sentence.
    """

    ABOUT: str

    @property
    def measure(self) -> MeasureMetric | None:
        """Where the device decides the metric, what measures it: the coefficients are fitted to that.

        None where the architecture alone does: they are 1, and FP32 takes four times as much.
        """
        ...

    def features(self, subnet: Subnet) -> tuple[float, ...]:
        """A value is a sum of these, each times a coefficient >= 0."""
        ...


METRICS = Registry("spaceevo.measure.metrics", Metric)
