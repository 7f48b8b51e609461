"""Our own teacher and the user's."""

import sys
import types

import pytest
import torch
from torch import nn

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import RecipeError, TrainingError
from spaceevo.progress import silent
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.train.batches import Images, to_input
from spaceevo.train.teachers import ModuleTeacher, TrainedTeacher, builtin_teacher, load_module_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

CHOICES = (BlockChoice(BlockType("mbv2", "relu6"), (3,), (2.0,)), BlockChoice(BlockType("mbv1-dual", "relu"), (3,)))
HYPERSPACE = Hyperspace(
    "tiny",
    (
        HyperStage("stem", (BlockChoice(BlockType("conv", "relu"), (3,)),), (8,), 1, (1,), 2),
        HyperStage("stage1", CHOICES, (8, 16), 1, (1,), 1),
        HyperStage("stage2", CHOICES, (16, 24, 32), 2, (1, 2), 2),
    ),
    Head(16, 24, "relu"),
    (12, 16),
)


def images(count):
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 80, (count, 3, 16, 16), generator=generator) + 80 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels)


def test_builtin_teacher():
    subnet = builtin_teacher(HYPERSPACE, 3)
    assert [(s.name, str(s.block_type), s.stride) for s in subnet.stages] == [
        ("stem", "conv-relu", 2),
        ("stage1", "bottleneck-relu", 1),
        ("stage2", "bottleneck-relu", 2),
    ]
    assert [[block.width for block in stage.blocks] for stage in subnet.stages] == [[8], [16, 16], [32, 32]]
    assert (subnet.resolution, subnet.num_classes) == (16, 3)


@pytest.mark.parametrize("num_images", [24, 129])
def test_trained_teacher(tmp_path, num_images):
    settings = TrainingSettings(epochs_fp32=48 / num_images, epochs_int8=0.01, batch_size=12, lr=1.0)
    teacher = TrainedTeacher(HYPERSPACE, 3, seed=0)
    curve, top1 = teacher.fit(
        images(num_images),
        images(9),
        settings,
        DataSettings(shift=1),
        seed=0,
        folder=tmp_path,
        progress=silent,
    )
    assert [point.phase for point in curve].count("fp32") == 4
    assert 0 <= top1 <= 1
    assert not teacher.network.quantized
    for resolution, sizes in {16: (8, 8, 4), 12: (6, 6, 3)}.items():
        features = teacher.features(to_input(images(5).pixels, resolution))
        assert [tuple(f.shape) for f in features] == [
            (5, width, size, size) for width, size in zip((8, 16, 32), sizes, strict=True)
        ]
        again = teacher.features(to_input(images(5).pixels, resolution))
        assert all(torch.equal(a, b) for a, b in zip(features, again, strict=True))
        assert not any(f.requires_grad for f in features)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.second = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Dropout(0.9), nn.ReLU())
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.second(self.first(x)).mean((2, 3)))


def test_module_teacher():
    module = Own()
    teacher = ModuleTeacher(module, ["first", "second.0", "second"], 3)
    x = torch.randn(2, 3, 9, 9)
    for _ in range(2):
        before, middle, after = teacher.features(x)
        with torch.no_grad():
            assert torch.equal(before, module.first(x))
            assert torch.equal(middle, module.second[0](before))
            assert torch.equal(after, middle.relu()), "in evaluation mode, without dropout"
    assert not after.requires_grad
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize(
    ("taps", "found"),
    [
        (["first"], "1 taps; unknown: none"),
        (["first", "second", "last"], "3 taps; unknown: none"),
        (["first", "third"], "2 taps; unknown: third"),
        ([], "0 taps"),
    ],
)
def test_wrong_taps(taps, found):
    with pytest.raises(TrainingError, match=found) as error:
        ModuleTeacher(Own(), taps, 2)
    assert "2 taps" in str(error.value)


@pytest.fixture
def users_module(monkeypatch):
    module = types.ModuleType("made_up_teachers")
    module.good = lambda: (Own(), ["first", "second"])
    module.bad = lambda: (Own(), ["first", "secnd"])
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("users_module")
def test_load_module_teacher():
    teacher = load_module_teacher("made_up_teachers:good", 2)
    assert [f.shape[1] for f in teacher.features(torch.randn(1, 3, 8, 8))] == [4, 6]
    with pytest.raises(TrainingError, match="secnd"):
        load_module_teacher("made_up_teachers:bad", 2)


@pytest.mark.usefixtures("users_module")
@pytest.mark.parametrize(
    "location",
    ["no_such_module:teacher", "made_up_teachers:missing", "made_up_teachers", ":good", "", ".relative:good"],
)
def test_unknown_import(location):
    with pytest.raises(RecipeError, match=r"package\.module:function") as error:
        load_module_teacher(location, 2)
    assert repr(location) in str(error.value)
