"""The training loop: deterministic, resumable bit for bit, and it stops at a loss that is not a number."""

import pytest
import torch

from spaceevo.config import DataSettings, SupernetSettings, TrainingSettings
from spaceevo.errors import ArtifactError, TrainingError
from spaceevo.nets.network import Network, single_network
from spaceevo.progress import silent
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.train import loop
from spaceevo.train.batches import Images
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.supernet import make_supernet, sandwich

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_CLASSES = 3
#: 3 steps per epoch: 6 steps in FP32, then 6 of LSQ+.
SETTINGS = SupernetSettings(epochs_fp32=2, epochs_int8=2, batch_size=8, lr=0.5, lr_int8=0.1, num_random=1)
NUM_STEPS = 12
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
    sample = sandwich(own_space, settings.num_random)
    files, curve = loop.train(
        network, sample, images(), settings, DATA, seed=seed, purpose="test", folder=folder, progress=progress
    )
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
    assert all(point.loss_smallest is not None for point in curve)


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


def interrupt_after(step):
    def progress(done, total):
        assert total == NUM_STEPS
        if done == step:
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
    network, files, curve = train(tmp_path, lambda step, _: done.append(step))
    assert done[0] == stops[-1], "it goes on with the step that was interrupted"
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
    program = sandwich(space(), 0)(None)[0]
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
    program = sandwich(space(), 0)(None)[0]
    network = single_network(program, 63, torch.Generator().manual_seed(0))
    assert isinstance(network, Network)
    _, curve = loop.train(
        network, lambda _: [program], images(), SETTINGS, DATA, seed=0, purpose="one", folder=tmp_path, progress=silent
    )
    assert all(point.loss_smallest is None for point in curve)


def test_a_batch_larger_than_the_data(tmp_path):
    settings = SETTINGS.model_copy(update={"batch_size": 500, "epochs_fp32": 2, "epochs_int8": 1})
    assert len(train(tmp_path, settings=settings)[2]) == 3
