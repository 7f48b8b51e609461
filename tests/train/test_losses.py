"""Losses against numbers worked out by hand."""

import math

import torch

from spaceevo.train.losses import in_place_distillation_loss, nsr_loss


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
