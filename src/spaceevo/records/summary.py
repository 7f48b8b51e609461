"""What a run came to."""

from __future__ import annotations

from spaceevo.records.base import Record
from spaceevo.records.models import Baselines, FoundModels
from spaceevo.records.pictures import PassedOver
from spaceevo.records.targets import TargetDescription


class PredictorSummary(Record):
    """The predictor's assessment without its networks."""

    num_fit: int
    num_unseen: int
    within_10_percent: float
    within_5_percent: float
    mape: float
    spearman: float | None
    reference_ms: float | None = None


class SpaceSummary(Record):
    """The search space that was found."""

    encoding: str
    qt_score: float
    num_within_tolerance: int


class StageTime(Record):
    """How long a stage took when it was run, in seconds."""

    name: str
    seconds: float


class Summary(Record):
    """`summary.json`: the numbers of one run.

    Attributes:
        num_train_images: Those held out for the search included; None in summaries of earlier versions.
        passed_over: What of the data was not read.
        not_searched: Classes that the subnet search saw no image of.
    """

    name: str
    data: str
    num_classes: int
    num_val_images: int
    num_train_images: int | None = None
    passed_over: tuple[PassedOver, ...] = ()
    not_searched: tuple[str, ...] = ()
    target: TargetDescription
    versions: dict[str, str]
    seed: int
    busy: bool = False
    reference_ms: float | None = None
    stages: tuple[StageTime, ...]
    peak_rss_mib: float
    predictor: PredictorSummary
    space: SpaceSummary
    models: FoundModels
    baselines: Baselines
    notes: tuple[str, ...] = ()
