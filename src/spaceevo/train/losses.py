"""Losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def nsr_loss(y_BCHW: Tensor, target_BCHW: Tensor, power_C: Tensor) -> Tensor:
    """Noise-to-signal-power ratio per channel, averaged over channels (LANA, ECCV 2022, Section 3.2).

    0 is a perfect copy; 1 is as good as the mean of every channel.

    Args:
        y_BCHW: The student's feature map.
        target_BCHW: The teacher's feature map.
        power_C: Variance of each channel of the teacher over the data; 0 marks a constant channel, left out.
    """
    noise_C = (y_BCHW - target_BCHW).square().mean((0, 2, 3))
    alive = power_C > 0
    return (noise_C[alive] / power_C[alive]).mean()


def in_place_distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the softened prediction of the largest subnet (BigNAS, ECCV 2020, Section 3.1)."""
    return F.cross_entropy(logits, teacher_logits.softmax(1))
