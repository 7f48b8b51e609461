"""What exported files tell of preprocessing is all that decides: done by hand, it gives the same input."""

import io
import json
import types
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from spaceevo.errors import ArtifactError, DataError
from spaceevo.graph.tensors import Shape, square
from spaceevo.processors import this_profile
from spaceevo.runtimes import litert
from spaceevo.spaces.zoo import load_network
from spaceevo.tools.file_metadata import PREPROCESSING, metadata_of, preprocessing_in
from spaceevo.tools.handout import validation_images
from spaceevo.train.batches import to_input
from spaceevo.train.datasets import decoded

SUBNET = load_network("MobileNetV2").subnet  # of 224 pixels


def told(image_size, runtime=None):
    metadata = metadata_of(SUBNET, ("a", "b"), image_size, this_profile(), 127, "zoo")
    preprocessing = preprocessing_in(metadata, runtime.LAYOUT if runtime else "NCHW")
    return json.loads(preprocessing.told())


def triangle_weights(size, wanted):
    """[wanted, size]: of each pixel in each pixel of the result."""
    scale = size / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


def prepared(content, keys):
    """A plain implementation: (whole pixel values [small, small, 3], the input)."""
    image = Image.open(io.BytesIO(content))
    image.draft(None, (keys["min_decoded_size"],) * 2)
    if keys["exif_transpose"]:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (*keys["background"], 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert(keys["channels"])
    assert (keys["crop"], keys["antialias"]) == ("center_square", True)
    (w, h), s, small = image.size, min(image.size), keys["image_size"]
    box = ((w - s) / 2, (h - s) / 2, (w + s) / 2, (h + s) / 2)
    filter_ = Image.Resampling[keys["interpolation"].upper()]
    pixels_HWC = np.asarray(image.resize((small, small), filter_, box))
    weights = triangle_weights(small, keys["resize"])
    x_HWC = np.einsum("ih,jw,hwc->ijc", weights, weights, pixels_HWC.astype(np.float64), optimize=True)
    x_HWC = (x_HWC * keys["scale"] - keys["mean"]) / keys["std"]
    x = x_HWC.transpose(2, 0, 1) if keys["layout"] == "NCHW" else x_HWC
    return pixels_HWC, x[None].astype(np.float32)


def picture(size, mode="RGB", kind="PNG", orientation=1):
    rng = np.random.default_rng(0)
    channels = {"RGBA": 4, "LA": 2, "L": 1}.get(mode, 3)
    noise = rng.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, channels), np.uint8).squeeze()
    image = Image.fromarray(noise, mode if channels != 3 else "RGB").resize(size, Image.Resampling.BICUBIC)
    if mode == "P":
        image = image.quantize(16)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif, **({"transparency": 3} if mode == "P" else {}))
    return buffer.getvalue()


PICTURES = {
    "square": picture((64, 64)),
    "wide": picture((301, 97)),
    "tall and odd": picture((53, 200)),
    "small": picture((20, 31)),
    "grey": picture((90, 70), "L"),
    "transparent": picture((90, 70), "RGBA"),
    "transparent grey": picture((71, 90), "LA"),
    "palette": picture((90, 70), "P"),
    "large JPEG": picture((900, 700), kind="JPEG"),
    **{f"turned {turn}": picture((301, 97), kind="JPEG", orientation=turn) for turn in range(2, 9)},
}


@pytest.mark.parametrize("image_size", [40, 224, 256])
@pytest.mark.parametrize("runtime", [None, litert], ids=["NCHW", "NHWC"])
def test_done_by_hand_from_what_is_told(image_size, runtime):
    keys = told(image_size, runtime)
    for name, content in PICTURES.items():
        pixels, x = prepared(content, keys)
        (stored,) = next(decoded([(name, content)], image_size))
        assert np.array_equal(stored.transpose(1, 2, 0), pixels), name  # bit for bit
        ours = to_input(torch.from_numpy(stored)[None], keys["resize"]).numpy()
        if keys["layout"] == "NHWC":
            ours = ours.transpose(0, 2, 3, 1)
        assert ours.shape == x.shape
        assert np.abs(ours - x).max() < 5e-5, name  # float32 against float64; a code is 0.016
        if image_size == keys["resize"]:
            assert len(keys["steps"]) == 6, "no second resize"


def test_what_was_told_before_is_there_still():
    keys = told(40)
    assert (keys["resize"], keys["scale"], keys["channels"]) == (224, 1 / 255, "RGB")
    assert (keys["mean"], keys["std"]) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("text", [None, '{"resize": 32, "scale": 0.5, "mean": [0, 0, 0]}', "[]", "{", "null"])
def test_networks_of_older_versions_are_written_as_they_are(text):
    metadata = {} if text is None else {PREPROCESSING: text}
    assert preprocessing_in(metadata, litert.LAYOUT) is None


def network_of(class_names):
    """As much of an extracted network of two classes and 32 pixels as decides which images fit."""
    nodes = [types.SimpleNamespace(in_shape=square(3, 32)), types.SimpleNamespace(out_shape=Shape(2))]
    metadata = {"class_names": class_names} if class_names else {}
    return types.SimpleNamespace(integer=types.SimpleNamespace(nodes=nodes), metadata=metadata)


@pytest.fixture(scope="module")
def dark_and_light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for split, name, value in product(("train", "val"), ("dark", "light"), (30, 31)):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        level = value if name == "dark" else 255 - value
        Image.new("RGB", (32, 32), (level,) * 3).save(folder / split / name / f"{value}.png")
    return str(folder)


def test_labels_are_numbered_as_the_network_numbers_its_classes(dark_and_light, tmp_path):
    for names in (["dark", "light"], ["light", "dark"]):
        images = validation_images(tmp_path / "n", network_of(json.dumps(names)), dark_and_light)
        dark = images.pixels[:, 0, 0, 0] < 100
        assert torch.equal(images.labels, torch.where(dark, names.index("dark"), names.index("light")))


def test_images_are_read_at_the_size_that_the_files_tell(dark_and_light, tmp_path):
    for more, size in ({}, 32), ({PREPROCESSING: json.dumps(told(48))}, 48):
        network = network_of('["dark", "light"]')
        network.metadata |= more
        assert validation_images(tmp_path / "n", network, dark_and_light).pixels.shape == (4, 3, size, size)


def test_other_classes(dark_and_light, tmp_path):
    path = tmp_path / "n-int8.onnx"
    with pytest.raises(
        DataError,
        match=r"n-int8.onnx.* it alone has 'light'; of the network's 2, that alone has 'bright'",
    ):
        validation_images(path, network_of('["dark", "bright"]'), dark_and_light)


@pytest.mark.parametrize("names", [None, "[]", "{", '["a", "b", "c"]', "7"])
def test_a_network_without_class_names(dark_and_light, tmp_path, names):
    with pytest.raises(ArtifactError, match="does not name its classes"):
        validation_images(tmp_path / "n", network_of(names), dark_and_light)
