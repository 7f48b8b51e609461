"""Learned fake quantization against the contract's formula and a textbook composition in autograd."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from spaceevo.errors import ArtifactError
from spaceevo.graph.tensors import FIXED_QUANTIZERS, RELU6_MAX_SCALE
from spaceevo.nets.fake_quant import ActivationQuantizer, fake_quantize_weight, weight_codes

pytestmark = pytest.mark.usefixtures("one_thread")


few = settings(max_examples=60)
SEEDS = st.integers(0, 2**31)
SCALES = st.floats(1e-3, 10)
SHAPES = st.sampled_from([(2, 3, 4, 4), (1, 5, 1, 1), (4, 7), (3, 2, 5, 3)])


def randn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x):
    """Straight-through rounding."""
    return x + (x.round() - x).detach()


def contract(x, scale, zero_point):
    codes = torch.clamp(torch.round(x / scale) + zero_point, 0, 255)
    return (codes - zero_point) * scale


def quantizer_with(scale, beta, kind="free"):
    quantizer = ActivationQuantizer(kind)
    with torch.no_grad():
        quantizer.scale.fill_(scale)
        quantizer.beta.fill_(beta)
    return quantizer


def spread(shape, scale, zero_point, seed):
    """Values over the range and beyond on both sides, clear of rounding ties and of the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-80, 256 + 80, shape, generator=generator).float()
    offset = torch.rand(shape, generator=generator) * 0.9 - 0.45
    offset = torch.where(offset.abs() < 0.02, torch.full_like(offset, 0.1), offset)
    return (codes + offset - zero_point) * scale


@few
@given(SHAPES, SCALES, st.integers(0, 255), SEEDS)
def test_forward_is_the_contract(shape, scale, zero_point, seed):
    quantizer = quantizer_with(scale, -zero_point * scale)
    x = spread(shape, scale, zero_point, seed)
    assert quantizer.quant_params() == (pytest.approx(scale), zero_point)
    with torch.no_grad():
        torch.testing.assert_close(quantizer(x), contract(x, quantizer.scale, zero_point), rtol=0, atol=0)
        channels_last = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        torch.testing.assert_close(quantizer(channels_last), quantizer(x), rtol=0, atol=0)


@few
@given(st.integers(-3, 3), st.integers(0, 255), SEEDS)
def test_forward_rounds_half_to_even(power, zero_point, seed):
    # With a power of two every half is exact
    scale = 2.0**power
    x = torch.randint(-600, 600, (64,), generator=torch.Generator().manual_seed(seed)) * (scale / 2)
    quantizer = quantizer_with(scale, -zero_point * scale)
    assert torch.equal(quantizer(x[None]).detach()[0], contract(x, scale, zero_point))


def test_zero_stays_zero():
    for beta in (-0.3, -1.234, -77.7):
        assert quantizer_with(0.7, beta)(torch.zeros(1, 4)).abs().max() == 0


@few
@given(SHAPES, SCALES, st.integers(0, 255), st.floats(-0.4, 0.4), SEEDS)
def test_gradients_are_those_of_the_textbook(shape, scale, zero_point, beta_offset, seed):
    beta = min(0.0, (beta_offset - zero_point) * scale)
    quantizer = quantizer_with(scale, beta)
    x = spread(shape, scale, zero_point, seed).requires_grad_()
    g = randn(shape, seed + 1)
    (quantizer(x) * g).sum().backward()

    own_x, own_scale, own_beta = (t.detach().double().requires_grad_() for t in (x, quantizer.scale, quantizer.beta))
    point = rounded(-own_beta / own_scale)
    codes = rounded((own_x / own_scale).clamp(-zero_point, 255 - zero_point))
    # Outside the range the code less the zero point is an end of it, which moves with the zero point
    low, high = own_x / own_scale < -zero_point, own_x / own_scale > 255 - zero_point
    steps = torch.where(low, -point, torch.where(high, 255 - point, codes))
    (steps * own_scale * g).sum().backward()

    factor = 1 / math.sqrt(x[0].numel() * 255)  # LSQ, Section 2.2, per image
    size = float((g.double() * own_x.detach()).abs().sum() / scale + 300 * g.abs().sum())
    torch.testing.assert_close(x.grad.double(), own_x.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.scale.grad.double(), own_scale.grad * factor, rtol=1e-4, atol=1e-6 * size)
    torch.testing.assert_close(quantizer.beta.grad.double(), own_beta.grad * factor, rtol=1e-4, atol=1e-5)


@few
@given(st.sampled_from(["relu", "relu6"]), st.floats(1e-3, 0.02), SEEDS)
def test_gradients_after_relu(kind, scale, seed):
    quantizer = quantizer_with(scale, 0.0, kind)
    x = spread((2, 3, 4, 4), scale, 0, seed).requires_grad_()
    g = randn(x.shape, seed + 1)
    (quantizer(x) * g).sum().backward()
    own_x, own_scale = (t.detach().double().requires_grad_() for t in (x, quantizer.scale))
    (rounded((own_x / own_scale).clamp(0, 255)) * own_scale * g).sum().backward()
    assert quantizer.beta.grad is None
    torch.testing.assert_close(x.grad.double(), own_x.grad, rtol=1e-5, atol=1e-6)
    factor = 1 / math.sqrt(48 * 255)
    torch.testing.assert_close(quantizer.scale.grad.double(), own_scale.grad * factor, rtol=1e-4, atol=1e-2)


def test_gradients_with_different_memory_formats():
    grads = []
    for g_format in (torch.contiguous_format, torch.channels_last):
        quantizer = quantizer_with(0.02, -1.0)
        x = randn((2, 6, 5, 5), 0).contiguous(memory_format=torch.channels_last).requires_grad_()
        quantizer(x).backward(randn(x.shape, 1).contiguous(memory_format=g_format))
        grads.append((x.grad, quantizer.scale.grad, quantizer.beta.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_fixed_quantizers():
    for kind, (scale, zero_point) in FIXED_QUANTIZERS.items():
        quantizer = ActivationQuantizer(kind)
        assert quantizer.quant_params() == (scale, zero_point)
        assert not list(quantizer.parameters())
        assert not quantizer.state_dict(), "what is fixed is not stored"
        x = spread((2, 40), scale, zero_point, 0).requires_grad_()
        y = quantizer(x)
        torch.testing.assert_close(y, contract(x, scale, zero_point), rtol=0, atol=0)
        y.sum().backward()
        low, high = -zero_point * scale, (255 - zero_point) * scale
        assert torch.equal(x.grad, ((x > low) & (x < high)).float())


def test_relu6_scale_is_bounded_and_can_come_back():
    quantizer = quantizer_with(1.0, 0.0, "relu6")
    bound = torch.tensor(RELU6_MAX_SCALE).item()  # as float32
    for scale in (1.0, 123.4):
        assert quantizer_with(scale, 0.0, "relu6").quant_params() == (bound, 0)
    x = torch.tensor([[-1.0, 3.0, 5.99, 6.0, 8.0]])
    y = quantizer(x)
    assert y.max() <= 6
    assert y[0, 0] == 0
    # Every value that is cut off asks for a larger or smaller scale, beyond the bound too
    y.sum().backward()
    assert quantizer.scale.grad.abs() > 0
    free = quantizer_with(1.0, 0.0, "relu")
    assert free.quant_params() == (1.0, 0)


@pytest.mark.parametrize("scale", [0.0, -0.5, -100.0, 1e-12])
def test_scale_stays_positive(scale):
    quantizer = quantizer_with(scale, 0.0)
    bounded, zero_point = quantizer.quant_params()
    assert bounded == pytest.approx(1e-6)
    assert 0 <= zero_point <= 255
    y = quantizer(torch.randn(2, 3))
    assert torch.isfinite(y).all()
    y.sum().backward()
    assert torch.isfinite(quantizer.scale.grad)


@few
@given(st.floats(-50, 50), st.floats(0, 100))
def test_set_range_contains_it_and_zero(low, width):
    quantizer = ActivationQuantizer("free")
    quantizer.set_range(low, low + width)
    scale, zero_point = quantizer.quant_params()
    lowest, highest = -zero_point * scale, (255 - zero_point) * scale
    assert 0 <= zero_point <= 255
    assert lowest <= min(low, 0) + 0.51 * scale
    assert highest >= max(low + width, 0) - 0.51 * scale
    # As fine as the range allows
    assert scale <= max((max(low + width, 0) - min(low, 0)) / 255, 1e-5) * 1.001


COMPOSITIONS = {
    "normalized": lambda quantizer, a, b, gamma, bias: quantizer(
        F.batch_norm(a, None, None, gamma, bias, True, 0.0, 1e-5)
    ),
    "gate": lambda quantizer, a, b, gamma, bias: quantizer(a * (1 / 6) + 0.5),
    "product": lambda quantizer, a, b, gamma, bias: quantizer(a * b),
    "product with one per channel": lambda quantizer, a, b, gamma, bias: quantizer(a * b[:, :, :1, :1]),
    "sum": lambda quantizer, a, b, gamma, bias: quantizer(a + b),
}
FUSED = {
    "normalized": lambda quantizer, a, b, gamma, bias: quantizer.of_normalized(a, gamma, bias, 1e-5),
    "gate": lambda quantizer, a, b, gamma, bias: quantizer.of_gate(a),
    "product": lambda quantizer, a, b, gamma, bias: quantizer.of_product(a, b),
    "product with one per channel": lambda quantizer, a, b, gamma, bias: quantizer.of_product(a, b[:, :, :1, :1]),
    "sum": lambda quantizer, a, b, gamma, bias: quantizer.of_sum(a, b),
}


@pytest.mark.parametrize("g_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["free", "relu", "relu6", "hard_sigmoid_input"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_is_the_composition(name, kind, g_format):
    """The forward pass bit for bit, the gradients to the rounding of float32 sums."""
    if name == "gate":
        kind = "gate"
    results = []
    for run in (COMPOSITIONS[name], FUSED[name]):
        quantizer = ActivationQuantizer(kind)
        if kind not in FIXED_QUANTIZERS:
            # Two thirds of the values inside the range
            quantizer.set_range(0.0 if kind.startswith("relu") else -0.9, 1.2)
        a, b = (2 * randn((4, 6, 5, 5), seed).contiguous(memory_format=torch.channels_last) for seed in (0, 1))
        gamma, bias = torch.tensor([1.0, -0.5, 0.0, 2.0, 1e-3, -1.0]), randn(6, 2)
        leaves = [tensor.requires_grad_() for tensor in (a, b, gamma, bias)]
        y = run(quantizer, *leaves)
        y.backward(randn(y.shape, 3).contiguous(memory_format=g_format))
        results.append((y.detach(), [p.grad for p in (*leaves, *quantizer.parameters())]))
    (expected, gradients), (actual, fused_gradients) = results
    assert torch.equal(actual, expected)
    assert actual.stride() == expected.stride(), "the next convolution reads the same memory format"
    assert len(set(expected.flatten().tolist())) > 20
    for one, other in zip(gradients, fused_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-5, atol=2e-6)


def test_nothing_is_kept_for_the_quantizer():
    """Of the tensors kept for the backward pass only the input and the output of the whole have its size."""
    a, b = (randn((4, 6, 5, 5), seed).requires_grad_() for seed in (0, 1))
    gamma, bias = torch.ones(6, requires_grad=True), torch.zeros(6, requires_grad=True)
    for name, run in FUSED.items():
        quantizer = ActivationQuantizer("gate" if name == "gate" else "free")
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            y = run(quantizer, a, b, gamma, bias)
        known = {tensor.data_ptr() for tensor in (a, b, y)}
        assert {x.data_ptr() for x in kept if x.numel() == a.numel()} <= known, name
        assert kept


@few
@given(st.sampled_from([63, 127]), st.sampled_from([(4, 3, 3, 3), (5, 1, 5, 5), (3, 8)]), st.booleans(), SEEDS)
def test_weights(w_qmax, shape, per_channel, seed):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(shape[0] if per_channel else 1, generator=generator) * 0.1 + 0.01
    steps = torch.randint(-w_qmax - 20, w_qmax + 21, shape, generator=generator)
    offset = torch.rand(shape, generator=generator) * 0.8 - 0.4
    column = scale.view(-1, *[1] * (len(shape) - 1))
    weight = ((steps + offset) * column).requires_grad_()
    scale.requires_grad_()
    y = fake_quantize_weight(weight, scale, w_qmax)
    codes = steps.clamp(-w_qmax, w_qmax).float()
    assert torch.equal(weight_codes(weight.detach(), scale.detach(), w_qmax), codes)
    assert torch.equal(y, codes * column)
    g = randn(shape, seed + 1)
    y.backward(g)

    own_w, own_s = weight.detach().double().requires_grad_(), scale.detach().double().requires_grad_()
    own_column = own_s.view(-1, *[1] * (len(shape) - 1))
    (rounded((own_w / own_column).clamp(-w_qmax, w_qmax)) * own_column * g).sum().backward()
    num_shared = math.prod(shape[1:] if per_channel else shape)  # LSQ, Section 2.2: of what shares the scale
    factor = 1 / math.sqrt(num_shared * w_qmax)
    assert scale.grad.shape == scale.shape
    torch.testing.assert_close(weight.grad.double(), own_w.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scale.grad.double(), own_s.grad * factor, rtol=1e-4, atol=1e-4)


def test_a_dead_channel_of_weights_can_come_back():
    weight = torch.zeros(2, 3, 3, 3, requires_grad=True)
    scale = torch.full((2,), 1e-8, requires_grad=True)
    y = fake_quantize_weight(weight, scale, 127)
    assert y.abs().max() == 0
    y.backward(torch.ones_like(y))
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert torch.isfinite(scale.grad).all()


def test_not_a_number_shows_where_training_looks():
    quantizer = quantizer_with(float("nan"), -1.0)
    assert torch.isnan(quantizer(torch.randn(2, 8))).all()
    quantizer = quantizer_with(0.1, float("nan"))
    quantizer(torch.linspace(-50, 50, 8)[None]).sum().backward()
    assert torch.isnan(quantizer.scale.grad)


def test_constant_tensor():
    quantizer = ActivationQuantizer("free")
    quantizer.set_range(0.0, 0.0)
    scale, zero_point = quantizer.quant_params()
    assert (0 < scale <= 1e-5, zero_point) == (True, 0)
    assert quantizer(torch.zeros(2, 3)).abs().max() == 0
    # It said nothing about the range, so training may go anywhere
    with torch.no_grad():
        quantizer.scale.fill_(0.5)
    assert quantizer.quant_params() == (0.5, 0)
    quantizer.set_range(3.0, 3.0)
    assert quantizer.quant_params() == (pytest.approx(3 / 255), 0)
    assert quantizer(torch.full((2, 3), 3.0)).tolist() == [[pytest.approx(3.0)] * 3] * 2


def test_what_was_learned_elsewhere():
    quantizer = ActivationQuantizer("free")
    quantizer.set_learned(0.5, -2.0)
    assert quantizer.quant_params() == (0.5, 4)
    for scale, beta in [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (0.1, math.nan)]:
        with pytest.raises(ArtifactError, match="positive scale"):
            quantizer.set_learned(scale, beta)
    assert quantizer.quant_params() == (0.5, 4)


@pytest.mark.parametrize("kind", ["free", "relu", "relu6"])
@pytest.mark.parametrize("start", [0.02, 0.0, -0.02])
@pytest.mark.parametrize("scale", [0.0, -3.0])
def test_loaded_scales_that_are_not_positive_count_as_the_smallest_allowed(scale, start, kind):
    quantizer = ActivationQuantizer(kind)
    state = {"scale": torch.tensor(scale), "beta": torch.tensor(0.0), "start_scale": torch.tensor(start)}
    quantizer.load_state_dict(state)
    bounded, zero_point = quantizer.quant_params()
    assert bounded == pytest.approx(0.02 / 8 if start > 0 else 1e-6)
    assert zero_point == 0
    y = quantizer(torch.linspace(-1, 1, 9)[None])
    assert torch.isfinite(y).all()
    assert y.max() > 0
