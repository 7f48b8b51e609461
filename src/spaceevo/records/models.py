"""Exported models: verified, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from spaceevo.records.base import Record
from spaceevo.records.pictures import Preprocessing


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
    metrics: dict[str, float] = Field(default_factory=dict)
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
