"""Learned fake quantization (LSQ+, CVPR Workshops 2020, Section 3), with the integer zero point of the contract.

A clamp, a rounding and a few sums, several times faster on a CPU than torch's own learnable fake-quantize operators
(see `benchmarks/`). Training keeps no tensor for it that a float network would not keep: what is computed just before
the quantizer (batch norm, gate, product, sum) is computed again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spaceevo.errors import ArtifactError
from spaceevo.graph.tensors import FIXED_QUANTIZERS, NUM_CODES, RELU6_MAX_SCALE, Quantizer

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
        return gx, *_grad_scale_and_beta(ctx, g, y, gx, _dot(gx, x), scale, beta), None, None


class _FakeQuantizeNormalized(torch.autograd.Function):
    """Batch norm by the batch's statistics, then `_FakeQuantizeActivation`, without keeping what is between them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        bias: Tensor,
        eps: float,
        scale: Tensor,
        beta: Tensor,
        zero_point: int,
        gradient_scale: float,
    ) -> Tensor:
        s = scale.item()
        y, mean, inverse_std = torch.native_batch_norm(x, gamma, bias, None, None, True, 0.0, eps)
        y.mul_(1 / s).clamp_(-zero_point, MAX_CODE - zero_point).round_().mul_(s)
        ctx.save_for_backward(x, gamma, bias, mean, inverse_std, y, scale, beta)
        ctx.limits = (-zero_point * s, (MAX_CODE - zero_point) * s)
        ctx.gradient_scale, ctx.eps = gradient_scale, eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, gamma, bias, mean, inverse_std, y, scale, beta = ctx.saved_tensors
        gain = gamma * inverse_std
        normalized = torch.addcmul(_per_channel(bias - mean * gain), x, _per_channel(gain))
        # In the memory of what it is computed from
        inside = torch.ops.aten.hardtanh_backward.grad_input(g, normalized, *ctx.limits, grad_input=normalized)
        gx, grad_gamma, grad_bias = torch.ops.aten.native_batch_norm_backward(
            inside, x, gamma, None, None, mean, inverse_std, True, ctx.eps, [True, True, True]
        )
        if not ctx.needs_input_grad[4]:
            return gx, grad_gamma, grad_bias, None, None, None, None, None
        # Batch norm has summed already: its output is gamma times what grad_gamma is weighted with, plus the bias.
        dot = torch.dot(grad_gamma, gamma) + torch.dot(grad_bias, bias)
        grads = _grad_scale_and_beta(ctx, g, y, inside, dot, scale, beta)
        return gx, grad_gamma, grad_bias, None, *grads, None, None


class _FakeQuantizeGate(torch.autograd.Function):
    """x / 6 + 0.5 at the gate's scale and zero point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # The scale is a power of two: to multiply by it before the addition changes no bit.
        return torch.mul(x, NUM_CODES / 6).add_(NUM_CODES / 2).clamp_(0, MAX_CODE).round_().mul_(1 / NUM_CODES)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gx: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], x, -3.0, 6 * (MAX_CODE / NUM_CODES - 0.5))
        return gx.mul_(1 / 6)


class _FakeQuantizeOfTwo(torch.autograd.Function):
    """The sum or the product of two tensors, then `_FakeQuantizeActivation`, without keeping what is between them."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        product: bool,
        scale: Tensor,
        beta: Tensor,
        zero_point: int,
        gradient_scale: float,
    ) -> Tensor:
        s = scale.item()
        y = a * b if product else a + b
        y.mul_(1 / s).clamp_(-zero_point, MAX_CODE - zero_point).round_().mul_(s)
        ctx.save_for_backward(a, b, y, scale, beta)
        ctx.limits = (-zero_point * s, (MAX_CODE - zero_point) * s)
        ctx.gradient_scale, ctx.product = gradient_scale, product
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        a, b, y, scale, beta = ctx.saved_tensors
        x = a * b if ctx.product else a + b
        gx = torch.ops.aten.hardtanh_backward(g, x, *ctx.limits)
        grads: tuple[Tensor | None, Tensor | None] = (None, None)
        if ctx.needs_input_grad[3]:
            grads = _grad_scale_and_beta(ctx, g, y, gx, _dot(gx, x), scale, beta)
        del x
        ga, gb = (gx * b, gx * a) if ctx.product else (gx, gx)
        return ga.sum_to_size(a.shape), gb.sum_to_size(b.shape), None, *grads, None, None


class _FakeQuantizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, w_qmin: int, w_qmax: int) -> Tensor:
        s = scale.view(-1, *[1] * (weight.dim() - 1))
        y = torch.div(weight, s).clamp_(w_qmin, w_qmax).round_().mul_(s)
        ctx.save_for_backward(weight, scale, y)  # nothing that would not be kept anyway
        ctx.limits = (w_qmin, w_qmax)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        weight, scale, y = ctx.saved_tensors
        ratio = weight / scale.view(-1, *[1] * (weight.dim() - 1))
        gw = torch.ops.aten.hardtanh_backward(g, ratio, *ctx.limits)
        # Inside the range y moves with the scale by (y - weight) / scale, at its ends by y / scale.
        moved = torch.mul(weight, gw, out=ratio).addcmul_(g, y, value=-1).flatten(1).sum(1)
        grad_scale = -moved.sum_to_size(scale.shape) / scale
        num_shared = weight.numel() // scale.numel()
        return gw, grad_scale / math.sqrt(num_shared * ctx.limits[1]), None, None


_quantize_activation: Callable[..., Tensor] = _FakeQuantizeActivation.apply
_quantize_normalized: Callable[..., Tensor] = _FakeQuantizeNormalized.apply
_quantize_gate: Callable[..., Tensor] = _FakeQuantizeGate.apply
_quantize_of_two: Callable[..., Tensor] = _FakeQuantizeOfTwo.apply
_quantize_weight: Callable[..., Tensor] = _FakeQuantizeWeight.apply


def _grad_scale_and_beta(
    ctx: Any, g: Tensor, y: Tensor, inside: Tensor, dot: Tensor, scale: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of LSQ+; `inside` sums up to the gradients inside the range, `dot` is that of them times the input."""
    # Inside the range y moves with the scale by (y - x) / scale, at its ends by (y - beta) / scale.
    moved = _dot(g, y) - dot
    if not beta.requires_grad:  # it is 0
        return moved / scale * ctx.gradient_scale, None
    outside = g.sum() - inside.sum()  # added up in one order: exactly 0 where nothing is outside
    return (moved - outside * beta) / scale * ctx.gradient_scale, outside * ctx.gradient_scale


def _per_channel(values_C: Tensor) -> Tensor:
    return values_C.view(1, -1, 1, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the elementwise product, without making the product where both lie in memory alike."""
    size, last_channels = a.numel(), torch.channels_last
    if a.stride() == b.stride() and (
        a.is_contiguous() or (a.dim() == 4 and a.is_contiguous(memory_format=last_channels))
    ):
        return torch.dot(a.as_strided((size,), (1,)), b.as_strided((size,), (1,)))
    return (a * b).sum()


def fake_quantize_weight(weight: Tensor, scale: Tensor, w_qmax: int, w_qmin: int | None = None) -> Tensor:
    """Fake-quantize a weight, symmetric.

    Args:
        weight: [out, ...].
        scale: [out], one per channel, or [1], one for all; positive, learned.
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
        quantizer: What the contract says about the tensor, see `graph.tensors.Quantizer`.
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
        if self.quantizer == "offset" and not self.training:
            # The reference's order of operations: another one flips codes, which deep networks amplify.
            scale = self.bounded_scale()
            offset = -self._zero_point(scale) * scale
            return ((x - offset) / scale).clamp_(0, MAX_CODE).round_().mul_(scale).add_(offset)
        return _quantize_activation(x, *self._parameters_for(x))

    def of_normalized(self, x_BCHW: Tensor, gamma: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Fake-quantize the batch norm of `x`, by the batch's statistics; the same numbers in less time and memory."""
        return _quantize_normalized(x_BCHW, gamma, bias, eps, *self._parameters_for(x_BCHW))

    def of_gate(self, x: Tensor) -> Tensor:
        """Fake-quantize x / 6 + 0.5; of a "gate" only."""
        assert self.quantizer == "gate", self.quantizer
        return _quantize_gate(x)

    def of_product(self, a: Tensor, b: Tensor) -> Tensor:
        """Fake-quantize a * b."""
        return _quantize_of_two(a, b, True, *self._parameters_for(a))

    def of_sum(self, a: Tensor, b: Tensor) -> Tensor:
        """Fake-quantize a + b."""
        return _quantize_of_two(a, b, False, *self._parameters_for(a))

    def _parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor, int, float]:
        """(scale, beta, zero point, gradient scale) for a tensor of the size of `x`."""
        scale = self.bounded_scale()
        return scale, self.beta, self._zero_point(scale), 1 / math.sqrt(x.numel() / x.shape[0] * MAX_CODE)

    def bounded_scale(self) -> Tensor:
        """The scale within its bounds; the bound passes gradients, so that a scale can come back."""
        if self.quantizer in FIXED_QUANTIZERS:
            return self.scale
        start = max(self.start_scale.item(), 0.0)
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
        """Start from the range [low, high] of the tensor; it is widened to contain 0.

        A range of zero width says nothing about the tensor: the smallest scale, which training may change at will.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale.fill_(max((high - low) / MAX_CODE, 10 * MIN_SCALE))
        self.start_scale.copy_(self.scale if high - low != 0 else torch.tensor(0.0))
        self.beta.fill_(low)

    @torch.no_grad()
    def set_learned(self, scale: float, beta: float) -> None:
        """Take a scale and an offset that were learned elsewhere.

        Raises:
            ArtifactError: The scale is not positive, or one of them is not a finite number.
        """
        if not (math.isfinite(scale) and math.isfinite(beta) and scale > 0):
            raise ArtifactError(
                "A quantizer needs a positive scale and a finite offset",
                found=f"Scale {scale:g}, offset {beta:g}",
                remedy="Take the weights of a training that did not diverge",
            )
        self.scale.fill_(max(scale, MIN_SCALE))
        self.start_scale.copy_(self.scale)
        self.beta.fill_(beta)

    def _zero_point(self, scale: Tensor) -> int:
        zero_point = -self.beta.item() / scale.item()
        # What is not a number shows in the output, where training looks for it.
        return min(MAX_CODE, max(0, round(zero_point))) if math.isfinite(zero_point) else 0
