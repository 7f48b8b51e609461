"""Post-training quantization: ranges, weight scales, bias correction, and LSQ+ from there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from made_models import made_node
from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import DataError, TrainingError
from spaceevo.graph.ops import Conv, Quantize
from spaceevo.graph.tensors import square
from spaceevo.nets.executors import run_integer
from spaceevo.nets.fake_quant import ActivationQuantizer, fake_quantize_weight
from spaceevo.nets.network import extract, program_of, single_network
from spaceevo.progress import silent
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train import loop, ptq
from spaceevo.train.batches import Images, to_input
from spaceevo.train.datasets import digits
from spaceevo.train.evaluation import calibrated_subnet, predict_logits, top1
from spaceevo.train.ptq import Observed, PtqSettings, bias_corrected, mse_range, output_means, with_ranges

DATA = DataSettings(name="digits", image_size=32, flip=False, shift=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images():
    data = digits.load(digits.Settings(), 32, Path("unused"))
    train = Images(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    return train, Images(torch.from_numpy(data.val_images), torch.from_numpy(data.val_labels))


@pytest.fixture(scope="module")
def program():
    """Bottlenecks, squeeze-and-excite with hard-swish, fused convolutions with swish."""
    micro = load_hyperspace("micro")
    return program_of(micro.space(micro.decode("micro-234-000"), 10).smallest())


@pytest.fixture(scope="module")
def trained(images, program, tmp_path_factory, one_thread):
    """A float network of about 97 %, recalibrated."""
    network = single_network(program, 127, torch.Generator().manual_seed(0))
    plan = TrainingSettings(epochs_fp32=3, epochs_int8=0, batch_size=64, lr=0.3)
    folder = tmp_path_factory.mktemp("trained")
    loop.train(network, lambda _: [program], images[0], plan, DATA, seed=0, purpose="one", folder=folder,
               progress=silent)  # fmt: skip
    return calibrated_subnet(network, program, images[0], 4)


@pytest.fixture(scope="module")
def pixels(images):
    return images[0].pixels[:128]


def accuracy(network, program, images):
    return top1(predict_logits(network, program, images[1].pixels), images[1].labels)


def same(network, other):
    states = network.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# --- one convolution, by hand ---


def one_convolution(bias=0.1):
    """1x1, three inputs, one output; weight codes up to 4."""
    own = (
        made_node("input", Quantize(), ("input",), square(3, 4)),
        made_node("conv", Conv(1, norm="bias"), ("input",), square(3, 4)),
    )
    network = single_network(own, 4, torch.Generator())
    with torch.no_grad():
        network.weighted["conv"].weight.copy_(torch.tensor([1.0, 0.4, 0.2]).view(1, 3, 1, 1))
        network.weighted["conv"].bias.fill_(bias)
    return network.eval(), own


def test_bias_correction_by_hand():
    network, own = one_convolution()
    white = torch.full((5, 3, 4, 4), 255, dtype=torch.uint8)  # 2.0 each, which is a code
    extremes = PtqSettings(ranges="percentile", percentile=100, weight_scales="max")
    quantized = with_ranges(network, own, white, extremes, seed=0)
    assert quantized.weighted["conv"].weight_scale.item() == 0.25
    # Codes 4, 2, 1 stand for 1, 0.5, 0.25: the sum is 2 (0.1 + 0.05) too large.
    assert output_means(network, own, white)["conv"].item() == pytest.approx(2 * 1.6 + 0.1)
    assert output_means(quantized, own, white)["conv"].item() == pytest.approx(2 * 1.75 + 0.1)
    corrected = bias_corrected(quantized, network, own, white)
    assert corrected.weighted["conv"].bias.item() == pytest.approx(0.1 - 0.3)
    assert output_means(corrected, own, white)["conv"].item() == pytest.approx(2 * 1.6 + 0.1)
    assert quantized.weighted["conv"].bias.item() == pytest.approx(0.1), "a copy is corrected"


def test_means_count_padding():
    """A 3x3 sum at an edge sees zeros; the mean over positions must too."""
    own = (
        made_node("input", Quantize(), ("input",), square(3, 4)),
        made_node("conv", Conv(2, 3), ("input",), square(3, 4)),
    )
    network = single_network(own, 127, torch.Generator().manual_seed(1)).eval()
    pixels = torch.randint(0, 256, (7, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(to_input(pixels, 4), own).mean((0, 2, 3))
    torch.testing.assert_close(output_means(network, own, pixels)["conv"].float(), expected)


def test_every_mean_is_restored(trained, program, pixels):
    wanted = output_means(trained, program, pixels)
    quantized = with_ranges(trained, program, pixels, PtqSettings(), seed=0)
    quantized.w_qmax = 15  # coarse weights make shifts that are worth correcting
    for weighted in quantized.weighted.values():
        with torch.no_grad():
            weighted.weight_scale *= 127 / 15
    corrected = bias_corrected(quantized, trained, program, pixels)

    def shifts(network):
        return {name: (mean - wanted[name]).abs() for name, mean in output_means(network, program, pixels).items()}

    before, after = shifts(quantized), shifts(corrected)
    assert before["head/logits"].mean() > 0.02
    for node in program:
        if node.has_weights:
            step = quantized.quant_params(node.inputs[0])[0] * quantized.fold(node, 1.0)[1]
            assert (after[node.id] <= 0.6 * step + 1e-5).all(), "no further off than the bias's grid"
    assert sum(s.mean() for s in after.values()) < 0.1 * sum(s.mean() for s in before.values())


# --- ranges ---


def observed(values):
    return Observed(values, values.min().item(), values.max().item())


def error_of(values, quantizer, low, high):
    own = ActivationQuantizer(quantizer)
    own.set_range(low, high)
    with torch.no_grad():
        return (own(values.view(1, -1)) - values).square().mean(dtype=torch.float64).item()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    degrees=st.floats(0.7, 8),
    shift=st.floats(-3, 3),
    scale=st.floats(1e-3, 1e3),
    quantizer=st.sampled_from(["free", "relu", "relu6"]),
)
def test_mse_is_at_least_as_good_as_min_max(seed, degrees, shift, scale, quantizer):
    values = np.random.default_rng(seed).standard_t(degrees, 2000) + shift
    values = torch.from_numpy(values * scale).float()
    if quantizer != "free":
        values = values.clamp(0, 6 if quantizer == "relu6" else None)
    tensor = observed(values)
    low, high = mse_range(tensor, quantizer)
    # The arithmetic of the two differs in the last bit.
    assert error_of(values, quantizer, low, high) <= error_of(values, quantizer, tensor.low, tensor.high) * (1 + 1e-4)
    assert min(tensor.low, 0) <= low <= 0 <= high <= max(tensor.high, 0)


@pytest.mark.parametrize("side", [-1, 1])
def test_mse_clips_the_side_with_the_outlier(side):
    values = torch.randn(500_000, generator=torch.Generator().manual_seed(0))
    values[0] = side * 40
    low, high = mse_range(observed(values), "free")
    outer, inner = (high, -low) if side > 0 else (-low, high)
    assert outer < 30
    assert inner > 2.5
    assert error_of(values, "free", low, high) < 0.8 * error_of(
        values, "free", values.min().item(), values.max().item()
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), degrees=st.floats(0.7, 8), w_qmax=st.sampled_from([7, 63, 127]))
def test_mse_weight_scales_are_at_least_as_good_as_max(seed, degrees, w_qmax):
    weight = torch.from_numpy(np.random.default_rng(seed).standard_t(degrees, (4, 8, 3, 3))).float()

    def errors(how):
        with torch.no_grad():
            quantized = fake_quantize_weight(weight, ptq.weight_scale(weight, w_qmax, how), w_qmax)
        return (quantized - weight).square().sum((1, 2, 3))

    assert (errors("mse") <= errors("max")).all()
    assert w_qmax > 7 or errors("mse").sum() < errors("max").sum()


def test_largest_weight_has_the_largest_code():
    weight = torch.tensor([[1.0, -2.54], [0.0, 0.0]])
    scale = ptq.weight_scale(weight, 127, "max")
    assert scale[0].item() == pytest.approx(0.02)
    assert scale[1] > 0, "a channel of zeros"
    assert torch.equal(ptq.weight_scale(weight, 127, "mse")[1], scale[1])


def test_percentile():
    values = torch.cat([torch.linspace(-1, 1, 9_999), torch.tensor([500.0])])
    low, high = ptq.percentile_range(observed(values), 99.9)
    assert low == pytest.approx(-0.998, abs=1e-3)
    assert high == pytest.approx(0.998, abs=1e-3)
    assert ptq.percentile_range(Observed(values, -7.0, 700.0), 100) == (-7.0, 700.0), "sampled or not"


def test_extremes_are_exact_although_values_are_sampled(trained, program, pixels, monkeypatch):
    monkeypatch.setattr(ptq, "NUM_VALUES", 500)
    monkeypatch.setattr(ptq, "MAX_BATCH", 48)  # the last one is smaller
    seen = ptq.observe(trained, program, pixels, 0)
    taps = [node.id for node in program if node.out.is_learned]
    with torch.no_grad():
        _, tensors = trained.run_with_taps(to_input(pixels, 32), program, taps)
    for name, tensor in zip(taps, tensors, strict=True):
        assert (seen[name].low, seen[name].high) == pytest.approx((tensor.min().item(), tensor.max().item()), abs=1e-4)
        assert len(seen[name].values) <= 4 * len(pixels)
    assert "stage2/0/se/gate" not in seen, "fixed by the contract"


def test_the_seed_decides(trained, program, pixels, monkeypatch):
    monkeypatch.setattr(ptq, "NUM_VALUES", 500)
    how = PtqSettings(ranges="percentile", percentile=99)
    first, again, other = (with_ranges(trained, program, pixels, how, seed=seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    corrected = [bias_corrected(network, trained, program, pixels) for network in (first, again)]
    assert same(*corrected)


# --- the whole ---


@pytest.mark.parametrize("how", [{"ranges": "mse"}, {"ranges": "percentile", "weight_scales": "max"}], ids=str)
@pytest.mark.parametrize("w_qmax", [127, 63])
def test_little_is_lost(trained, program, images, pixels, how, w_qmax):
    floating = extract(trained, program)
    floating.w_qmax = w_qmax
    before = {name: tensor.clone() for name, tensor in floating.state_dict().items()}
    quantized = with_ranges(floating, program, pixels, PtqSettings(**how), seed=0)
    corrected = bias_corrected(quantized, floating, program, pixels)
    full = accuracy(floating, program, images)
    assert full > 0.9
    assert accuracy(corrected, program, images) > full - 0.01
    assert corrected.quantized
    assert not corrected.training
    assert not floating.quantized
    assert all(torch.equal(before[name], tensor) for name, tensor in floating.state_dict().items())
    x_BCHW = to_input(images[1].pixels[:16], 32)
    graph = corrected.integer_graph(program)
    assert max(int(np.abs(own.codes).max()) for own in graph.weights.values()) <= w_qmax
    with torch.no_grad():
        torch.testing.assert_close(run_integer(graph, x_BCHW), corrected(x_BCHW, program), rtol=0.05, atol=0.2)


@pytest.mark.parametrize("what", ["constant", "dead", "zero weights"])
def test_channels_without_information(trained, program, images, pixels, what):
    floating = extract(trained, program)
    stem = floating.weighted["stem/0/conv"]
    with torch.no_grad():
        if what == "constant":  # the norm's bias alone speaks
            stem.weight[3], stem.running_mean[3], stem.running_var[3], stem.bias[3] = 0.0, 0.0, 0.0, 0.7
        elif what == "dead":
            stem.gamma[3] = 0.0
        else:
            stem.weight[3], stem.bias[3] = 0.0, 0.0
    quantized = with_ranges(floating, program, pixels, PtqSettings(), seed=0)
    corrected = bias_corrected(quantized, floating, program, pixels)
    for tensor in corrected.state_dict().values():
        assert torch.isfinite(tensor).all()
    graph = corrected.integer_graph(program)
    assert np.isfinite(graph.weights["stem/0/conv"].scales).all()
    logits, others = (predict_logits(network, program, images[1].pixels) for network in (corrected, floating))
    assert (logits.argmax(1) == others.argmax(1)).float().mean() > 0.95


def test_no_images(trained, program, pixels):
    with pytest.raises(DataError, match="no images to calibrate on"):
        with_ranges(trained, program, pixels[:0], PtqSettings(), seed=0)


def test_values_that_overflow(trained, program, pixels):
    floating = extract(trained, program)
    with torch.no_grad():
        floating.weighted["stem/0/conv"].gamma.fill_(3e38)
    with pytest.raises(TrainingError, match=r"stem/0/conv.*not finite numbers"):
        with_ranges(floating, program, pixels, PtqSettings(), seed=0)


def test_norms_are_given_back(trained, program, images, pixels):
    folded = trained.float_graph(program).weights
    network = single_network(program, 127, torch.Generator())
    ptq.unfold_norms(network, program, folded, images[0].pixels[:512])
    x_BCHW = to_input(pixels, 32)
    with torch.no_grad():
        expected = trained(x_BCHW, program)
        torch.testing.assert_close(network(x_BCHW, program), expected, rtol=1e-3, atol=1e-3)
        by_batch = network.train()(to_input(images[0].pixels[:512], 32), program)
        assert (by_batch - network.eval()(to_input(images[0].pixels[:512], 32), program)).abs().mean() < 0.05
    stem = network.weighted["stem/0/conv"]
    assert not torch.allclose(stem.running_var, torch.ones(16), rtol=0.01), "statistics of its own"


# --- LSQ+ from there ---

#: 2 of 21 steps per epoch: 6 steps.
FINETUNING = TrainingSettings(epochs_fp32=1, epochs_int8=0.3, batch_size=64, lr_int8=0.01)


def finetune(quantized, program, images, folder, progress=silent):
    network = extract(quantized, program)
    files, curve = loop.train(network, lambda _: [program], images[0], FINETUNING, DATA, seed=0, purpose="fine",
                              folder=folder, progress=progress)  # fmt: skip
    return network, files, curve


@pytest.fixture(scope="module")
def quantized(trained, program, pixels):
    return with_ranges(trained, program, pixels, PtqSettings(), seed=0)


@pytest.fixture(scope="module")
def undisturbed(quantized, program, images, tmp_path_factory):
    return finetune(quantized, program, images, tmp_path_factory.mktemp("fine"))


def test_a_quantized_network_has_no_fp32_phase(undisturbed, quantized, program, images):
    network, files, curve = undisturbed
    assert [point.phase for point in curve] == ["lsq+"] * 6
    assert files.int8.exists()
    assert not files.fp32.exists()
    assert max(point.lr for point in curve) <= 0.01 * 64 / 256
    for name, quantizer in network.quantizers.items():
        if hasattr(quantizer, "start_scale"):
            assert torch.equal(quantizer.start_scale, quantized.quantizers[name].start_scale), "the ranges are kept"
    assert not same(network, quantized)
    recalibrated = calibrated_subnet(network, program, images[0], 4)
    assert accuracy(recalibrated, program, images) > accuracy(quantized, program, images) - 0.02


def test_finetuning_starts_from_the_scales_it_is_given(quantized, program, images, tmp_path):
    network = extract(quantized, program)
    stem = network.weighted["stem/0/conv"]
    with torch.no_grad():
        stem.weight_scale *= 0.5
    given = stem.weight_scale.clone()
    plan = TrainingSettings(epochs_int8=0.01, batch_size=64, lr_int8=1e-9)
    loop.train(network, lambda _: [program], images[0], plan, DATA, seed=0, purpose="one", folder=tmp_path,
               progress=silent)  # fmt: skip
    torch.testing.assert_close(stem.weight_scale, given)


class Interruption(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 5])
def test_finetuning_resumes_bit_for_bit(undisturbed, quantized, program, images, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    done = []

    def interrupt(step, _):
        if step == stop:
            raise Interruption

    with pytest.raises(Interruption):
        finetune(quantized, program, images, tmp_path, interrupt)
    network, files, curve = finetune(quantized, program, images, tmp_path, lambda step, _: done.append(step))
    assert done[0] == stop
    assert same(network, undisturbed[0])
    assert curve == undisturbed[2]
    assert files.int8.read_bytes() == undisturbed[1].int8.read_bytes()
