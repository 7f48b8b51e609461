"""Our own teacher and the user's."""

import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import nn

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import ArtifactError, PluginError, RecipeError, TrainingError
from spaceevo.graph.tensors import Shape
from spaceevo.nets.network import program_of, single_network
from spaceevo.progress import silent
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage, load_hyperspace
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.spaces.zoo import load_network
from spaceevo.train.batches import Images, to_input
from spaceevo.train.checkpoints import save_tensors
from spaceevo.train.teachers import (
    ModuleTeacher,
    SizedTeacher,
    TrainedTeacher,
    builtin_teacher,
    check_teacher,
    load_teacher,
    map_sizes,
)

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
def test_the_users_module():
    teacher = load_teacher("made_up_teachers:good", PLAIN)
    assert [f.shape[1] for f in teacher.features(torch.randn(1, 3, 8, 8))] == [4, 6]
    with pytest.raises(TrainingError, match="secnd"):
        load_teacher("made_up_teachers:bad", PLAIN)


@pytest.mark.usefixtures("users_module")
@pytest.mark.parametrize(
    "location",
    ["no_such_module:teacher", "made_up_teachers:missing", "made_up_teachers", ":good", "", ".relative:good"],
)
def test_unknown_import(location):
    with pytest.raises(RecipeError, match=r"package\.module:function") as error:
        load_teacher(location, PLAIN)
    assert repr(location) in str(error.value)


NETWORK = """from torch import nn
def teacher():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
"""
FOREIGN = {
    "raise ValueError('odd')": ("cannot be imported", "ValueError: odd", "line 1"),
    "def teacher(:": ("cannot be imported", "SyntaxError", "line 1"),
    "import no_such_dependency": ("cannot be imported", "'no_such_dependency'", "line 1"),
    "\nimport sys\nsys.exit(3)": ("cannot be imported", "SystemExit: 3", "line 3"),
    "def teacher():\n    return odd": ("fails when it is made", "NameError", "line 2"),
    "def teacher():\n    raise SystemExit": ("fails when it is made", "SystemExit", "line 2"),
    "def teacher(x): ...": ("fails when it is made", "TypeError", "line 1"),
    "teacher = 3": ("fails when it is made", "not callable"),
    "def teacher(): ...": ("is not a torch module", "line 1) returns NoneType"),
    "def teacher():\n    return 3, ['0']": ("is not a torch module", "returns int, list"),
    f"{NETWORK}    return net, '01'": ("is not a torch module", "returns Sequential, str"),
    f"{NETWORK}    return net, ['0', '2']": ("needs 2 taps", "unknown: 2"),
    f"{NETWORK}    return net, ['1', '0']": ("in the order", "Named: 1, 0; called: 0, 1"),
    f"{NETWORK}    net.add_module('2', nn.Flatten())\n    return net, ['0', '2']": ("no feature maps", "a tensor [2, "),
    f"{NETWORK}    net.add_module('2', nn.Linear(99, 3))\n    return net, ['0', '2']": ("fails on images [2, 3, ",),
    f"{NETWORK}    net[0].bias.data.fill_(float('nan'))\n    return net, ['0', '1']": ("values that are not finite",),
}


@pytest.mark.parametrize("number", range(len(FOREIGN)))
def test_what_the_users_code_does_wrong_is_told_with_its_place(tmp_path, monkeypatch, number):
    source, words = list(FOREIGN.items())[number]
    path = tmp_path / f"made_up_{number}.py"
    path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    location = f"{path.stem}:teacher"
    with pytest.raises((RecipeError, TrainingError)) as error:
        check_teacher(load_teacher(location, PLAIN), location, PLAIN)
    told = str(error.value)
    assert all(word in told for word in (location, *words)), told
    assert "line" not in told or str(path) in told


def test_map_sizes():
    assert map_sizes(HYPERSPACE, 16) == ((8, 8), (8, 8), (4, 4))
    assert map_sizes(HYPERSPACE, 13) == ((7, 7), (7, 7), (4, 4))
    assert map_sizes(load_hyperspace("mobilew"), 224) == tuple((size, size) for size in (112, 56, 28, 14, 14, 7, 7))


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ((16, 8, 8, 4), (1, 2, 3)),
        ((8, 8, 8, 4, 4), (1, 2, 4)),  # of three maps for two taps the second and the third
        ((8, 8, 8, 8, 8, 4, 2), (2, 4, 5)),
    ],
)
def test_taps_by_size(sizes, chosen):
    def maps(x_BCHW):
        return [torch.full((len(x_BCHW), 1, size, size), float(index)) for index, size in enumerate(sizes)]

    features = SizedTeacher(maps, HYPERSPACE, "made up").features(torch.zeros(1, 3, 16, 16))
    assert tuple(int(f.mean()) for f in features) == chosen


@pytest.mark.parametrize(
    ("sizes", "told"), [((8, 4, 2), "1 feature maps of 8 x 8"), ((8, 8, 2), "0 feature maps of 4 x 4"), ((), "none")]
)
def test_too_few_maps_of_a_size(sizes, told):
    def maps(x_BCHW):
        return [torch.zeros(len(x_BCHW), 1, size, size) for size in sizes]

    with pytest.raises(TrainingError, match=told) as error:
        SizedTeacher(maps, HYPERSPACE, "made up")
    assert "tiny needs" in str(error.value)


@pytest.fixture
def zoo_weights(tmp_path):
    subnet = replace(load_network("MobileNetV2").subnet, resolution=16, num_classes=3)
    network = single_network(program_of(subnet), 127, torch.Generator().manual_seed(0))
    save_tensors(tmp_path / "weights.safetensors", network.state_dict(), {"quantized": False})
    return tmp_path / "weights.safetensors", network, program_of(subnet)


def test_a_network_of_the_zoo(zoo_weights):
    """MobileNetV2 has 2 blocks of size 8 for an image of 16 and 2 of size 4; the last of a size ends its stage."""
    path, network, program = zoo_weights
    teacher = load_teacher(f"zoo:MobileNetV2:{path}", HYPERSPACE)
    x = to_input(images(4).pixels, 16)
    features = teacher.features(x)
    assert [tuple(f.shape[1:]) for f in features] == [(32, 8, 8), (16, 8, 8), (24, 4, 4)]
    ends = [node for node in program if node.out_shape == Shape(24, 4, 4)]
    _, (expected,) = network.run_with_taps(x, program, [ends[-1].id])
    assert torch.equal(features[2], expected)
    assert not features[2].requires_grad
    assert [f.shape[-1] for f in teacher.features(to_input(images(4).pixels, 12))] == [6, 6, 3]


@pytest.mark.parametrize(
    ("location", "error", "told"),
    [
        ("zoo:MobileNetV2", RecipeError, "has no weights"),
        ("zoo:MobileNet:{path}", PluginError, "MobileNetV2"),
        ("zoo:MobileNetV2:{path}x", ArtifactError, "not a whole file"),
        ("zoo:ResNet-18:{path}", ArtifactError, "another network"),
    ],
)
def test_wrong_zoo_teachers(zoo_weights, location, error, told):
    with pytest.raises(error, match=told):
        load_teacher(location.format(path=zoo_weights[0]), HYPERSPACE)


def test_a_zoo_teacher_that_is_not_well(zoo_weights, tmp_path):
    """The file is the user's: nothing advises to delete it."""
    path = tmp_path / "nan.safetensors"
    state = zoo_weights[1].state_dict()
    name = next(key for key in state if key.endswith("gamma"))
    save_tensors(path, state | {name: state[name] * float("nan")}, {})
    with pytest.raises(ArtifactError, match=f"nan.safetensors holds weights that are not finite.*{name}"):
        load_teacher(f"zoo:MobileNetV2:{path}", HYPERSPACE)


class Pyramid(nn.Module):
    """Maps of sizes 1/2, 1/4, 1/8, as timm's `features_only` and as transformers' hidden states give them."""

    def __init__(self, is_plain=False):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(3))
        self.drop = nn.Dropout(0.9)
        self.is_plain = is_plain
        self.seen = []

    def forward(self, pixel_values, output_hidden_states=False):
        self.seen.append(pixel_values)
        maps = [pixel_values]
        for stage in self.stages:
            maps.append(self.drop(stage(maps[-1])))
        if output_hidden_states:
            return types.SimpleNamespace(hidden_states=(*maps[1:], torch.zeros(2, 7, 5)))
        return maps[-1].mean((2, 3)) if self.is_plain else maps[1:]


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
#: Without a stage of stride 1, as a teacher with one map per size needs it.
PLAIN = replace(HYPERSPACE, stages=(HYPERSPACE.stages[0], HYPERSPACE.stages[2]))


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins for timm and transformers, with the functions that are called; the models that they made."""
    made = []

    def create_model(name, pretrained=False, features_only=False):
        if name != "resnet":
            raise RuntimeError(f"Unknown model ({name})")
        assert pretrained
        made.append(Pyramid(is_plain=not features_only))
        return made[-1]

    timm = types.ModuleType("timm")
    timm.create_model = create_model
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda model: {"mean": tuple(MEAN), "std": tuple(STD)})

    def from_pretrained(name):
        if name != "org/resnet":
            raise OSError(f"{name} is not a local folder and is not a valid model identifier")
        made.append(Pyramid())
        return made[-1]

    transformers = types.ModuleType("transformers")
    transformers.AutoModel = types.SimpleNamespace(from_pretrained=from_pretrained)
    about = types.SimpleNamespace(image_mean=MEAN, image_std=STD)
    transformers.AutoImageProcessor = types.SimpleNamespace(from_pretrained=lambda name: about)
    for module in (timm, transformers):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


@pytest.mark.parametrize("location", ["timm:resnet", "huggingface:org/resnet"])
@pytest.mark.parametrize("taps", ["", "#stages.0,stages.1"])
def test_models_of_libraries(libraries, location, taps):
    teacher = load_teacher(location + taps, PLAIN)
    (model,) = libraries
    pixels = images(4).pixels
    features = teacher.features(to_input(pixels, 16))
    torch.testing.assert_close(model.seen[-1][:, 1], (pixels[:, 1] / 255 - MEAN[1]) / STD[1])
    assert [tuple(f.shape[1:]) for f in features] == [(4, 8, 8), (4, 4, 4)]
    torch.testing.assert_close(features[1], model.stages[1](features[0]), msg="in evaluation mode")
    assert not features[1].requires_grad


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("location", "error", "told"),
    [
        ("timm:resnext", RecipeError, "Unknown model"),
        ("huggingface:org/resnext", RecipeError, "not a valid model identifier"),
        ("timm:resnet", TrainingError, r"1 feature maps of 8 x 8.*sizes are 8 x 8, 4 x 4, 2 x 2"),
        ("timm:resnet#stages.0,stages.1", TrainingError, "needs 3 taps"),
        ("huggingface:org/resnet#stages.0,stages.1,stages.7", TrainingError, r"unknown: stages\.7"),
    ],
)
def test_wrong_models_of_libraries(location, error, told):
    with pytest.raises(error, match=told):
        load_teacher(location, HYPERSPACE)


@pytest.mark.parametrize(("location", "package"), [("timm:x", "timm"), ("huggingface:x", "transformers")])
def test_a_library_that_is_not_installed(monkeypatch, location, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=f"pip install {package}"):
        load_teacher(location, HYPERSPACE)
