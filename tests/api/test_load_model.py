"""Exported models, used as people use them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import spaceevo
from spaceevo.errors import ArtifactError, DataError
from spaceevo.tools.handout import run_of

pytestmark = [pytest.mark.usefixtures("plugin"), pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def result(tiny):
    return spaceevo.Run.open(tiny.folder).models[0]


@pytest.fixture
def data(tiny):
    return run_of(tiny.folder).data


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_accuracy_is_that_of_the_run(tiny, result, data, precision) -> None:
    file = tiny.folder / getattr(result, f"{precision}_file")
    model = spaceevo.load_model(file)
    found = model.predict(data.val_images)
    assert model.class_names == data.class_names
    assert np.mean(found.labels == data.val_labels) == pytest.approx(getattr(result, f"top1_{precision}"))
    assert found.logits.shape == found.probabilities.shape == (len(data.val_labels), 10)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert found.classes[3] == data.class_names[found.labels[3]]
    assert len(found) == len(data.val_labels)
    assert repr(model) == f"Model('{file}'): 10 classes, for onnxruntime"


def test_files_of_pictures(tiny, result, data, tmp_path) -> None:
    model = spaceevo.load_model(tiny.folder / result.int8_file)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"<{number}>.png")
        Image.fromarray(data.val_images[number].transpose(1, 2, 0)).save(paths[-1])
    found = model.predict(paths)
    np.testing.assert_array_equal(found.logits, model.predict(data.val_images[:3]).logits)
    assert found.names == tuple(map(str, paths))
    np.testing.assert_array_equal(model.predict(str(paths[0])).logits, found.logits[:1])
    shown = found._repr_html_()
    assert "&lt;1&gt;.png" in shown
    assert f"<td>{found.classes[0]}</td>" in shown
    assert len(model.predict([])) == 0


def test_what_is_no_picture(tiny, result, tmp_path) -> None:
    model = spaceevo.load_model(tiny.folder / result.int8_file)
    for array in (np.zeros((1, 3, 24, 24), np.float32), np.zeros((1, 24, 24, 3), np.uint8), np.zeros(3, np.uint8)):
        with pytest.raises(DataError, match=r"reads arrays uint8 \[N, 3, 24, 24\]"):
            model.predict(array)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read: a\.png|1 of 1 images cannot be read"):
        model.predict(tmp_path / "a.png")


def test_the_network_computes_what_the_fp32_file_does(tiny, result, data) -> None:
    model = spaceevo.load_model(tiny.folder / result.fp32_file)
    network = model.torch()
    pixels = data.val_images[:16]
    with torch.no_grad():
        logits = network(model.torch_input(pixels)).numpy()
    np.testing.assert_allclose(logits, model.predict(pixels).logits, atol=2e-4)


def test_the_network_can_be_trained(tiny, result, data) -> None:
    model = spaceevo.load_model(tiny.folder / result.int8_file)
    network, labels = model.torch(), torch.from_numpy(data.train_labels[:32])
    inputs = model.torch_input(data.train_images[:32])
    optimizer = torch.optim.SGD(network.parameters(), 0.02)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())
    again = model.torch()
    assert not torch.equal(next(again.parameters()), next(network.parameters())), "the file stays as it is"


def test_files_that_are_none(tiny, result, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="is no model file"):
        spaceevo.load_model(tiny.folder / "recipe.yaml")
    with pytest.raises(ArtifactError):
        spaceevo.load_model(tmp_path / "absent.onnx")
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((tiny.folder / result.int8_file).read_bytes())
    model = spaceevo.load_model(alone)
    with pytest.raises(ArtifactError, match="does not lie beside it"):
        model.torch()


def test_a_file_that_tells_no_classes(tiny, result, monkeypatch) -> None:
    from spaceevo.runtimes import onnxruntime

    whole = onnxruntime.metadata
    monkeypatch.setattr(
        onnxruntime, "metadata", lambda path: {k: v for k, v in whole(path).items() if k != "class_names"}
    )
    with pytest.raises(ArtifactError, match=r"does not tell .* what its classes are"):
        spaceevo.load_model(tiny.folder / result.int8_file)
