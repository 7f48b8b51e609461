"""The search for subnets."""

from __future__ import annotations

from spaceevo.records.base import Record


class FoundSubnet(Record):
    """A subnet that the search chose for one budget.

    Attributes:
        budget_ms: The latency budget.
        encoding: Published string of the subnet.
        predicted_ms: Predicted INT8 latency.
        top1: INT8 (fake-quantized) top-1 on the held-out part of the training data, 0 to 1.
    """

    budget_ms: float
    encoding: str
    predicted_ms: float
    top1: float


class SubnetSearchResult(Record):
    """The chosen subnets and everything that was evaluated on the way.

    Attributes:
        space: Encoding of the search space.
        found: One per budget.
        evaluated: All evaluated subnets, the most accurate first, each under the smallest budget that it meets.
        front: Those that no other one dominates in predicted latency and top-1, the fastest first.
    """

    space: str
    found: tuple[FoundSubnet, ...]
    evaluated: tuple[FoundSubnet, ...]
    front: tuple[FoundSubnet, ...] = ()
