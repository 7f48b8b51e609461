"""Losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_IMPORTANCE = 5.0


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


def alpha_divergence_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Adaptive alpha-divergence from the prediction of the largest subnet (AlphaNet, ICML 2021, Section 3).

    Of the divergences at alpha = -1 and alpha = 1 (the KL divergence), each image takes the larger one: it punishes a
    student that is too sure of itself as well as one that is too unsure. At alpha = -1, importance weights are clipped
    at `MAX_IMPORTANCE`, in the value and in the gradient, which takes them as constants.

    Args:
        logits: [B, C], of the student.
        teacher_logits: [B, C]; no gradient flows into them.

    Returns:
        The mean over the images.
    """
    log_q, log_p = logits.log_softmax(1), teacher_logits.detach().log_softmax(1)
    q, p = log_q.detach().exp(), log_p.exp()
    kl = (p * (log_p - log_q)).sum(1)
    weights = (log_q.detach() - log_p).exp().clamp(max=MAX_IMPORTANCE)  # (p / q) ** alpha
    value = (q * (weights - 1)).sum(1) / 2
    slope = (q * weights * log_q).sum(1)  # its gradient is that of the divergence
    reverse = value + slope - slope.detach()
    return torch.where(value > kl.detach(), reverse, kl).mean()


#: By name in the recipe; each from (logits, teacher's logits).
DISTILLATION_LOSSES = {"kl": in_place_distillation_loss, "alpha": alpha_divergence_loss}
