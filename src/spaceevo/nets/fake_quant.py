"""Learned fake quantization (LSQ+, CVPR Workshops 2020, Section 3), with the integer zero point of the contract.

One autograd function serves weights and activations. It is a clamp, a rounding and two dot products, several
times faster on a CPU than torch's own learnable fake-quantize operators (see `benchmarks/`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spaceevo.spaces.operators import FIXED_QUANTIZERS, NUM_CODES, RELU6_MAX_SCALE, Quantizer

MAX_CODE = NUM_CODES - 1
MIN_SCALE = 1e-6
#: How far, as a factor, a learned scale may go from where calibration started it: a runaway scale silences a tensor.
MAX_SCALE_CHANGE = 8.0


class _FakeQuantizeActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, beta: Tensor, zero_point: int, gradient_scale: float) -> Tensor:
        s = scale.item()
        y = torch.mul(x, 1 / s).clamp_(-zero_point, MAX_CODE - zero_point).round_().mul_(s)
        ctx.save_for_backward(x, y, scale, beta)
        ctx.limits = (-zero_point * s, (MAX_CODE - zero_point) * s)
        ctx.gradient_scale = gradient_scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, y, scale, beta = ctx.saved_tensors
        gx = torch.ops.aten.hardtanh_backward(g, x, *ctx.limits)
        if not ctx.needs_input_grad[1]:
            return gx, None, None, None, None
        # Inside the range y moves with the scale by (y - x) / scale, at its ends by y / scale.
        outside = g.sum() - gx.sum()
        grad_scale = (_dot(g, y) - _dot(gx, x) - outside * beta) / scale
        return gx, grad_scale * ctx.gradient_scale, outside * ctx.gradient_scale, None, None


class _FakeQuantizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, w_qmin: int, w_qmax: int) -> Tensor:
        s = scale.view(-1, *[1] * (weight.dim() - 1))
        ratio = weight / s
        codes = ratio.clamp(w_qmin, w_qmax).round_()
        ctx.save_for_backward(ratio, codes)
        ctx.limits = (w_qmin, w_qmax)
        return codes * s

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        ratio, codes = ctx.saved_tensors
        gw = torch.ops.aten.hardtanh_backward(g, ratio, *ctx.limits)
        grad_scale = (g * codes - gw * ratio).flatten(1).sum(1)
        return gw, grad_scale / math.sqrt(codes[0].numel() * ctx.limits[1]), None, None


_quantize_activation: Callable[..., Tensor] = _FakeQuantizeActivation.apply
_quantize_weight: Callable[..., Tensor] = _FakeQuantizeWeight.apply


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the elementwise product, without making the product where both lie in memory alike."""
    size, last_channels = a.numel(), torch.channels_last
    if a.stride() == b.stride() and (
        a.is_contiguous() or (a.dim() == 4 and a.is_contiguous(memory_format=last_channels))
    ):
        return torch.dot(a.as_strided((size,), (1,)), b.as_strided((size,), (1,)))
    return (a * b).sum()


def fake_quantize_weight(weight: Tensor, scale: Tensor, w_qmax: int, w_qmin: int | None = None) -> Tensor:
    """Fake-quantize a weight per output channel, symmetric.

    Args:
        weight: [out, ...].
        scale: [out], positive, learned.
        w_qmax: Largest code.
        w_qmin: Smallest code; -w_qmax without it.

    Returns:
        The weight on its grid, with the gradients of LSQ for both.
    """
    result: Tensor = _quantize_weight(weight, scale, -w_qmax if w_qmin is None else w_qmin, w_qmax)
    return result


def weight_codes(weight: Tensor, scale: Tensor, w_qmax: int) -> Tensor:
    """The integer codes (as floats) that `fake_quantize_weight` multiplies by the scale."""
    return (weight / scale.view(-1, *[1] * (weight.dim() - 1))).clamp(-w_qmax, w_qmax).round_()


class ActivationQuantizer(nn.Module):
    """Quantizes one tensor to uint8 codes and back; learned unless the contract fixes it.

    Args:
        quantizer: What the contract says about the tensor, see `spaces.operators.Operator`.
    """

    scale: Tensor
    beta: Tensor
    start_scale: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        if quantizer in FIXED_QUANTIZERS:
            scale, zero_point = FIXED_QUANTIZERS[quantizer]
            self.register_buffer("scale", torch.tensor(scale), persistent=False)
            self.register_buffer("beta", torch.tensor(-zero_point * scale), persistent=False)
        else:
            self.scale = nn.Parameter(torch.tensor(1.0))
            self.beta = nn.Parameter(torch.tensor(0.0), requires_grad=quantizer in ("free", "offset"))
            self.register_buffer("start_scale", torch.tensor(0.0))  # 0: not calibrated yet

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x` of any shape."""
        scale = self.bounded_scale()
        if self.quantizer == "offset" and not self.training:
            # The reference's order of operations: another one flips codes, which deep networks amplify.
            offset = -self._zero_point(scale) * scale
            return ((x - offset) / scale).clamp_(0, MAX_CODE).round_().mul_(scale).add_(offset)
        gradient_scale = 1 / math.sqrt(x.numel() / x.shape[0] * MAX_CODE)
        result: Tensor = _quantize_activation(x, scale, self.beta, self._zero_point(scale), gradient_scale)
        return result

    def bounded_scale(self) -> Tensor:
        """The scale within its bounds; the bound passes gradients, so that a scale can come back."""
        if self.quantizer in FIXED_QUANTIZERS:
            return self.scale
        start = self.start_scale.item()
        lowest, highest = max(MIN_SCALE, start / MAX_SCALE_CHANGE), start * MAX_SCALE_CHANGE or math.inf
        if self.quantizer == "relu6":
            highest = min(highest, RELU6_MAX_SCALE)
        if lowest <= self.scale.item() <= highest:
            return self.scale
        return self.scale.detach().clamp(min(lowest, highest), highest) + (self.scale - self.scale.detach())

    def quant_params(self) -> tuple[float, int]:
        """(scale, zero_point): the scale a float32 value, the zero point in [0, 255]."""
        scale = self.bounded_scale()
        return scale.item(), self._zero_point(scale)

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Start from the range [low, high] of the tensor; it is widened to contain 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale.fill_(max((high - low) / MAX_CODE, 10 * MIN_SCALE))
        self.start_scale.copy_(self.scale)
        self.beta.fill_(low)

    @torch.no_grad()
    def set_learned(self, scale: float, beta: float) -> None:
        """Take a scale (positive) and an offset that were learned elsewhere."""
        self.scale.fill_(max(scale, MIN_SCALE))
        self.start_scale.copy_(self.scale)
        self.beta.fill_(beta)

    def _zero_point(self, scale: Tensor) -> int:
        zero_point = -self.beta.item() / scale.item()
        # What is not a number shows in the output, where training looks for it.
        return min(MAX_CODE, max(0, round(zero_point))) if math.isfinite(zero_point) else 0
