"""Quantizing one network: which files are taken as which network, what comes out, and what is refused."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import ArtifactError, DataError, EncodingError, PluginError, RecipeError, TrainingError
from spaceevo.nets.extracted import save_extracted
from spaceevo.nets.network import program_of, single_network
from spaceevo.progress import Shown, silent
from spaceevo.records import ExtractedNetwork
from spaceevo.settings import parse
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.handmade import mobilenet_v3
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.zoo import load_network
from spaceevo.tools import quantize as room
from spaceevo.tools.weight_source import NetworkSettings
from spaceevo.train import loop
from spaceevo.train.batches import Images
from spaceevo.train.checkpoints import load_tensors, load_weights, save_tensors
from spaceevo.train.datasets import digits
from spaceevo.train.evaluation import predict_logits, top1
from spaceevo.train.ptq import PtqSettings
from spaceevo.train.supernet import make_supernet

MICRO = load_hyperspace("micro")
SPACE = "micro-012-000"
SEARCHED = MICRO.space(MICRO.decode(SPACE), 10)
SUBNET = SEARCHED.smallest()
ENCODING = encode(SUBNET)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, one_thread):
    """What a training leaves of a subnet after its FP32 phase: above 90 % on digits."""
    data = digits.load(digits.Settings(), 32, Path("unused"))
    images = Images(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    program = program_of(SUBNET)
    network = single_network(program, 127, torch.Generator().manual_seed(0))
    plan = TrainingSettings(epochs_fp32=4, epochs_int8=0, batch_size=64, lr=0.3)
    augmented = DataSettings(name="digits", image_size=32, flip=False, shift=1)
    folder = tmp_path_factory.mktemp("trained")
    files, _ = loop.train(network, lambda _: [program], images, plan, augmented, seed=0, purpose="one", folder=folder,
                          progress=silent)  # fmt: skip
    return files.fp32


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of 4 images in each of 10 classes, for what does not ask for accuracy."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for label in range(10):
            for number in range(4):
                path = folder / split / str(label) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (20 * label, 50 * number, 0)).save(path)
    return str(folder)


def run(folder, weights, network=ENCODING, space=SPACE, **values):
    def taken(model):
        keys = model.model_fields.keys() & values.keys()
        return {key: values.pop(key) for key in keys}

    values.setdefault("data", "digits")
    values.setdefault("calibration_images", 64)
    which = NetworkSettings(weights=str(weights), network=network, space=space, **taken(NetworkSettings))
    inputs = room.InputSettings(**taken(room.InputSettings))
    ptq = PtqSettings(**taken(PtqSettings))
    finetuning = room.FinetuningSettings(**taken(room.FinetuningSettings))
    assert not values, values
    console = Console(file=io.StringIO())
    return room.quantize(which, inputs, ptq, finetuning, folder, Shown(console))


@pytest.fixture(scope="module")
def quantized(weights, tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), weights)


def changed(weights, to, change=lambda tensors: None, **notes):
    """A copy of a file of weights, its tensors changed."""
    tensors, old = load_tensors(weights)
    change(tensors)
    save_tensors(to, tensors, {"quantized": old["quantized"], **notes})
    return to


# --- what comes out ---


def test_little_is_lost(quantized):
    result = quantized.result
    assert result.top1_fp32 > 0.9
    assert result.top1_ptq > result.top1_fp32 - 0.02
    assert result.top1_finetuned is None
    assert (result.space, result.encoding, result.weights_kind) == (SPACE, ENCODING, "network")
    assert (result.num_calibration_images, result.num_train_images, result.num_val_images) == (64, 1347, 450)
    assert quantized.network.quantized
    assert not quantized.network.training
    assert not quantized.float_network.quantized
    assert quantized.network.w_qmax == result.target.w_qmax


def test_the_figures_are_those_of_the_networks(quantized):
    program = program_of(quantized.subnet)
    images = quantized.val_images
    for network, told in (
        (quantized.network, quantized.result.top1_ptq),
        (quantized.float_network, quantized.result.top1_fp32),
    ):
        assert top1(predict_logits(network, program, images.pixels), images.labels) == told
    assert len(images) == 450, "validation images only"


@pytest.fixture(scope="module")
def written(quantized):
    return room.write(quantized, "net", Shown(Console(quiet=True)))


def test_the_exported_file_computes_what_the_network_does(quantized, written):
    verification = written[0].verification
    assert verification.problems == ()
    assert verification.integer.max_steps == verification.fake_quantized.max_steps == 0
    assert verification.top1 == quantized.result.top1_ptq


def test_files(quantized, written, tmp_path):
    result, (fp32, int8, network, int8_file, fp32_file, figures) = written
    assert json.loads(figures.read_text()) == json.loads(result.model_dump_json())
    assert result.model_copy(update={"verification": None}) == quantized.result
    assert [path.name for path in (network, int8_file, fp32_file)] == [
        "net.safetensors",
        "net-int8.onnx",
        "net-fp32.onnx",
    ]
    again = single_network(program_of(SUBNET), quantized.network.w_qmax, torch.Generator())
    notes = load_weights(again, int8)
    assert notes["space"] == SPACE
    assert notes["encoding"] == ENCODING
    assert notes["profile"]
    assert notes["w_qmax"] == quantized.network.w_qmax
    assert notes["class_names"] == [str(digit) for digit in range(10)]
    again.quantized = notes["quantized"]
    pixels = quantized.val_images.pixels[:32]
    program = program_of(SUBNET)
    assert torch.equal(
        predict_logits(again.eval(), program, pixels), predict_logits(quantized.network, program, pixels)
    )
    # The float file tells its network itself
    second = run(tmp_path / "second", fp32, "", "")
    assert second.result.encoding == ENCODING
    assert second.result.top1_fp32 == quantized.result.top1_fp32


def test_the_same_seed_gives_the_same_network(quantized, weights, tmp_path):
    again = run(tmp_path, weights)
    assert again.result == quantized.result
    state, other = quantized.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_another_seed_calibrates_on_other_images(quantized, weights, tmp_path):
    state, other = (one.network.state_dict() for one in (quantized, run(tmp_path, weights, seed=1)))
    assert any(not torch.equal(state[key], other[key]) for key in state)


def test_without_bias_correction(quantized, weights, tmp_path):
    plain = run(tmp_path, weights, bias_correction=False)
    key = "weighted.head/logits.bias"
    assert torch.equal(plain.network.state_dict()[key], plain.float_network.state_dict()[key])
    assert not torch.equal(quantized.network.state_dict()[key], plain.float_network.state_dict()[key])


def test_w_qmax_is_the_targets(weights, few, tmp_path, monkeypatch):
    monkeypatch.setattr("spaceevo.runtimes.onnxruntime.w_qmax", lambda *_: 63)
    done = run(tmp_path, weights, data=few)
    graph = done.network.integer_graph(program_of(SUBNET))
    assert max(abs(own.codes.astype(int)).max() for own in graph.weights.values()) == 63


# --- fine-tuning ---


class Interruption(Exception):
    pass


def test_finetuning_goes_on_where_it_stood(weights, tmp_path, monkeypatch):
    plan = {"epochs": 0.2, "lr": 0.01, "flip": False, "bias_correction": False}
    undisturbed = run(tmp_path / "a", weights, **plan)
    assert undisturbed.result.top1_finetuned > undisturbed.result.top1_fp32 - 0.03
    statistics = [one.state_dict()["weighted.stem/0/conv.running_mean"]
                  for one in (undisturbed.network, undisturbed.float_network)]  # fmt: skip
    assert not torch.equal(*statistics), "recalibrated afterwards"

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    own_step, steps = loop._step, []

    def step(*words):
        steps.append(1)
        if len(steps) == 3:
            raise Interruption
        return own_step(*words)

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(Interruption):
        run(tmp_path / "b", weights, **plan)
    resumed = run(tmp_path / "b", weights, **plan)
    assert len(steps) == 3 + 2, "4 steps, of which two were done"
    assert resumed.result == undisturbed.result
    state, other = undisturbed.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert run(tmp_path / "b", weights, **plan).result == undisturbed.result
    assert len(steps) == 5, "what is finished is not done again"


def test_another_rate_is_another_finetuning(weights, few, tmp_path):
    first, second = (run(tmp_path, weights, epochs=0.1, lr=lr, data=few, batch_size=8) for lr in (0.01, 0.05))
    key = "weighted.head/logits.weight"
    assert not torch.equal(first.network.state_dict()[key], second.network.state_dict()[key])
    assert len(list((tmp_path / "superseded").iterdir())) == 1


# --- which network a file holds ---


def test_a_supernet(few, tmp_path):
    supernet = make_supernet(SEARCHED, 127, 3)
    save_tensors(tmp_path / "s.safetensors", supernet.state_dict(), {"quantized": False})
    done = run(tmp_path, tmp_path / "s.safetensors", data=few)
    assert done.result.weights_kind == "supernet"
    name = "stage2/0/expand"
    own = done.float_network.weighted[name].weight
    assert torch.equal(own, supernet.weighted[name].weight[: own.shape[0], : own.shape[1]])


def test_an_extracted_network(quantized, tmp_path):
    program = program_of(SUBNET)
    path = tmp_path / "e.safetensors"
    metadata = {"spaceevo.space": SPACE, "spaceevo.encoding": ENCODING, "class_names": "[]"}
    graphs = quantized.network.integer_graph(program), quantized.float_network.float_graph(program)
    save_extracted(path, ExtractedNetwork(*graphs, metadata))
    done = run(tmp_path, path, "", "", epochs=0.1, lr=0.001, flip=False)
    assert done.result.weights_kind == "extracted"
    assert done.result.encoding == ENCODING
    assert done.result.top1_fp32 == pytest.approx(quantized.result.top1_fp32, abs=0.005)
    assert done.result.top1_ptq > done.result.top1_fp32 - 0.02
    assert done.result.top1_finetuned > done.result.top1_fp32 - 0.03


@pytest.mark.parametrize("space", ["hand-made", "hand-made:micro"])
def test_a_baseline(few, tmp_path, space):
    subnet = mobilenet_v3(MICRO, 0.5, 32, 10)
    network = single_network(program_of(subnet), 127, torch.Generator().manual_seed(0))
    save_tensors(tmp_path / "b.safetensors", network.state_dict(), {"quantized": False})
    done = run(tmp_path, tmp_path / "b.safetensors", encode(subnet), space, data=few)
    assert done.subnet == subnet
    assert done.result.space == "hand-made:micro"


def test_a_network_of_the_zoo(few, tmp_path):
    subnet = replace(load_network("MobileNetV3-Small").subnet, num_classes=10, resolution=32)
    network = single_network(program_of(subnet), 127, torch.Generator().manual_seed(0))
    save_file(network.state_dict(), tmp_path / "z.safetensors")  # without notes
    done = run(
        tmp_path, tmp_path / "z.safetensors", "MobileNetV3-Small", "", resolution=32, data=few, calibration_images=4
    )
    assert done.subnet == subnet
    assert done.result.space == "zoo:MobileNetV3-Small"
    fp32 = room.write(done, "net", Shown(Console(quiet=True)))[1][0]
    again = run(tmp_path, fp32, "", "", data=few, bias_correction=False)
    assert again.subnet == subnet


# --- data ---


def test_a_recipe_names_the_data(weights, tmp_path):
    recipe = tmp_path / "r.yaml"
    data = "{name: digits, image_size: 32, flip: false, options: {val_share: 0.1}, search_share: 0.2}"
    recipe.write_text(f"seed: 5\ndata: {data}\n")
    done = run(tmp_path, weights, data=str(recipe))
    assert done.result.num_val_images == 180
    assert done.result.num_train_images == 1617 - 323, "a share is held out"
    assert done.context.recipe.data.flip is False


def test_images_of_a_folder_are_mixed(weights, few, tmp_path, monkeypatch):
    seen = []
    own = room.with_ranges
    monkeypatch.setattr(
        room, "with_ranges", lambda network, program, pixels, *rest, **more: seen.append(pixels)
        or own(network, program, pixels, *rest, **more)
    )  # fmt: skip
    run(tmp_path, weights, data=few, calibration_images=10)
    assert len(set(seen[0][:, 0, 0, 0].tolist())) > 4, "not those of the first classes alone"


# --- what is refused ---


def test_unknown_network(weights, tmp_path):
    with pytest.raises(PluginError, match="Did you mean 'MobileNetV2'"):
        run(tmp_path, weights, "MobileNet-V2", "")


def test_an_encoding_without_its_space(weights, tmp_path):
    with pytest.raises(EncodingError, match="`space`"):
        run(tmp_path, weights, ENCODING, "")


def test_an_encoding_outside_the_space(weights, tmp_path):
    with pytest.raises(EncodingError, match=r"width 17.*Allowed there"):
        run(tmp_path, weights, ENCODING.replace("w16#16", "w16#17"))


def test_no_hand_made_network(weights, tmp_path):
    with pytest.raises(EncodingError, match="none of the hand-made networks"):
        run(tmp_path, weights, ENCODING, "hand-made")


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"no file of weights at .*nothing.safetensors"):
        run(tmp_path, tmp_path / "nothing.safetensors")


def test_truncated_file(weights, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        run(tmp_path, path)


def test_a_pickle(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        run(tmp_path, tmp_path / "w.pth")


def test_weights_of_another_network(weights, tmp_path):
    with pytest.raises(
        ArtifactError, match=r"stem/0/conv.weight has the shape \[16, 3, 3, 3\], that of the network \[32"
    ):
        run(tmp_path, weights, "MobileNetV2", "", resolution=32)


def test_a_missing_and_a_superfluous_tensor(weights, tmp_path):
    def without(tensors):
        del tensors["weighted.head/feature_mix.gamma"]

    with pytest.raises(ArtifactError, match=r"weighted.head/feature_mix.gamma, \[192\], is missing"):
        run(tmp_path, changed(weights, tmp_path / "a.safetensors", without))

    def deeper(tensors):
        tensors["weighted.stage1/9/expand.weight"] = torch.zeros(3)

    with pytest.raises(ArtifactError, match=r"stage1/9/expand.weight, \[3\], has no place"):
        run(tmp_path, changed(weights, tmp_path / "b.safetensors", deeper))


def test_weights_that_are_not_finite(weights, tmp_path):
    def spoil(tensors):
        tensors["weighted.stem/0/conv.weight"][0, 0, 0, 0] = float("nan")

    with pytest.raises(ArtifactError, match=r"not finite numbers.*weighted.stem/0/conv.weight"):
        run(tmp_path, changed(weights, tmp_path / "n.safetensors", spoil))


def test_weights_so_large_that_they_overflow(weights, tmp_path):
    def spoil(tensors):
        tensors["weighted.stem/0/conv.gamma"].fill_(3e38)

    with pytest.raises(TrainingError, match="not finite numbers"):
        run(tmp_path, changed(weights, tmp_path / "o.safetensors", spoil))


def test_weights_that_are_quantized_already(written, tmp_path):
    int8 = written[1][1]
    with pytest.raises(ArtifactError, match="after quantization-aware training"):
        run(tmp_path, int8)


def test_a_file_that_does_not_tell_its_network(weights, tmp_path):
    with pytest.raises(ArtifactError, match=r"does not say which network it holds.*NETWORK"):
        run(tmp_path, weights, "", "")
    with pytest.raises(RecipeError, match="Give NETWORK"):
        run(tmp_path, weights, "", SPACE)


def test_foreign_tensors(tmp_path):
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "f.safetensors")
    with pytest.raises(ArtifactError, match=r"weighted.head/logits.weight is missing; there are conv.weight"):
        run(tmp_path, tmp_path / "f.safetensors")


def test_wrong_number_of_classes(weights, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {name: procedural, image_size: 32, options: {num_train: 24, num_val: 24}}")
    with pytest.raises(DataError, match=r"procedural has 12 classes.*tell 10 apart"):
        run(tmp_path, weights, data=str(recipe))


def swapped_folder(folder, names):
    """A folder of two classes; the first name of `names` has the dark images."""
    for split in ("train", "val"):
        for value, name in zip((30, 220), names, strict=True):
            for number in range(4):
                path = folder / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (value, value + number, value)).save(path)
    return str(folder)


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory, one_thread):
    """Untrained weights whose notes name two classes, in an order that no folder gives."""
    subnet = replace(SUBNET, num_classes=2)
    network = single_network(program_of(subnet), 127, torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("two") / "w.safetensors"
    save_tensors(path, network.state_dict(), {"quantized": False, "class_names": ["light", "dark"]})
    return path


def test_names_decide_which_class_is_which(two_classes, tmp_path):
    data = swapped_folder(tmp_path / "images", ["dark", "light"])
    done = run(tmp_path / "out", two_classes, data=data, calibration_images=4)
    assert done.class_names == ("light", "dark")
    dark = done.val_images.pixels[:, 0, 0, 0] < 100
    assert torch.equal(done.val_images.labels, dark.long()), "label 1 is that of the dark images"


def test_other_classes_of_equal_number(two_classes, tmp_path):
    data = swapped_folder(tmp_path / "images", ["dark", "bright"])
    with pytest.raises(
        DataError,
        match=r"than .*w.safetensors.*it alone has 'bright'; of the network's 2, that alone has 'light'",
    ):
        run(tmp_path / "out", two_classes, data=data)


def test_weights_in_a_run_have_the_classes_of_the_run(two_classes, tmp_path):
    own = swapped_folder(tmp_path / "own", ["dark", "light"])
    (tmp_path / "recipe.yaml").write_text(f"data: {{name: folder, image_size: 32, options: {{path: '{own}'}}}}")
    (tmp_path / "provenance.json").write_text("{}")
    path = changed(two_classes, tmp_path / "baselines" / "w.safetensors")
    with pytest.raises(DataError, match="it alone has 'bright'; of the network's 2, that alone has 'light'"):
        run(tmp_path / "out", path, data=swapped_folder(tmp_path / "other", ["dark", "bright"]))


def test_where_nothing_names_the_classes_that_is_told(two_classes, tmp_path):
    path = changed(two_classes, tmp_path / "w.safetensors")
    console = Console(file=io.StringIO(), width=400)
    data = swapped_folder(tmp_path / "images", ["dark", "bright"])
    room.quantize(
        NetworkSettings(weights=str(path), network=ENCODING, space=SPACE), room.InputSettings(data=data),
        PtqSettings(calibration_images=4), room.FinetuningSettings(), tmp_path / "out", Shown(console),
    )  # fmt: skip
    assert "does not name its classes: they are taken to be those of" in console.file.getvalue()
    assert "in this order: bright, dark" in console.file.getvalue()


def test_no_such_data_set(weights, tmp_path):
    with pytest.raises(DataError, match=r"no data set 'digitz'.*digits"):
        run(tmp_path, weights, data="digitz")


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [(PtqSettings, "calibration_images", 0), (PtqSettings, "ranges", "max"), (PtqSettings, "percentile", 101),
     (room.FinetuningSettings, "epochs", -1), (room.FinetuningSettings, "lr", 0), (room.InputSettings, "seed", -1)],
)  # fmt: skip
def test_settings_out_of_range(model, key, value):
    others = {"data": "digits"} if model is room.InputSettings else {}
    with pytest.raises(RecipeError, match=f"wrong value at '{key}'"):
        parse(model, {**others, key: value}, "The command line")
