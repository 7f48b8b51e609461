"""Everything that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spaceevo.records import (
    BlockTable,
    ClassScores,
    DistilledCell,
    PredictorAssessment,
    SpaceSearchResult,
    Study,
    SubnetSearchResult,
    Summary,
    TrainingPoint,
)
from spaceevo.spaces.hyperspace import Hyperspace


@dataclass(frozen=True)
class Section:
    """What a stage adds to the report, for stages that the report itself does not know.

    Attributes:
        title: Of the section.
        text: A paragraph.
        columns: Heads of a table; empty for none.
        rows: Of the table, one cell per column.
    """

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class ReportData:
    """The records of one run.

    Attributes:
        summary: The numbers of the run.
        study: INT8 against FP32 per operator type.
        assessment: The latency predictor on networks that it has not seen.
        cells: Block-wise distillation, one per (stage, block type).
        table: Quality and cost of sampled sub-stages; None where it is not at hand.
        search: The search over spaces.
        hyperspace: The one that `search` and `table` refer to.
        curves: Training curves by name, for example "teacher", "supernet", "baseline 1.2 ms".
        subnets: The search over subnets.
        classes: The exported subnets, class by class.
        examples: By number among the validation images those that `classes` names, uint8 [3, height, width].
        sections: Of further stages, in order.
    """

    summary: Summary
    study: Study
    assessment: PredictorAssessment
    cells: tuple[DistilledCell, ...]
    table: BlockTable | None
    search: SpaceSearchResult
    hyperspace: Hyperspace
    curves: Mapping[str, Sequence[TrainingPoint]]
    subnets: SubnetSearchResult
    classes: tuple[ClassScores, ...] = ()
    examples: Mapping[int, np.ndarray] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
