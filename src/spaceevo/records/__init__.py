"""Every noun that travels between rooms, frozen."""

from spaceevo.records.base import R as R, Record as Record, read_record as read_record
from spaceevo.records.blocks import (
    FAILED_LOSS as FAILED_LOSS,
    BlockTable as BlockTable,
    DistilledCell as DistilledCell,
    QualityTable as QualityTable,
)
from spaceevo.records.classes import (
    ClassReport as ClassReport,
    ClassScore as ClassScore,
    ClassScores as ClassScores,
    Confusion as Confusion,
)
from spaceevo.records.comparison import (
    ComparedNetwork as ComparedNetwork,
    ComparedSpace as ComparedSpace,
    Comparison as Comparison,
    FrontPoint as FrontPoint,
    SpaceKind as SpaceKind,
)
from spaceevo.records.files import FileCheck as FileCheck, FileState as FileState, FolderCheck as FolderCheck
from spaceevo.records.models import (
    Baselines as Baselines,
    ExportedModels as ExportedModels,
    FoundModels as FoundModels,
    LogitAgreement as LogitAgreement,
    ModelResult as ModelResult,
    Origin as Origin,
    Verification as Verification,
)
from spaceevo.records.networks import (
    Arithmetic as Arithmetic,
    CodesFunction as CodesFunction,
    ConvolutionFunction as ConvolutionFunction,
    ExtractedNetwork as ExtractedNetwork,
    Unrounded as Unrounded,
    added_rounded as added_rounded,
)
from spaceevo.records.pictures import (
    ImageData as ImageData,
    Normalization as Normalization,
    PassedOver as PassedOver,
    Preprocessing as Preprocessing,
)
from spaceevo.records.plans import (
    Mebibytes as Mebibytes,
    PlannedStage as PlannedStage,
    Rates as Rates,
    RunPlan as RunPlan,
    Speed as Speed,
)
from spaceevo.records.spaces import (
    ChoiceKind as ChoiceKind,
    ScoredSpace as ScoredSpace,
    SpaceSearchResult as SpaceSearchResult,
    SpaceSearchStep as SpaceSearchStep,
    SpaceTrial as SpaceTrial,
    StageChoice as StageChoice,
)
from spaceevo.records.subnets import FoundSubnet as FoundSubnet, SubnetSearchResult as SubnetSearchResult
from spaceevo.records.summary import (
    PredictorSummary as PredictorSummary,
    SpaceSummary as SpaceSummary,
    StageTime as StageTime,
    Summary as Summary,
)
from spaceevo.records.targets import (
    AssessedNetwork as AssessedNetwork,
    MachineState as MachineState,
    Measured as Measured,
    Measurement as Measurement,
    MetricFit as MetricFit,
    Predicted as Predicted,
    PredictorAssessment as PredictorAssessment,
    Study as Study,
    StudyRow as StudyRow,
    TargetDescription as TargetDescription,
)
from spaceevo.records.training import Phase as Phase, TrainingPoint as TrainingPoint
