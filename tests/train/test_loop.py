"""The training loop: deterministic, resumable bit for bit, and goes back from where it diverged."""

import copy
import math
import random

import pytest
import torch

from spaceevo.config import DataSettings, SupernetSettings, TrainingSettings
from spaceevo.errors import ArtifactError, TrainingError
from spaceevo.nets.network import Network, program_of, single_network
from spaceevo.progress import silent
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.train import loop
from spaceevo.train.batches import Images
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.losses import alpha_divergence_loss
from spaceevo.train.supernet import Sandwich, make_supernet

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_CLASSES = 3
#: 3 steps per epoch: 6 steps in FP32, of which 2 train the largest subnet alone, then 6 of LSQ+.
SETTINGS = SupernetSettings(
    epochs_fp32=2, epochs_int8=2, batch_size=8, lr=0.5, lr_int8=0.1, large_first=0.3, num_random=1
)
NUM_STEPS, NUM_ALONE = 12, 2
DATA = DataSettings(flip=True, shift=2)


def space(depths=(1, 2), widths=(8, 16)):
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2)
    stage = ElasticStage("stage1", BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (1.0, 2.0)), widths, depths, 2)
    return SearchSpace("small-0-0", (stem, stage), Head(16, 24, "relu"), (12, 16), NUM_CLASSES)


def images(count=26):
    """Three classes, told apart by brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % NUM_CLASSES
    pixels = torch.randint(0, 80, (count, 3, 16, 16), generator=generator) + 80 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels)


def train(folder, progress=silent, seed=0, settings=SETTINGS, own_space=None, network=None):
    own_space = own_space or space()
    network = network or make_supernet(own_space, 63, seed)
    sample = Sandwich.all_of(own_space).programs(settings.num_random)
    files, curve = loop.train(
        network, sample, images(), settings, DATA, seed=seed, purpose="test", folder=folder, progress=progress,
        first_alone=settings.large_first,
    )  # fmt: skip
    return network, files, curve


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("undisturbed"))


def assert_same(network, other):
    assert network.quantized == other.quantized
    for name, tensor in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_same_seed_same_weights(undisturbed, tmp_path):
    network, _, curve = train(tmp_path)
    assert_same(network, undisturbed[0])
    assert curve == undisturbed[2]


def test_other_seed_other_weights(undisturbed, tmp_path):
    assert train(tmp_path, seed=1)[2] != undisturbed[2]


def test_curve(undisturbed):
    _, _, curve = undisturbed
    assert [point.step for point in curve] == list(range(NUM_STEPS))
    assert [point.phase for point in curve] == ["fp32"] * 6 + ["lsq+"] * 6
    # Peaks are per 256 images; from step 1 of 6 on a cosine that has warmed up over 5 %
    assert max(point.lr for point in curve[:6]) <= 0.5 * 8 / 256
    assert max(point.lr for point in curve[6:]) <= 0.1 * 8 / 256
    rates = [point.lr for point in curve]
    assert rates[1:6] == sorted(rates[1:6], reverse=True)
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert rates[5] < 0.15 * rates[1]
    assert [point.loss_smallest is None for point in curve] == [True] * NUM_ALONE + [False] * (NUM_STEPS - NUM_ALONE)


def test_the_first_program_is_trained_alone_at_first(undisturbed, tmp_path):
    done = []
    together = SETTINGS.model_copy(update={"large_first": 0.0})
    _, _, curve = train(tmp_path, lambda *counts: done.append(counts), settings=together)
    assert done == [(3 * (step + 1), 3 * NUM_STEPS) for step in range(NUM_STEPS)]
    assert all(point.loss_smallest is not None for point in curve)
    assert curve[0].loss == undisturbed[2][0].loss
    assert curve[1].loss != undisturbed[2][1].loss


def test_files(undisturbed, tmp_path):
    network, files, _ = undisturbed
    again = make_supernet(space(), 63, 7)
    load_weights(again, files.int8)
    again.quantized = True
    assert_same(again, network)
    load_weights(again, files.fp32)
    assert not torch.equal(again.weighted["stem/0/conv"].weight, network.weighted["stem/0/conv"].weight)
    assert torch.equal(again.weighted["stem/0/conv"].weight_scale, torch.ones(8)), "not quantized yet"
    assert sorted(p.name for p in files.int8.parent.iterdir()) == sorted([files.fp32.name, files.int8.name])


def test_it_learns(tmp_path):
    settings = SETTINGS.model_copy(update={"epochs_fp32": 10, "epochs_int8": 2, "lr": 2.0})
    _, _, curve = train(tmp_path, settings=settings)
    first, last = (sum(point.loss for point in part) / 6 for part in (curve[:6], curve[-6:]))
    assert last < 0.8 * first


class Interruption(Exception):
    pass


def trained(step):
    """Subnets trained in so many steps: the largest alone, then all three."""
    return min(step, NUM_ALONE) + 3 * max(0, step - NUM_ALONE)


def interrupt_after(step):
    def progress(done, total):
        assert total == trained(NUM_STEPS)
        if done == trained(step):
            raise Interruption

    return progress


@pytest.mark.parametrize("stops", [(1,), (2,), (5,), (6,), (7,), (8,), (11,), (12,), (3, 7, 9)])
def test_interrupted_and_continued(undisturbed, tmp_path, monkeypatch, stops):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(loop.time, "monotonic", iter(range(1000)).__next__)
    for stop in stops:
        with pytest.raises(Interruption):
            train(tmp_path, interrupt_after(stop))
        assert (tmp_path / "test-checkpoint.safetensors").exists() == (stop > 1)
    done = []
    network, files, curve = train(tmp_path, lambda subnets, _: done.append(subnets))
    assert done[0] == trained(stops[-1]), "it goes on with the step that was interrupted"
    assert_same(network, undisturbed[0])
    assert curve == undisturbed[2]
    assert files.fp32.read_bytes() == undisturbed[1].fp32.read_bytes()
    assert files.int8.read_bytes() == undisturbed[1].int8.read_bytes()
    assert not (tmp_path / "test-checkpoint.safetensors").exists()


def test_checkpoints_are_seconds_apart(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save_tensors", lambda path, *_: saved.append(path.name))
    monkeypatch.setattr(loop.time, "monotonic", iter(range(0, 10_000, 4)).__next__)  # 4 seconds a look
    train(tmp_path)
    assert 2 <= sum("checkpoint" in name for name in saved) <= 4


def test_damaged_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    with pytest.raises(Interruption):
        train(tmp_path, interrupt_after(4))
    checkpoint = tmp_path / "test-checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="checkpoint"):
        train(tmp_path)


def test_loss_that_is_not_a_number(tmp_path):
    network = make_supernet(space(), 63, 0)
    with torch.no_grad():
        network.weighted["head/logits"].weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"'test' is not a finite number at step 0.*lr"):
        train(tmp_path, network=network)
    assert not list(tmp_path.iterdir()), "no checkpoint of a broken network"


def test_every_range_is_started_from_data(tmp_path):
    """Also of operators that few subnets have, here the shortcuts of the third block."""
    own_space = space(depths=(1, 2, 3))
    for seed in range(3):
        settings = SETTINGS.model_copy(update={"epochs_fp32": 0.1, "epochs_int8": 0.1})
        network, _, _ = train(tmp_path / str(seed), seed=seed, settings=settings, own_space=own_space)
        assert "stage1/2/shortcut" in network.quantizers
        for name, quantizer in network.quantizers.items():
            if quantizer.quantizer in ("free", "relu", "relu6"):
                assert abs(quantizer.scale.item()) < 0.5, f"{name} was never seen"


def test_fp32_only(tmp_path):
    settings = TrainingSettings(epochs_fp32=2, epochs_int8=0, batch_size=8)
    program = Sandwich.all_of(space()).programs(0)(None)[0]
    network = single_network(program, 63, torch.Generator().manual_seed(0))
    files, curve = loop.train(
        network, lambda _: [program], images(), settings, DATA, seed=0, purpose="one", folder=tmp_path, progress=silent
    )
    assert [point.phase for point in curve] == ["fp32"] * 6
    assert not network.quantized
    again = single_network(program, 63, torch.Generator().manual_seed(1))
    load_weights(again, files.fp32)
    assert_same(again, network)
    assert not files.int8.exists()


def test_shortest_training_has_one_step_of_each_phase(tmp_path):
    network, files, curve = train(
        tmp_path, settings=SETTINGS.model_copy(update={"epochs_fp32": 0.01, "epochs_int8": 0.01})
    )
    assert [point.phase for point in curve] == ["fp32", "lsq+"]
    assert network.quantized
    assert files.int8.exists()


def test_one_program_learns_from_labels_alone(tmp_path):
    program = Sandwich.all_of(space()).programs(0)(None)[0]
    network = single_network(program, 63, torch.Generator().manual_seed(0))
    assert isinstance(network, Network)
    _, curve = loop.train(
        network, lambda _: [program], images(), SETTINGS, DATA, seed=0, purpose="one", folder=tmp_path, progress=silent
    )
    assert all(point.loss_smallest is None for point in curve)


def test_a_batch_larger_than_the_data(tmp_path):
    settings = SETTINGS.model_copy(update={"batch_size": 500, "epochs_fp32": 2, "epochs_int8": 1})
    assert len(train(tmp_path, settings=settings)[2]) == 3


def diverge_at(monkeypatch, rates, value=float("nan")):
    """Makes up the losses of steps with these learning rates: a step done again, slower, goes well."""
    real = loop._step

    def step(network, optimizer, *others):
        losses = real(network, optimizer, *others)
        return [value] * len(losses) if optimizer.param_groups[0]["lr"] in rates else losses

    monkeypatch.setattr(loop, "_step", step)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 5.1 * math.log(NUM_CLASSES)])
def test_a_diverged_training_goes_back_with_half_the_rate(undisturbed, tmp_path, monkeypatch, value):
    rates = [point.lr for point in undisturbed[2]]
    diverge_at(monkeypatch, [rates[3]], value)
    network, _, curve = train(tmp_path / "diverged")
    assert [point.diverged_at for point in curve] == [(3,)] + [()] * (NUM_STEPS - 1)
    monkeypatch.undo()
    slower = SETTINGS.model_copy(update={"lr": SETTINGS.lr / 2, "lr_int8": SETTINGS.lr_int8 / 2})
    expected, _, expected_curve = train(tmp_path / "slower", settings=slower)
    assert_same(network, expected)
    assert [point.lr for point in curve] == [point.lr for point in expected_curve]


def test_losses_that_are_merely_high_do_not_stop_it(undisturbed, tmp_path, monkeypatch):
    diverge_at(monkeypatch, [undisturbed[2][3].lr], 4.9 * math.log(NUM_CLASSES))
    network, _, curve = train(tmp_path)
    assert_same(network, undisturbed[0])
    assert not any(point.diverged_at for point in curve)


def test_it_goes_back_to_the_last_good_state(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_BETWEEN_GOOD", 3)
    rates = [point.lr for point in undisturbed[2]]
    diverge_at(monkeypatch, [rates[8], rates[7] / 2, rates[10] / 4])
    _, files, curve = train(tmp_path)
    assert {point.step: point.diverged_at for point in curve if point.diverged_at} == {6: (8, 7), 9: (10,)}
    factors = [point.lr / rate for point, rate in zip(curve, rates, strict=True)]
    assert factors == pytest.approx([1] * 6 + [1 / 4] * 3 + [1 / 8] * 3)
    assert curve[:6] == undisturbed[2][:6]
    again = make_supernet(space(), 63, 7)
    load_weights(again, files.fp32)
    expected = make_supernet(space(), 63, 7)
    load_weights(expected, undisturbed[1].fp32)
    assert_same(again, expected)


@pytest.mark.parametrize("stops", [(4,), (8,), (10,), (7, 11)])
def test_going_back_is_the_same_after_an_interruption(undisturbed, tmp_path, monkeypatch, stops):
    monkeypatch.setattr(loop, "STEPS_BETWEEN_GOOD", 3)
    rates = [point.lr for point in undisturbed[2]]
    diverge_at(monkeypatch, [rates[4], rates[8] / 2, rates[10] / 4])
    expected, _, expected_curve = train(tmp_path / "whole")
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    for stop in stops:
        with pytest.raises(Interruption):
            train(tmp_path / "parts", interrupt_after(stop))
    network, _, curve = train(tmp_path / "parts")
    assert_same(network, expected)
    assert curve == expected_curve
    assert sum(len(point.diverged_at) for point in curve) == 3


def test_it_goes_back_three_times_at_most(undisturbed, tmp_path, monkeypatch):
    rate = undisturbed[2][2].lr
    diverge_at(monkeypatch, [rate / 2**n for n in range(loop.MAX_ROLLBACKS + 1)], 100.0)
    with pytest.raises(TrainingError, match=r"far above that of guessing at step 2.*going back 3 times.*lr"):
        train(tmp_path)


METHODS = {
    "adamw": {"optimizer": "adamw", "lr": 0.02, "lr_int8": 0.002},
    "ema": {"ema": 0.7},
    "dropout": {"dropout": 0.5},
    "accumulation": {"accumulation": 2},
    "bfloat16": {"precision": "bfloat16"},
    "branch gain": {"branch_gain": 2.0},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_continues_to_the_same_weights(undisturbed, tmp_path, monkeypatch, method):
    settings = SETTINGS.model_copy(update=METHODS[method])
    expected, _, expected_curve = train(tmp_path / "whole", settings=settings)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    for stop in (2, 6, 9):
        with pytest.raises(Interruption):
            train(tmp_path / "parts", interrupt_after(stop), settings=settings)
    network, _, curve = train(tmp_path / "parts", settings=settings)
    assert_same(network, expected)
    assert curve == expected_curve
    parameters = dict(undisturbed[0].named_parameters())
    assert not all(torch.equal(p, parameters[name]) for name, p in network.named_parameters()), "it changes something"


def test_a_quantized_network_keeps_its_branch_gains(undisturbed, tmp_path):
    results = []
    for gain in (1.0, 5.0):
        network = copy.deepcopy(undisturbed[0])
        results.append(
            train(tmp_path / str(gain), settings=SETTINGS.model_copy(update={"branch_gain": gain}), network=network)
        )
    assert results[0][2] == results[1][2]


def test_a_phase_ends_with_averaged_weights(tmp_path, monkeypatch):
    seen = []
    real = loop._step

    def step(network, *others):
        if len(seen) in (0, 7):  # a phase starts; 6 steps and a start each
            seen.append([p.detach().clone() for p in network.parameters()])
        losses = real(network, *others)
        seen.append([p.detach().clone() for p in network.parameters()])
        return losses

    monkeypatch.setattr(loop, "_step", step)
    network, files, _ = train(tmp_path, settings=SETTINGS.model_copy(update={"ema": 0.75}))
    loaded = make_supernet(space(), 63, 7)
    load_weights(loaded, files.fp32)
    for result, weights in ((loaded, seen[:7]), (network, seen[7:])):
        average, *later = weights
        for own in later:
            average = [0.75 * a + 0.25 * b for a, b in zip(average, own, strict=True)]
        for (name, parameter), expected in zip(result.named_parameters(), average, strict=True):
            torch.testing.assert_close(parameter, expected, msg=name)
    for one, other in zip(seen[7], loaded.parameters(), strict=True):
        if one.dim() > 1:
            assert torch.equal(one, other), "LSQ+ starts from the averages"


def one_step(settings, pixels, labels, **options):
    """Of a fresh supernet; returns it, the losses, and the (batch size, dropout) of every call."""
    network = make_supernet(space(), 63, 0)
    network.train()
    calls = []
    forward = network.forward

    def spied(x, program, dropout=None):
        calls.append((len(x), dropout))
        return forward(x, program, dropout)

    network.forward = spied
    programs = Sandwich.all_of(space()).programs(1)(random.Random(0))
    losses = loop._step(network, loop._optimizer(network, settings), programs, pixels, labels, settings, **options)
    return network, losses, calls


def test_accumulated_parts_are_one_batch():
    half = images(8)
    pixels, labels = torch.cat([half.pixels, half.pixels]), torch.cat([half.labels, half.labels])
    whole = one_step(SETTINGS, pixels, labels)
    parts = one_step(SETTINGS.model_copy(update={"accumulation": 2}), pixels, labels)
    assert [size for size, _ in whole[2]] == [16] * 3
    assert [size for size, _ in parts[2]] == [8] * 6
    assert parts[1] == pytest.approx(whole[1], rel=1e-5)
    for (name, one), other in zip(parts[0].named_parameters(), whole[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_parts_have_two_images_at_least():
    settings = SETTINGS.model_copy(update={"accumulation": 8})
    assert {size for size, _ in one_step(settings, images(8).pixels, images(8).labels)[2]} == {2}


def test_dropout_is_for_the_largest_alone():
    own = images(26)
    settings = SETTINGS.model_copy(update={"dropout": 0.25})
    _, losses, calls = one_step(settings, own.pixels, own.labels, dropout=torch.Generator().manual_seed(0))
    (_, mask), *others = calls
    assert all(dropout is None for _, dropout in others)
    assert mask.shape == (26, 24, 1, 1)
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert losses[0] != one_step(SETTINGS, own.pixels, own.labels)[1][0]


def test_bfloat16_is_near():
    own = images(26)
    _, losses, _ = one_step(SETTINGS, own.pixels, own.labels)
    _, half, _ = one_step(SETTINGS.model_copy(update={"precision": "bfloat16"}), own.pixels, own.labels)
    assert half == pytest.approx(losses, rel=0.05)
    assert half != losses


def test_soft_labels():
    own = images(26)
    soft = torch.nn.functional.one_hot(own.labels, NUM_CLASSES).float()
    assert one_step(SETTINGS, own.pixels, soft)[1] == pytest.approx(one_step(SETTINGS, own.pixels, own.labels)[1])


def test_only_weights_decay():
    network = make_supernet(space(), 63, 0)
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        optimizer = loop._optimizer(network, SETTINGS.model_copy(update={"optimizer": name, "weight_decay": 0.5}))
        assert isinstance(optimizer, kind)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        for own, parameter in network.named_parameters():
            assert decay[id(parameter)] == (0.5 if own.endswith(".weight") else 0.0), own


def test_other_distillation_losses(undisturbed, tmp_path):
    network = make_supernet(space(), 63, 0)
    _, curve = loop.train(
        network, Sandwich.all_of(space()).programs(1), images(), SETTINGS, DATA, seed=0, purpose="test",
        folder=tmp_path, progress=silent, distillation_loss=lambda logits, soft: 0 * (logits - soft).sum() + 7,
    )  # fmt: skip
    labels_alone = 2 * (curve[0].loss_smallest - 3.5)
    assert 0.5 < labels_alone < 2 * math.log(NUM_CLASSES)
    assert curve[0].loss == undisturbed[2][0].loss


@pytest.mark.parametrize("phase", ["fp32", "lsq+"])
def test_no_tensor_is_made_elsewhere_than_where_the_network_is(phase):
    """Here the only device is the CPU, so what is made without naming one is sent where nothing can be computed."""
    network = make_supernet(space(), 63, 0)
    network.train()
    programs = Sandwich.all_of(space()).programs(1)(random.Random(0))
    own = images(26)
    settings = SETTINGS.model_copy(update={"dropout": 0.5, "accumulation": 2})
    calibration = [(loop.to_input(own.pixels, program[0].in_shape.height), program) for program in programs]
    torch.set_default_device("meta")
    try:
        if phase == "lsq+":
            network.start_quantization(calibration)
        optimizer = loop._optimizer(network, settings)
        generator = torch.Generator("cpu").manual_seed(0)
        losses = loop._step(
            network, optimizer, programs, own.pixels, own.labels, settings, alpha_divergence_loss, generator
        )
    finally:
        torch.set_default_device(None)
    assert all(math.isfinite(loss) for loss in losses)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_a_device_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="no such GPU"):
        train(tmp_path, settings=SETTINGS.model_copy(update={"device": "cuda"}))
    assert loop.device_of(SETTINGS).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loop.device_of(SETTINGS).type == "cuda"
    assert loop.device_of(SETTINGS.model_copy(update={"device": "cpu"})).type == "cpu"


@pytest.mark.parametrize("given", [True, False])
def test_ranges_of_operators_that_are_never_drawn(tmp_path, given):
    own = space()
    shallow = program_of(own.smallest())
    network, complete = make_supernet(own, 63, 0), program_of(own.largest())
    loop.train(
        network, lambda rng: [shallow], images(), SETTINGS, DATA, seed=0, purpose="test", folder=tmp_path,
        progress=silent, complete=complete if given else None,
    )  # fmt: skip
    started = {name for name, quantizer in network.quantizers.items() if quantizer.start_scale > 0}
    deep = {name for name in network.quantizers if name.startswith("stage1/1/")}
    assert bool(started & deep) == given
    assert {node.id for node in shallow} & started
