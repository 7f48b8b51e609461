"""Depthwise convolutions whose weight gradient is fast on a CPU for wide kernels, too.

Shape suffixes: B batch, C channels, H = W size, K kernel size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: oneDNN computes weight gradients of kernels up to this width by vectors of channels; wider ones take it five to fifty
#: times as long (torch 2.13, AVX2).
FAST_WIDTH = 3


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_C1KK: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x_BCHW, weight_C1KK, None, stride, padding, 1, len(weight_C1KK))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, K = ctx.stride, ctx.padding, weight.shape[-1]
        gx = _convolution_backward(g, x, weight, stride, (padding, padding), (True, False))[0]
        gw = torch.empty_like(weight)
        height, width = ((g.shape[-1] - 1) * stride + size - x.shape[-1] - padding for size in (K, FAST_WIDTH))
        for left in range(0, K - 1, FAST_WIDTH - 1):  # neighbours share a column
            columns = slice(left, left + FAST_WIDTH)
            seen = F.pad(x, (padding - left, width + left, padding, height))  # by these columns
            own = weight[..., columns].contiguous()
            gw[..., columns] = _convolution_backward(g, seen, own, stride, (0, 0), (False, True))[1]
        return gx, gw, None, None


def _convolution_backward(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    gx, gw, _ = torch.ops.aten.convolution_backward(
        g, x, weight, None, (stride, stride), padding, (1, 1), False, (0, 0), len(weight), (*wanted, False)
    )
    return gx, gw


_convolve: Callable[..., Tensor] = _DepthwiseConvolution.apply


def depthwise_convolution(x_BCHW: Tensor, weight_C1KK: Tensor, stride: int, padding: int) -> Tensor:
    """A depthwise convolution without bias: the numbers of `torch.nn.functional.conv2d`, its gradients to rounding.

    Args:
        x_BCHW: Input.
        weight_C1KK: K odd.
        stride: In both directions.
        padding: Zeros on each side.
    """
    slow = x_BCHW.device.type == "cpu" and weight_C1KK.shape[-1] > FAST_WIDTH
    if not slow or torch.is_autocast_enabled("cpu"):
        return F.conv2d(x_BCHW, weight_C1KK, None, stride, padding, 1, len(weight_C1KK))
    return _convolve(x_BCHW, weight_C1KK, stride, padding)
