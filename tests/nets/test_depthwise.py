"""Depthwise convolutions: the numbers and the gradients of torch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from spaceevo.nets.depthwise import FAST_WIDTH, depthwise_convolution


@settings(max_examples=20)
@given(st.sampled_from([3, 5, 7]), st.integers(1, 2), st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_gradients_are_those_of_torch(kernel_size, stride, size, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    shape, kernel = (2, channels, size, size), (channels, 1, kernel_size, kernel_size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(kernel, generator=generator, dtype=torch.float64)
    results = []
    for own in (True, False):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        padding = kernel_size // 2
        y = depthwise_convolution(a, w, stride, padding) if own else F.conv2d(a, w, None, stride, padding, 1, channels)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        results.append((y.detach(), a.grad, w.grad))
    (y, *gradients), (expected, *expected_gradients) = results
    assert torch.equal(y, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(("kernel_size", "own"), [(FAST_WIDTH, False), (FAST_WIDTH + 2, True)])
def test_only_wide_kernels_need_it(kernel_size, own):
    weight = torch.ones(4, 1, kernel_size, kernel_size, requires_grad=True)
    y = depthwise_convolution(torch.ones(1, 4, 8, 8), weight, 1, kernel_size // 2)
    assert ("Depthwise" in type(y.grad_fn).__name__) == own


def test_under_autocast_it_is_torchs_own():
    weight = torch.ones(4, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_convolution(torch.ones(1, 4, 8, 8), weight, 1, 2)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad.dtype == torch.float32
