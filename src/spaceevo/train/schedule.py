"""How fast both training loops learn over a phase, and where they clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: No element of a gradient is larger.
CLIP_VALUE = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A linear warm-up and a cosine to zero, over a phase.

    Attributes:
        warm_up: Share of the phase, above 0 and below 1.
        cosine_from_start: Whether the cosine runs over the whole phase and the warm-up scales it; else it follows
            the warm-up.
    """

    warm_up: float
    cosine_from_start: bool


#: Of networks (`train.loop`), and of the cells of block-wise distillation (`train.distillation`).
OF_NETWORKS = Schedule(warm_up=0.05, cosine_from_start=False)
OF_CELLS = Schedule(warm_up=0.1, cosine_from_start=True)


def learning_rate(schedule: Schedule, peak: float, step: int, num_steps: int) -> float:
    """The rate of a step, above 0 and at most `peak`.

    Args:
        schedule: Length of the warm-up, and where the cosine begins.
        peak: Largest rate, above 0.
        step: From 0, within the phase.
        num_steps: Steps of the phase, at least 1.

    >>> [round(learning_rate(OF_CELLS, 1.0, step, 100), 3) for step in (0, 9, 50, 99)]
    [0.1, 0.98, 0.5, 0.0]
    """
    if schedule.cosine_from_start:
        return peak * min(1.0, (step + 1) / (schedule.warm_up * num_steps)) * _cosine(math.pi * step / num_steps)
    done = step / num_steps
    if done < schedule.warm_up:
        return peak * (done + 1e-3) / schedule.warm_up  # the first step, too, learns something
    return peak * _cosine(math.pi * (done - schedule.warm_up) / (1 - schedule.warm_up))


def _cosine(angle: float) -> float:
    """From 1 to 0 over half a turn."""
    return 0.5 * (1 + math.cos(angle))
