"""A target, and what was measured and predicted there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaceevo.records.base import Record


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
