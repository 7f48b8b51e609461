"""Latency of any network as a constant plus the sum of its blocks, each the sum of its operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.predict.features import features, kernel
from spaceevo.predict.regression import LEAST_SHARE, Block, Settings, Solution, Work, solve
from spaceevo.records import Record, TargetDescription
from spaceevo.spaces.layers import Layer
from spaceevo.spaces.operators import Operator, operators
from spaceevo.spaces.subnet import Subnet, network_layers

FORMAT: Literal["spaceevo latency predictor 2"] = "spaceevo latency predictor 2"
_KERNELS = TypeAdapter(tuple[Operator, ...])


class Prediction(NamedTuple):
    """A predicted latency and how much of it is a guess.

    Attributes:
        latency_ms: Of one inference.
        num_operators: That are executed.
        num_extrapolated: Of these, with features outside what was measured.
    """

    latency_ms: float
    num_operators: int
    num_extrapolated: int


class _File(Record):
    """The predictor as it is written: measurements and settings, from which everything else follows."""

    format: Literal["spaceevo latency predictor 2"]
    target: TargetDescription
    settings: Settings
    kernels: tuple[dict[str, Any], ...]
    blocks: tuple[Block, ...]
    networks: tuple[Block, ...]
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """Predicts latencies; additive over blocks, so that tables of stages add up to networks.

    Attributes:
        target: Where the networks were measured.
        work: The measured networks.
        settings: Of the regression.
    """

    target: TargetDescription
    work: Work
    settings: Settings
    _operators: dict[Operator, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_fit(self) -> int:
        """How many networks were measured."""
        return len(self.work.rows)

    @cached_property
    def solution(self) -> Solution:
        """What follows from the measurements."""
        return solve(self.work, self.settings)

    @property
    def base_ms(self) -> float:
        """Constant per inference."""
        return self.solution.base_ms

    def network_ms(self, subnet: Subnet) -> float:
        """Latency of a whole network, in ms.

        Raises:
            TargetError: It has an operator of a kind that was not measured at all.
        """
        return self.program_ms(operators(network_layers(subnet)))

    def program_ms(self, program: Sequence[Operator]) -> float:
        """Latency of a whole program, in ms: `base_ms` plus `blocks_ms`."""
        return self.base_ms + self.blocks_ms(program)

    def stage_ms(self, layers: tuple[Layer, ...]) -> float:
        """What a stage adds to the latency of a network, in ms.

        Args:
            layers: Of the stage alone (`stage_layers`).
        """
        return self.blocks_ms(operators(layers)[1:])  # without the quantization of the input

    def blocks_ms(self, program: Sequence[Operator]) -> float:
        """What the blocks of a program add to the latency of a network, in ms."""
        total = 0.0
        for block in blocks(program):
            own = sum(map(self.operator_ms, block))
            if self.solution.blocks:
                counts = Counter(kernel(operator) for operator in block if features(operator)[1])
                own = max(own + self.solution.blocks.get(frozenset(counts.items()), 0.0), LEAST_SHARE * own)
            total += own
        return total

    def operator_ms(self, operator: Operator) -> float:
        """What an operator adds to the latency of a network, in ms; 0 only for those that are not executed.

        Raises:
            TargetError: Its kind was not measured at all.
        """
        known = self._operators.get(operator)
        if known is None:
            self.prepare((operator,))
            known = self._operators[operator]
        return known

    def prepare(self, program: Iterable[Operator]) -> None:
        """Predict many operators at once, which is faster; what was predicted is remembered.

        Raises:
            TargetError: One is of a kind that was not measured at all.
        """
        wanted: dict[str, dict[Operator, list[Operator]]] = {}
        for operator in program:
            if operator in self._operators:
                continue
            group, values = features(operator)
            if not values:
                self._operators[operator] = 0.0
                continue
            if group not in self.solution.groups:
                raise TargetError(
                    f"The latency predictor knows nothing about operators {group!r}",
                    found=f"it was fitted on {', '.join(sorted(self.solution.groups))}",
                    remedy="Fit it on networks that have them",
                )
            wanted.setdefault(group, {}).setdefault(kernel(operator), []).append(operator)
        for group, kernels in wanted.items():
            for own, ms in zip(kernels.values(), self.solution.kernel_ms(list(kernels), group).tolist(), strict=True):
                self._operators.update(dict.fromkeys(own, ms))

    def predict(self, program: Sequence[Operator]) -> Prediction:
        """The latency of a whole program, and how much of it was extrapolated."""
        num_operators = sum(bool(features(operator)[1]) for operator in program)
        return Prediction(self.program_ms(program), num_operators, self.num_extrapolated(program))

    def num_extrapolated(self, program: Sequence[Operator]) -> int:
        """How many operators of a program lie outside what was measured."""
        return sum(map(self._is_outside, program))

    def to_json(self) -> str:
        """The predictor as text: the measurements and the settings."""
        return _File(
            format=FORMAT,
            target=self.target,
            settings=self.settings,
            kernels=_KERNELS.dump_python(self.work.kernels, mode="json"),
            blocks=self.work.blocks,
            networks=self.work.rows,
            latencies_ms=tuple(self.work.latencies.tolist()),
        ).model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> LatencyPredictor:
        """The predictor that `to_json` wrote.

        Raises:
            ArtifactError: The text is damaged or of another format.
        """
        try:
            file = _File.model_validate_json(text)
            kernels = _KERNELS.validate_python(file.kernels)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                "This is not a latency predictor of this version of spaceevo",
                found=f"{where}: {first['msg']}" if where else first["msg"],
                remedy="Fit it again",
            ) from error
        _check(file, len(kernels))
        return cls(file.target, Work(kernels, file.blocks, file.networks, np.array(file.latencies_ms)), file.settings)

    def _is_outside(self, operator: Operator) -> bool:
        group, values = features(operator)
        if not values:
            return False
        known = self.solution.groups.get(group)
        return known is None or bool(((values < known.low) | (values > known.high)).any())


def blocks(program: Sequence[Operator]) -> Iterable[tuple[Operator, ...]]:
    """The operators of each block in turn; what belongs to no block stands alone."""

    def block(operator: Operator) -> str:
        return operator.name.rsplit("/", operator.name.count("/") - 1)[0] if operator.name.count("/") > 1 else ""

    for name, own in groupby(program, block):
        if name:
            yield tuple(own)
        else:
            yield from ((operator,) for operator in own)


def work_of(programs: Sequence[Sequence[Operator]], latencies: np.ndarray) -> Work:
    """Measured programs as rows of blocks of kernels."""
    kernels: dict[Operator, int] = {}
    numbers: dict[Block, int] = {}
    rows = []
    for program in programs:
        row: Counter[int] = Counter()
        for own in blocks(program):
            executed = [kernel(operator) for operator in own if features(operator)[1]]
            if executed:
                counts = Counter(kernels.setdefault(one, len(kernels)) for one in executed)
                row[numbers.setdefault(tuple(sorted(counts.items())), len(numbers))] += 1
        rows.append(tuple(sorted(row.items())))
    return Work(tuple(kernels), tuple(numbers), tuple(rows), latencies)


def _check(file: _File, num_kernels: int) -> None:
    inside = (
        len(file.networks) == len(file.latencies_ms) > 0
        and all(latency > 0 for latency in file.latencies_ms)
        and all(0 <= index < num_kernels for block in file.blocks for index, _ in block)
        and all(0 <= index < len(file.blocks) for network in file.networks for index, _ in network)
    )
    if not inside:
        raise ArtifactError(
            "This is not a latency predictor of this version of spaceevo",
            found="its parts do not fit together",
            remedy="Fit it again",
        )
