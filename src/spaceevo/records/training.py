"""Training curves."""

from __future__ import annotations

from typing import Literal

from spaceevo.records.base import Record

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
