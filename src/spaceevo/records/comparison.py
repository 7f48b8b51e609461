"""Spaces trained with equal effort, side by side."""

from __future__ import annotations

from typing import Literal

from spaceevo.records.base import Record
from spaceevo.records.targets import TargetDescription


class ComparedNetwork(Record):
    """One network that a comparison found or trained.

    Attributes:
        budget_ms: The latency budget.
        encoding: Of the subnet, as of `spaces.encoding`.
        macs: For one image.
        int8_ms: Measured INT8 latency.
        fp32_ms: Measured FP32 latency.
        top1_int8: Fake-quantized, rounded as the target rounds, on validation images, 0 to 1.
        top1_fp32: Likewise in FP32.
    """

    budget_ms: float
    encoding: str
    macs: int
    int8_ms: float
    fp32_ms: float
    top1_int8: float
    top1_fp32: float


class FrontPoint(Record):
    """A subnet of a front, as the supernet left it.

    Attributes:
        encoding: Of the subnet, as of `spaces.encoding`.
        int8_ms: Measured INT8 latency.
        top1_int8: As of a `ComparedNetwork`.
    """

    encoding: str
    int8_ms: float
    top1_int8: float


SpaceKind = Literal["searched", "hand-made", "random", "network"]


class ComparedSpace(Record):
    """A space of a comparison, or networks that are trained alone.

    Attributes:
        name: Short, for tables and plots.
        kind: Where it comes from; "network" for networks that are trained alone.
        encoding: Of the space; empty for networks that are trained alone.
        networks: Per seed what was found, by ascending budget; budgets that the space cannot meet are missing.
        fronts: Per seed, of what its search evaluated, subnets that none beats in latency and top-1, the fastest first.
        hypervolumes: Per seed, area under (INT8 latency in ms, INT8 top-1) of both down to the reference.
        hypervolume_interval: The 95 % interval of their mean; None for one seed.
    """

    name: str
    kind: SpaceKind
    encoding: str
    networks: tuple[tuple[ComparedNetwork, ...], ...]
    fronts: tuple[tuple[FrontPoint, ...], ...]
    hypervolumes: tuple[float, ...]
    hypervolume_interval: tuple[float, float] | None


class Comparison(Record):
    """`comparison.json`: spaces trained with equal effort, and searched under equal latency.

    Attributes:
        target: Where latencies were measured.
        data: The data set.
        num_val_images: That accuracies were taken on.
        budgets_ms: Latency budgets, ascending.
        reference_ms: Latency that hypervolumes reach to.
        reference_top1: And top-1: that of guessing.
        seeds: Each decides the draws of a training and its search.
        spaces: The searched one first.
    """

    target: TargetDescription
    data: str
    num_val_images: int
    budgets_ms: tuple[float, ...]
    reference_ms: float
    reference_top1: float
    seeds: tuple[int, ...]
    spaces: tuple[ComparedSpace, ...]
