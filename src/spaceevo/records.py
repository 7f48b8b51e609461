"""Every noun that travels between rooms, frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from spaceevo.artifacts import read_file
from spaceevo.errors import ArtifactError
from spaceevo.graph.graphs import FloatGraph, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import Op


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What of a data set was not read, for one reason.

    Attributes:
        reason: In the plural, for people, for example "files with the ending .avif".
        count: How many, at least 1.
        example: Where the first one lies.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True, eq=False)
class ImageData:
    """A classification data set, all images square and of one size.

    Its arrays may be mapped from files, and then larger than memory.

    Attributes:
        name: Name of the data set, for reports.
        class_names: One name per class, in label order.
        train_images: uint8 [num_train, 3, size, size], RGB.
        train_labels: int64 [num_train], each in [0, num_classes).
        val_images: uint8 [num_val, 3, size, size], RGB; never used for training or searching.
        val_labels: int64 [num_val], each in [0, num_classes).
        passed_over: What looked as if it belonged to it and was not read.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height = width of every image, in pixels."""
        return int(self.train_images.shape[-1])


@dataclass(frozen=True, eq=False)
class ExtractedNetwork:
    """A trained network, ready to be written for any runtime.

    Attributes:
        integer: As quantization-aware training left it.
        floating: Its FP32 twin.
        metadata: What every exported file tells: encoding, class names, preprocessing, profile, ...
    """

    integer: IntegerGraph
    floating: FloatGraph
    metadata: Mapping[str, str]


#: (node, (codes, parameters) of every input, parameters of the output) -> codes. Codes are integers in float32
#: arrays [B, C, H, W], 0 to 255; `Quantize` is given the image.
CodesFunction = Callable[[Node, Sequence[tuple[np.ndarray, QuantParams]], QuantParams], np.ndarray]


class Unrounded(Protocol):
    """What a convolution of a runtime puts out before it is rounded to codes, which are as of `CodesFunction`."""

    def codes(self, y: QuantParams) -> np.ndarray:
        """Its codes.

        Args:
            y: Parameters of what the convolution puts out.
        """
        ...

    def codes_of_sum(self, a: QuantParams, b_codes: np.ndarray, b: QuantParams, y: QuantParams) -> np.ndarray:
        """Codes of an addition whose other summand has been rounded.

        Args:
            a: Parameters of what the convolution puts out.
            b_codes: The other summand.
            b: Its parameters.
            y: Parameters of the sum.
        """
        ...


#: (exact sums of products, without bias, float32 [B, C, H, W], parameters of the input, weights) -> what is put out.
ConvolutionFunction = Callable[[np.ndarray, QuantParams, IntegerWeights], Unrounded]


def added_rounded(program: Program) -> frozenset[str]:
    """No convolution of a program is added before it is rounded."""
    return frozenset()


@dataclass(frozen=True)
class Arithmetic:
    """Where the integer results of a runtime differ from the contract's (see `nets.executors`).

    Attributes:
        codes: By type of operator (one without weights), what computes its output.
        convolution: What computes the output of convolutions, depthwise ones included; None where the contract does.
        added_unrounded: Ids of a program's convolutions that an addition reads unrounded; of no effect without a
            `convolution`.
    """

    codes: Mapping[type[Op], CodesFunction] = field(default_factory=dict)
    convolution: ConvolutionFunction | None = None
    added_unrounded: Callable[[Program], frozenset[str]] = added_rounded


@dataclass(frozen=True, slots=True)
class Normalization:
    """How pixels become the network's input: (pixel / 255 - mean) / std, per RGB channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


class Record(BaseModel):
    """Base of the records that are written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Preprocessing(Record):
    """How a picture becomes what a network reads; every exported file tells it as JSON, with `steps`.

    Attributes:
        resize: Height = width that the network reads.
        image_size: Height = width that the square is resized to before, and rounded to whole pixel values.
        min_decoded_size: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where both sides stay as large.
        exif_transpose: Whether a picture is turned as its EXIF orientation says.
        background: Colour under transparent pixels, RGB, 0 to 255.
        crop: What is cut out: the largest square in the centre.
        interpolation: How both resizes interpolate.
        antialias: Whether the filter widens with the scale where a picture shrinks.
        scale: What pixel values are multiplied by, before `mean` and `std`.
        mean: Then taken away, per channel.
        std: Then divided by, per channel.
        channels: Order of the colour channels.
        layout: Order of the axes of the input, which is float32, one picture at a time.
    """

    resize: int
    image_size: int
    min_decoded_size: int
    exif_transpose: bool = True
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "center_square"
    interpolation: str = "bilinear"
    antialias: bool = True
    scale: float = 1 / 255
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"
    layout: str = "NCHW"

    @property
    def steps(self) -> tuple[str, ...]:
        """The same in sentences, in the order in which it is done."""
        small, size = self.image_size, self.resize
        again = (
            f"Resize to {size} x {size} in float32, bilinear with antialiasing (a triangle filter of radius "
            f"max(1, {small}/{size}) around pixel centres, its weights normalized), without rounding."
        )
        return (
            f"Decode; a JPEG by Pillow's draft mode for {self.min_decoded_size} x {self.min_decoded_size} pixels.",
            "Turn upright as the EXIF orientation says.",
            "Bring grey of more than 8 bits to 8 by scaling; compose on the background where it is transparent; "
            "convert to RGB.",
            f"Take the largest square in the centre, of the shorter side s: the box ((w-s)/2, (h-s)/2, (w+s)/2, "
            f"(h+s)/2), and resize it to {small} x {small}, bilinear with antialiasing, rounded to bytes: Pillow's "
            f"resize(({small}, {small}), BILINEAR, box), the same as ImageOps.fit.",
            *([again] if size != small else []),
            "Multiply by scale, take away mean, divide by std, per channel.",
            f"Order the axes as {self.layout}, float32.",
        )

    def told(self) -> str:
        """As JSON, for people and programs."""
        return json.dumps(self.model_dump(mode="json") | {"steps": self.steps})


R = TypeVar("R", bound=Record)


def read_record(model: type[R], path: Path) -> R:
    """Read a record of a finished stage.

    Raises:
        ArtifactError: It is not one.
    """
    try:
        return model.model_validate_json(read_file(path))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a {model.__name__} that spaceevo wrote",
            found=str(error).splitlines()[0],
            remedy=f"Delete the folder {path.parent} and run the same command again",
        ) from error


FileState = Literal["whole", "damaged", "missing", "unchecked", "unknown"]


class FileCheck(Record):
    """A file of a run folder.

    Attributes:
        file: Path relative to the folder.
        state: "whole"; "damaged" and "missing"; "unchecked" where there is no digest to check it by; "unknown" where
            spaceevo did not write it.
        found: What is wrong, or why it is unchecked.
    """

    file: str
    state: FileState
    found: str = ""


class FolderCheck(Record):
    """A run folder, file by file.

    Attributes:
        folder: Path of the folder.
        files: By path, in order.
        unfinished: Of a run, the stages that have no manifest, in order.
    """

    folder: str
    files: tuple[FileCheck, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[FileCheck, ...]:
        """What is damaged or missing."""
        return tuple(one for one in self.files if one.state in ("damaged", "missing"))


class TargetDescription(Record):
    """What a target is, recorded beside every measurement.

    Attributes:
        name: As in the recipe, for example "onnxruntime@local".
        runtime: Name of the runtime.
        runtime_version: Its version.
        device: Processor model.
        machine: Architecture, for example "x86_64".
        flags: Processor flags that matter for INT8, for example "avx512_vnni"; sorted.
        threads: Threads that the runtime may use.
        w_qmax: Largest weight code that is exact there: 127, or 63 on x86 without VNNI.
        cores: Logical cores that it is pinned to; empty: any.
    """

    name: str
    runtime: str
    runtime_version: str
    device: str
    machine: str
    flags: tuple[str, ...]
    threads: int
    w_qmax: int
    cores: tuple[int, ...] = ()


class MachineState(Record):
    """How busy, fast and hot a device was; None for what it does not tell.

    Attributes:
        load: Processes that ran or wanted to, mean over a minute.
        frequency_mhz: Of the cores that were used, mean.
        temperature_c: Of the hottest thermal zone.
    """

    load: float | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None


_Latency = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measurement(Record):
    """One measured latency; never 0.

    Attributes:
        latency_ms: Lower quartile over the quiet visits of the fastest run of each visit (see
            `measure.session`).
        low_ms: Lower end of its 95 % confidence interval.
        high_ms: Upper end of the interval.
        samples_ms: Every sample of the quiet visits, in the order of measuring.
        scale: What `latency_ms`, `low_ms` and `high_ms` were multiplied with, and samples were not: what the
            reference model took when the target was first measured over what it took beside this model.
        busy: Whether the target was busy all the time, when it was first measured and now: then `latency_ms` is the
            median over all visits of the median of each.
        before: The device when the measuring of the model's group began.
        after: And when it ended.
    """

    latency_ms: _Latency
    low_ms: _Latency
    high_ms: _Latency
    samples_ms: tuple[_Latency, ...]
    scale: _Latency = 1.0
    busy: bool = False
    before: MachineState = MachineState()
    after: MachineState = MachineState()


class Measured(Record):
    """What one model took.

    Attributes:
        name: As given.
        precision: Of a network; "file" for a model file.
        measurement: Its latency: of an inference, of so many images as its batch.
        batch: Images in an inference: a file may have a fixed batch.
        ms_per_image: The latency over the batch.
        metrics: By name of a metric its value, in the unit that the name ends in; as the latency, of an inference.
        missing: By name of a metric why it has no value.
    """

    name: str
    precision: Literal["int8", "fp32", "file"]
    measurement: Measurement
    batch: int
    ms_per_image: float
    metrics: dict[str, float]
    missing: dict[str, str]


class Predicted(Record):
    """What one network is predicted to take.

    Attributes:
        name: As given.
        latency_ms: Predicted latency of an inference.
        num_outside: Its operators that lie outside of what was measured: the prediction is a guess there.
    """

    name: str
    latency_ms: float
    num_outside: int


class StudyRow(Record):
    """INT8 against FP32 for one operator type at one width and size.

    Attributes:
        operator: Operator type, for example "conv3x3", "depthwise5x5", "se", "hard_swish", "fused-mbconv".
        width: Channels.
        size: Height = width of the feature map.
        fp32_ms: Latency of one operator: of a chain with copies of it less that of the chain without, over the number
            of copies. Those of the chains are as in `Measurement`: lower quartiles, or medians on a busy target.
        int8_ms: The same of the operator in INT8.
    """

    operator: str
    width: int
    size: int
    fp32_ms: float
    int8_ms: float

    @property
    def speedup(self) -> float:
        """FP32 latency over INT8 latency."""
        return self.fp32_ms / self.int8_ms


class Study(Record):
    """On-device quantization analysis of one target (SpaceEvo, Section 3)."""

    target: TargetDescription
    rows: tuple[StudyRow, ...]
    advice: tuple[str, ...]


class MetricFit(Record):
    """How a metric beside latency follows from a network: a sum of features times coefficients.

    Attributes:
        metric: Its name; the unit is its end.
        coefficients: At least 0, one per feature (`measure.metrics`).
        num_fit: Networks that were measured for it; 0 where the architecture alone decides.
        mape: Mean absolute error on networks that were held out, relative to what was measured.
    """

    metric: str
    coefficients: tuple[float, ...]
    num_fit: int
    mape: float


class AssessedNetwork(Record):
    """One whole network that a predictor has not seen."""

    encoding: str
    measured_ms: float
    predicted_ms: float


class PredictorAssessment(Record):
    """How well a latency predictor does on whole networks that it has not seen.

    Attributes:
        num_fit: Networks measured to fit it.
        num_unseen: Networks measured to judge it.
        within_10_percent: Share of those predicted within 10 %, 0 to 1.
        within_5_percent: Share of those predicted within 5 %.
        mape: Mean absolute error relative to the measured latency, 0.05 for 5 %.
        spearman: Rank correlation, -1 to 1; None where it is undefined: of one network, or of equal latencies. Version
            0.2.0 wrote 0 there.
        networks: What was measured and predicted of each, in the order of drawing.
        reference_ms: What the reference model took when the predictor was fitted, see `measure.session`; None where
            the store of measurements had none yet.
    """

    num_fit: int
    num_unseen: int
    within_10_percent: float
    within_5_percent: float
    mape: float
    spearman: float | None
    networks: tuple[AssessedNetwork, ...]
    reference_ms: float | None = None


#: The NSR loss of predicting nothing is 1. A block whose sub-stages are above this has not learnt.
FAILED_LOSS = 0.95


class DistilledCell(Record):
    """Block-wise distillation of one (stage, block type).

    Attributes:
        stage: Name of the stage.
        block: Index of the block type in the hyperspace's stage.
        block_type: Name of the block type.
        nsr_fp32: NSR loss of the largest sub-stage after the FP32 phase, on held-out images.
        nsr_int8: The same after the LSQ+ phase.
        curve: Training loss of the largest sub-stage, per recorded step.
        attempts: Trainings done; a failed one is done again with another seed.
        failure: Why the cell is excluded; empty where it is not.
    """

    stage: str
    block: int
    block_type: str
    nsr_fp32: float
    nsr_int8: float
    curve: tuple[float, ...]
    attempts: int
    failure: str = ""


class ScoredSpace(Record):
    """A search space with its Q-T score."""

    encoding: str
    qt_score: float


class SpaceSearchStep(Record):
    """State of the search after some evaluations."""

    num_evaluated: int
    best_score: float
    population_mean: float


ChoiceKind = Literal["block", "window"]


class StageChoice(Record):
    """One choice of one stage among the spaces that the search found.

    Attributes:
        stage: Name of the stage.
        kind: What was chosen.
        index: Of the block type or width window in the hyperspace's stage.
        name: The block type, or the window's widths, for example "32-48".
        share: Of the spaces within tolerance that choose it, 0 to 1.
        loss_without: How far the best scored space that chooses otherwise lies below the best, relative: 0 for a
            choice that is not needed; 1 where no other scored space has a score.
    """

    stage: str
    kind: ChoiceKind
    index: int
    name: str
    share: float
    loss_without: float


class SpaceTrial(Record):
    """How networks of a space do that are trained alone.

    Attributes:
        space: Which space, and what it scores.
        top1: By budget, INT8 top-1 of a large network within it, on held-out training images; None where no network
            was found that meets it. The earliest versions wrote 0 there.
    """

    space: ScoredSpace
    top1: tuple[float | None, ...]

    @property
    def mean_top1(self) -> float | None:
        """Over the budgets; None where one of them is not met."""
        num_met, mean = self.rank
        return mean if num_met == len(self.top1) else None

    @property
    def rank(self) -> tuple[int, float]:
        """What the best trial has most of: budgets that are met, then top-1 over these."""
        met = [top1 for top1 in self.top1 if top1 is not None]
        return len(met), sum(met) / max(1, len(met))


class SpaceSearchResult(Record):
    """What the search over spaces found.

    Attributes:
        hyperspace: Name of the hyperspace that was searched.
        budgets_ms: Latency constraints; the score is the sum over them.
        best: The best space.
        within_tolerance: All evaluated spaces within the relative tolerance of the best, best first.
        tolerance: How far below the best score, relative to it, a space counts as equal.
        num_evaluated: Distinct spaces scored.
        history: The steps of the search, in order.
        sampled_score: Score of the best space by the sampled evaluator, as a cross-check; None without one.
        excluded: Failed cells (stage/block type) that no space may use.
        choices: Every block type and width window that some space within tolerance chooses.
        num_bounded: Spaces of which no more is known than that they score at most `bound`.
        bound: None without a sweep over all spaces; with one, `num_evaluated + num_bounded` are all there are.
        num_allowed: Spaces without a failed cell; where all of them were scored, nothing better exists.
        why_unbounded: Why a sweep that was asked for gave no bound; empty otherwise.
        trials: Of spaces within tolerance: of different block types, then of other widths for the best of them, each
            the best-scored first; empty where the score alone decides.
    """

    hyperspace: str
    budgets_ms: tuple[float, ...]
    best: ScoredSpace
    within_tolerance: tuple[ScoredSpace, ...]
    tolerance: float
    num_evaluated: int
    history: tuple[SpaceSearchStep, ...]
    sampled_score: float | None
    excluded: tuple[str, ...] = ()
    choices: tuple[StageChoice, ...] = ()
    num_bounded: int = 0
    bound: float | None = None
    num_allowed: int = 0
    why_unbounded: str = ""
    trials: tuple[SpaceTrial, ...] = ()

    @property
    def chosen(self) -> ScoredSpace:
        """The space to train: the most accurate of the trials that meet most budgets, without any the best-scored."""
        return max(self.trials, key=lambda trial: trial.rank).space if self.trials else self.best


Phase = Literal["fp32", "lsq+"]


class TrainingPoint(Record):
    """Losses at one step of a training.

    Attributes:
        phase: With or without quantization.
        step: From 0, over both phases.
        loss: Of the large subnet (or of the one network).
        loss_smallest: Of the small subnet; None for a single network.
        lr: Learning rate of the step.
        diverged_at: Later steps at which the training diverged and went back to this one, with half the rate each time.
    """

    phase: Phase
    step: int
    loss: float
    loss_smallest: float | None = None
    lr: float
    diverged_at: tuple[int, ...] = ()


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


class LogitAgreement(Record):
    """Logits of a file against those of a reference, on the same images.

    Attributes:
        top1: Share of images with the same largest logit, 0 to 1.
        identical_codes: Share of logits that are the same 8-bit code on the grid of steps.
        mean_steps: Mean absolute difference in steps. Logits are float; a step is 1 / 255 of the range of the
            reference's logits over the images, what one code would be if they were quantized.
        max_steps: Largest absolute difference in steps.
    """

    top1: float
    identical_codes: float
    mean_steps: float
    max_steps: float


class Verification(Record):
    """One exported INT8 file against what it was exported from.

    Attributes:
        file: Name of the file, without its folder.
        runtime: Name of the runtime that ran it, and its version.
        exported_for: Profile of the processor that it was trained and exported for.
        verified_on: Profile of the processor that ran it.
        num_images: Images run.
        top1: Share of images that the file classifies correctly, 0 to 1.
        top1_fake_quantized: Of the fake-quantized float network.
        integer: Against exact integer arithmetic as this runtime rounds.
        fake_quantized: Against the fake-quantized float network.
        float_operators: What the runtime computes in float between input quantization and logits.
        changed_constants: Scales, zero points, codes and biases of the file that are not those of the network,
            missing and unknown ones included.
        first_difference: The first tensor that differs from the integer reference, looked for where a bound is
            broken; "" where it was not.
        differing_codes: Share of its codes that differ.
        problems: The bounds that are broken; empty for a file that may be handed out.
    """

    file: str
    runtime: str
    exported_for: str
    verified_on: str
    num_images: int
    top1: float
    top1_fake_quantized: float
    integer: LogitAgreement
    fake_quantized: LogitAgreement
    float_operators: tuple[str, ...]
    changed_constants: tuple[str, ...]
    first_difference: str = ""
    differing_codes: float = 0.0
    problems: tuple[str, ...] = ()


Origin = Literal["found", "hand-made"]


class ModelResult(Record):
    """One exported model, verified and measured on the target. Accuracies and shares are 0 to 1.

    Attributes:
        origin: Whether the search found it, or it is a hand-made network.
        budget_ms: The latency budget that it was made for.
        encoding: Published string of the subnet.
        macs: For one image.
        params: Trained parameters.
        predicted_ms: Predicted INT8 latency; of a hand-made network by a predictor fitted on networks like it.
        int8_ms: Measured INT8 latency.
        fp32_ms: Measured latency of the FP32 twin.
        speedup: fp32_ms / int8_ms.
        top1_fp32: Of the FP32 twin, computed by the runtime, on the validation images.
        top1_inherited: Of the fake-quantized subnet before it was fine-tuned alone; None where it was not.
        top1_fake_quant: Of the fake-quantized network.
        top1_int8: Of the INT8 file, computed by the runtime.
        verification: How the INT8 file compares with what it was exported from.
        metrics: Of the INT8 file, by name those that the recipe limits; the unit is the name's end.
        int8_file: Relative to the run folder.
        fp32_file: Relative to the run folder.
        network_file: The extracted network that both were written from, relative to the run folder.
        preprocessing: How a picture becomes the input of both; None in results of older versions.
    """

    origin: Origin
    budget_ms: float
    encoding: str
    macs: int
    params: int
    predicted_ms: float
    int8_ms: float
    fp32_ms: float
    speedup: float
    top1_fp32: float
    top1_inherited: float | None = None
    top1_fake_quant: float
    top1_int8: float
    verification: Verification
    metrics: dict[str, float] = {}
    int8_file: str
    fp32_file: str
    network_file: str
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class _AllOf:
    """Marks models that have one origin; version 0.2.0 told it only by the key that they stand under."""

    origin: Origin

    def fill(self, models: object) -> object:
        if not isinstance(models, list | tuple):
            return models
        return [{"origin": self.origin} | model if isinstance(model, dict) else model for model in models]

    def check(self, models: tuple[ModelResult, ...]) -> tuple[ModelResult, ...]:
        if wrong := [model.encoding for model in models if model.origin != self.origin]:
            raise ValueError(f"{wrong[0]} does not have the origin {self.origin!r}")
        return models


_FOUND, _BASELINE = _AllOf("found"), _AllOf("hand-made")
FoundModels = Annotated[tuple[ModelResult, ...], BeforeValidator(_FOUND.fill), AfterValidator(_FOUND.check)]
Baselines = Annotated[tuple[ModelResult, ...], BeforeValidator(_BASELINE.fill), AfterValidator(_BASELINE.check)]


class ExportedModels(Record):
    """`export/models.json`.

    Attributes:
        models: One per budget, ascending.
        baselines: The hand-made network of each budget.
    """

    models: FoundModels
    baselines: Baselines


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


Speed = Annotated[float, Field(ge=1, allow_inf_nan=False)]  # MACs per second
Mebibytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rates(Record):
    """How fast a machine and a device do what a run consists of; MACs are those of forward passes.

    Attributes:
        machine: What they are of, for people.
        workers: Jobs at a time; what starts with `job` is of one of them while all are busy.
        gpus: That it has, on one of which the supernet was trained; None where that was not noted.
        supernet_fp32: MACs per second of the supernet's training in FP32, on all of the machine's cores, or on a GPU.
        supernet_int8: The same in its LSQ+ phase.
        teacher: MACs per second of the teacher's forward passes, with keeping its maps.
        job_fp32: MACs per second of a cell's training in FP32.
        job_int8: The same in LSQ+.
        job_score: MACs per second of scoring sub-stages.
        job_evaluate: MACs per second of evaluating INT8 subnets, recalibration included.
        measure_s: Seconds that the device takes per measured network; None where it was not measured.
        memory_mib: Largest resident memory of the process that trained the supernet.
        job_memory_mib: The same of a process that distilled cells.
        waited: How many times as long as they computed the jobs took; far above 1, other work kept the machine busy.
    """

    machine: str
    workers: Annotated[int, Field(ge=1, le=1_000_000)]
    gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    supernet_fp32: Speed
    supernet_int8: Speed
    teacher: Speed
    job_fp32: Speed
    job_int8: Speed
    job_score: Speed
    job_evaluate: Speed
    measure_s: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None
    memory_mib: Mebibytes
    job_memory_mib: Mebibytes
    waited: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def has_gpu(self) -> bool:
        """Whether the supernet was trained on a GPU; unless it was noted, whether no cores are as fast."""
        if self.gpus is None:
            return max(self.supernet_fp32 / self.job_fp32, self.supernet_int8 / self.job_int8) > 3 * self.workers
        return self.gpus > 0


class PlannedStage(Record):
    """What a stage is expected to take.

    Attributes:
        name: Name of the stage.
        seconds: From its start to its end.
        machine_seconds: Seconds that machines work on it, summed over all of them.
        device_seconds: That the device measures; None where its speed is not known.
        disk_mib: That its files take at most.
        computes_on: What most of its time is spent on.
        took_seconds: What it took in a finished run, where one is given.
    """

    name: str
    seconds: float
    machine_seconds: float
    device_seconds: float | None
    disk_mib: float
    computes_on: Literal["CPU", "GPU", "device"] = "CPU"
    took_seconds: float | None = None


class RunPlan(Record):
    """What a run is expected to take.

    Attributes:
        recipe: Name of the recipe.
        machines: How many work together.
        efficiency: Share of `machines` times the speed of one that the supernet's training reaches together.
        rates: Of one machine and of the device.
        stages: In order; those that take less than minutes anywhere are left out.
        binding: Name of the stage that takes longest.
        data_mib: That the decoded images take on the disk beside the stages.
    """

    recipe: str
    machines: int
    efficiency: float
    rates: Rates
    stages: tuple[PlannedStage, ...]
    binding: str
    data_mib: float = 0.0


@dataclass(frozen=True, eq=False)
class QualityTable:
    """Quality and size of sampled sub-stages, before a target is known: columns as of `BlockTable`.

    Attributes:
        in_size: int, height = width of the sub-stage's input.
    """

    stage: np.ndarray
    block: np.ndarray
    window: np.ndarray
    resolution: np.ndarray
    in_width: np.ndarray
    in_size: np.ndarray
    blocks: np.ndarray
    nsr_loss: np.ndarray
    macs: np.ndarray
    num_params: np.ndarray


@dataclass(frozen=True, eq=False)
class BlockTable:
    """Quality and cost of sampled sub-stages of every (stage, block type, width window) of a hyperspace.

    All columns have one entry per row.

    Attributes:
        stage: int, index of the searched stage, from 0.
        block: int, index of the block type.
        window: int, index of the width window.
        resolution: int, input resolution of the network.
        nsr_loss: float, NSR loss against the teacher after LSQ+, lower is better.
        latency_ms: float, predicted INT8 latency of the sub-stage.
        macs: int, for one image; None where the table does not tell. Likewise what follows.
        num_params: int.
        in_width: int, channels of the sub-stage's input.
        blocks: str, `kernel_size#width#expand_ratio` per block, joined by `_`.
        failed: (stage, block) pairs whose training failed; no space may use them.
    """

    stage: np.ndarray
    block: np.ndarray
    window: np.ndarray
    resolution: np.ndarray
    nsr_loss: np.ndarray
    latency_ms: np.ndarray
    macs: np.ndarray | None
    num_params: np.ndarray | None
    in_width: np.ndarray | None
    blocks: np.ndarray | None
    failed: frozenset[tuple[int, int]] = frozenset()
