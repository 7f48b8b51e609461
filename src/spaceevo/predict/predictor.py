"""Latency of any network as a constant plus the sum of its operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.predict.features import features
from spaceevo.records import Record, TargetDescription
from spaceevo.spaces.layers import Layer
from spaceevo.spaces.operators import Operator, operators
from spaceevo.spaces.subnet import Subnet, network_layers

FORMAT: Literal["spaceevo latency predictor 1"] = "spaceevo latency predictor 1"


class GroupFit(Record):
    """What was learnt about one group of operators.

    Attributes:
        ms_per_unit: One coefficient per feature, >= 0.
        low: Smallest value of each feature that was measured.
        high: Largest.
    """

    ms_per_unit: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class _File(Record):
    """The predictor as it is written."""

    format: Literal["spaceevo latency predictor 1"]
    target: TargetDescription
    num_fit: int
    base_ms: float
    groups: dict[str, GroupFit]


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """Predicts INT8 latencies; additive over operators, so that tables of stages add up to networks.

    Attributes:
        target: Where the networks were measured.
        num_fit: How many networks were measured.
        base_ms: Constant per inference.
        groups: What was learnt, by group of operators (`features`).
    """

    target: TargetDescription
    num_fit: int
    base_ms: float
    groups: Mapping[str, GroupFit]
    _cache: dict[Operator, float] = field(default_factory=dict, init=False, repr=False)

    def network_ms(self, subnet: Subnet) -> float:
        """Latency of a whole network, in ms.

        Raises:
            TargetError: It has an operator of a kind that was not measured at all.
        """
        return self.program_ms(operators(network_layers(subnet)))

    def program_ms(self, program: Sequence[Operator]) -> float:
        """Latency of a whole program, in ms: `base_ms` plus `operator_ms` of every operator."""
        return self.base_ms + sum(map(self.operator_ms, program))

    def stage_ms(self, layers: tuple[Layer, ...]) -> float:
        """What a stage adds to the latency of a network, in ms.

        Args:
            layers: Of the stage alone (`stage_layers`).
        """
        return sum(map(self.operator_ms, operators(layers)[1:]))  # without the quantization of the input

    def operator_ms(self, operator: Operator) -> float:
        """What an operator adds to the latency of a network, in ms; 0 only for those that are not executed.

        Raises:
            TargetError: Its kind was not measured at all.
        """
        known = self._cache.get(operator)
        if known is None:
            known = self._cache[operator] = self._operator_ms(operator)
        return known

    def num_extrapolated(self, program: Sequence[Operator]) -> int:
        """How many operators of a program lie outside what was measured."""
        return sum(map(self._is_outside, program))

    def to_json(self) -> str:
        """The predictor as text."""
        return _File(
            format=FORMAT,
            target=self.target,
            num_fit=self.num_fit,
            base_ms=self.base_ms,
            groups=dict(self.groups),
        ).model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyPredictor:
        """The predictor that `to_json` wrote.

        Raises:
            ArtifactError: The text is damaged or of another format.
        """
        try:
            file = _File.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                "This is not a latency predictor of this version of spaceevo",
                found=f"{where}: {first['msg']}" if where else first["msg"],
                remedy="Fit it again",
            ) from error
        return cls(file.target, file.num_fit, file.base_ms, file.groups)

    def _operator_ms(self, operator: Operator) -> float:
        group, values = features(operator)
        if not values:
            return 0.0
        fit = self.groups.get(group)
        if fit is None:
            raise TargetError(
                f"The latency predictor knows nothing about operators {group!r}",
                found=f"it was fitted on {', '.join(sorted(self.groups))}",
                remedy="Fit it on networks that have them",
            )
        return sum(a * b for a, b in zip(fit.ms_per_unit, values, strict=True))

    def _is_outside(self, operator: Operator) -> bool:
        group, values = features(operator)
        if not values:
            return False
        fit = self.groups.get(group)
        return fit is None or any(
            not low <= value <= high for low, value, high in zip(fit.low, values, fit.high, strict=True)
        )
