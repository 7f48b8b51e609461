"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st

from spaceevo.train.losses import (
    DISTILLATION_LOSSES,
    MAX_IMPORTANCE,
    alpha_divergence_loss,
    in_place_distillation_loss,
    nsr_loss,
)


def test_nsr_by_hand():
    target = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]], [[5.0, 5.0]]]])  # [1, 3, 1, 2]
    y = torch.tensor([[[[2.0, 3.0]], [[0.0, 2.0]], [[9.0, 9.0]]]])
    # Noise 1/2 and 2; power 1 and 4; the third channel is constant and left out: (0.5 + 0.5) / 2
    torch.testing.assert_close(nsr_loss(y, target, torch.tensor([1.0, 4.0, 0.0])), torch.tensor(0.5))


def test_nsr_of_a_copy_and_of_the_mean():
    target = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5, 9, 0.1]).view(
        4, 1, 1
    )
    power = target.var((0, 2, 3), correction=0)
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert nsr_loss(target, target, power) == 0
    torch.testing.assert_close(nsr_loss(mean, target, power), torch.tensor(1.0))


def test_in_place_distillation_by_hand():
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    logits = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])) + 3
    first = 0.5 * math.log(4) + 0.25 * math.log(2) + 0.25 * math.log(4)
    second = -(0.2 * math.log(0.1) + 0.8 * math.log(0.8))
    torch.testing.assert_close(in_place_distillation_loss(logits, teacher), torch.tensor((first + second) / 2))


def test_in_place_distillation_is_least_at_the_teacher():
    teacher = torch.tensor([[1.0, -2.0, 0.3]])
    logits = teacher.clone().requires_grad_()
    in_place_distillation_loss(logits, teacher).backward()
    assert logits.grad.abs().max() < 1e-7


def alpha_loss(q, p):
    logits = torch.log(torch.tensor([q], dtype=torch.float64)).requires_grad_()
    loss = alpha_divergence_loss(logits, torch.log(torch.tensor([p], dtype=torch.float64)))
    loss.backward()
    return loss.item(), logits.grad[0]


def test_alpha_divergence_by_hand():
    # The teacher is surer: at -1, (0.5 (0.5 / 0.9 - 1) + 0.5 (0.5 / 0.1 - 1)) / 2, more than the KL divergence 0.368
    assert alpha_loss((0.5, 0.5), (0.9, 0.1))[0] == pytest.approx((0.5 * (5 / 9 - 1) + 0.5 * 4) / 2)
    # The student is surer: the KL divergence, more than 0.32 at -1
    kl = 0.5 * math.log(5 / 9) + 0.5 * math.log(5)
    assert alpha_loss((0.9, 0.1), (0.5, 0.5))[0] == pytest.approx(kl)
    # An importance of 50 counts as 5
    assert alpha_loss((0.5, 0.5), (0.99, 0.01))[0] == pytest.approx((0.5 * (0.5 / 0.99 - 1) + 0.5 * 4) / 2)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_the_gradient_of_alpha_divergence_is_that_of_the_larger_one(student, teacher):
    """As long as nothing is clipped."""
    student, teacher = (torch.tensor([values], dtype=torch.float64) * 0.7 for values in (student, teacher))
    a, b = student.clone().requires_grad_(), student.clone().requires_grad_()
    p, q = teacher.softmax(1), b.softmax(1)
    assume((q / p).max().item() < MAX_IMPORTANCE)
    divergences = [(p * (p / q).log()).sum(), ((q * q / p).sum() - 1) / 2]
    expected = max(divergences, key=lambda value: value.item())
    loss = alpha_divergence_loss(a, teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-12)
    if abs(divergences[0].item() - divergences[1].item()) > 1e-9:
        torch.autograd.backward([loss, expected])
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-12)


def test_clipped_importance_is_a_constant_of_the_gradient():
    weights = torch.tensor([0.5 / 0.99, 5.0], dtype=torch.float64) * 0.5
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (weights * logits.log_softmax(0)).sum().backward()
    torch.testing.assert_close(alpha_loss((0.5, 0.5), (0.99, 0.01))[1], logits.grad)


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES.values(), ids=DISTILLATION_LOSSES)
def test_distillation_losses_are_least_at_the_teacher(loss):
    teacher = torch.tensor([[1.0, -2.0, 0.3], [0.0, 4.0, 0.0]])
    logits = teacher.clone().requires_grad_()
    loss(logits, teacher).backward()
    assert logits.grad.abs().max() < 1e-6
