"""Latency of any network as a constant plus the sum of its blocks, each the sum of its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.graph.identity import canonical, op_from_json
from spaceevo.graph.nodes import Node, Program, blocks
from spaceevo.graph.tensors import Shape, Tensor
from spaceevo.predict.features import Kernel, features, kernel
from spaceevo.predict.regression import LEAST_SHARE, Block, Settings, Solution, Work, solve
from spaceevo.records import Record, TargetDescription
from spaceevo.spaces.subnet import Subnet, network_program

FORMAT: Literal["spaceevo latency predictor 3"] = "spaceevo latency predictor 3"
_SHAPES = TypeAdapter(tuple[Shape, Tensor])


class Prediction(NamedTuple):
    """A predicted latency and how much of it is a guess.

    Attributes:
        latency_ms: Of one inference.
        num_operators: Operators that are executed.
        num_extrapolated: Of these, with features outside what was measured.
    """

    latency_ms: float
    num_operators: int
    num_extrapolated: int


class _File(Record):
    """The predictor as it is written: measurements and settings, from which everything else follows."""

    format: Literal["spaceevo latency predictor 3"]
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
    _known_ms: dict[Kernel, float] = field(default_factory=dict, init=False, repr=False)

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
            TargetError: It has a kernel of a group that was not measured at all.
        """
        return self.program_ms(network_program(subnet))

    def program_ms(self, program: Sequence[Node]) -> float:
        """Latency of a whole program, in ms: `base_ms` plus `blocks_ms`."""
        return self.base_ms + self.blocks_ms(program)

    def stage_ms(self, program: Program) -> float:
        """What a stage adds to the latency of a network, in ms.

        Args:
            program: Of the stage alone (`stage_program`).
        """
        return self.blocks_ms(program[1:])  # without the quantization of the input

    def blocks_ms(self, program: Sequence[Node]) -> float:
        """What the blocks of a program add to the latency of a network, in ms."""
        total = 0.0
        for block in blocks(program):
            kernels = [kernel(node) for node in block]
            ms = sum(map(self.kernel_ms, kernels))
            if self.solution.blocks:
                counts = Counter(one for one in kernels if features(one)[1])
                ms = max(ms + self.solution.blocks.get(frozenset(counts.items()), 0.0), LEAST_SHARE * ms)
            total += ms
        return total

    def kernel_ms(self, kernel: Kernel) -> float:
        """What a kernel adds to the latency of a network, in ms; 0 only for those that are not executed.

        Raises:
            TargetError: Its group was not measured at all.
        """
        known = self._known_ms.get(kernel)
        if known is None:
            self._predict([kernel])
            known = self._known_ms[kernel]
        return known

    def prepare(self, program: Iterable[Node]) -> None:
        """Predict many nodes at once, which is faster; what was predicted is remembered.

        Raises:
            TargetError: One is of a group that was not measured at all.
        """
        self._predict(map(kernel, program))

    def predict(self, program: Sequence[Node]) -> Prediction:
        """The latency of a whole program, and how much of it was extrapolated."""
        num_operators = sum(bool(features(kernel(node))[1]) for node in program)
        return Prediction(self.program_ms(program), num_operators, self.num_extrapolated(program))

    def num_extrapolated(self, program: Sequence[Node]) -> int:
        """How many operators of a program lie outside what was measured."""
        return sum(self._is_outside(kernel(node)) for node in program)

    def to_json(self) -> str:
        """The predictor as text: the measurements and the settings."""
        return _File(
            format=FORMAT,
            target=self.target,
            settings=self.settings,
            kernels=tuple(canonical(one) for one in self.work.kernels),
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
            kernels = tuple(map(_kernel, file.kernels))
        except (ValueError, LookupError, TypeError) as error:  # pydantic's are ValueErrors
            found = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                found = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
            raise ArtifactError(
                "This is not a latency predictor of this version of spaceevo", found=found, remedy="Fit it again"
            ) from error
        _check(file, len(kernels))
        return cls(file.target, Work(kernels, file.blocks, file.networks, np.array(file.latencies_ms)), file.settings)

    def _predict(self, kernels: Iterable[Kernel]) -> None:
        wanted: dict[str, dict[Kernel, None]] = {}
        for one in kernels:
            if one in self._known_ms:
                continue
            group, values = features(one)
            if not values:
                self._known_ms[one] = 0.0
                continue
            if group not in self.solution.groups:
                raise TargetError(
                    f"The latency predictor knows nothing about operators {group!r}",
                    found=f"it was fitted on {', '.join(sorted(self.solution.groups))}",
                    remedy="Fit it on networks that have them",
                )
            wanted.setdefault(group, {})[one] = None
        for group, members in wanted.items():
            latencies = self.solution.kernel_ms(list(members), group).tolist()
            self._known_ms.update(zip(members, latencies, strict=True))

    def _is_outside(self, kernel: Kernel) -> bool:
        group, values = features(kernel)
        if not values:
            return False
        known = self.solution.groups.get(group)
        return known is None or bool(((values < known.low) | (values > known.high)).any())


def work_of(programs: Sequence[Sequence[Node]], latencies: np.ndarray) -> Work:
    """Measured programs as rows of blocks of kernels."""
    kernels: dict[Kernel, int] = {}
    numbers: dict[Block, int] = {}
    rows = []
    for program in programs:
        row: Counter[int] = Counter()
        for block in blocks(program):
            executed = [one for one in map(kernel, block) if features(one)[1]]
            if executed:
                counts = Counter(kernels.setdefault(one, len(kernels)) for one in executed)
                row[numbers.setdefault(tuple(sorted(counts.items())), len(numbers))] += 1
        rows.append(tuple(sorted(row.items())))
    return Work(tuple(kernels), tuple(numbers), tuple(rows), latencies)


def _kernel(content: dict[str, Any]) -> Kernel:
    if content.keys() != {"op", "in_shape", "out"}:
        raise ValueError(f"kernels: one has {', '.join(sorted(content))}")
    return Kernel(op_from_json(content["op"]), *_SHAPES.validate_python((content["in_shape"], content["out"])))


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
