"""From stored images to batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from spaceevo.config import DataSettings
from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.seeding import numpy_random
from spaceevo.train.augmentation import augment, draw
from spaceevo.train.batches import (
    Images,
    batch_indices,
    equal_parts,
    not_searched,
    split,
    to_input,
    torch_generator,
    training_batch,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def data(num_train=40, num_val=6):
    """Images whose pixels tell their position, and it the label."""
    train = np.broadcast_to(np.arange(num_train, dtype=np.uint8)[:, None, None, None], (num_train, 3, 4, 4)).copy()
    val = np.full((num_val, 3, 4, 4), 200, np.uint8)
    return ImageData("made up", ("a", "b"), train, np.arange(num_train) % 2, val, np.zeros(num_val, np.int64))


def positions(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_split():
    train, search, val = split(data(), 0.25, seed=3)
    assert (len(train), len(search), len(val)) == (30, 10, 6)
    assert sorted(positions(train) + positions(search)) == list(range(40))
    for part in (train, search):
        assert [position % 2 for position in positions(part)] == part.labels.tolist(), "labels stay with their images"
    assert (val.pixels == 200).all()
    assert positions(split(data(), 0.25, seed=3)[1]) == positions(search)
    assert positions(split(data(), 0.25, seed=4)[1]) != positions(search)
    assert len(split(data(), 0.001, seed=0)[1]) == 1


def long_tail(*counts):
    """So many training images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"class{number}" for number in range(len(counts)))
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return ImageData("made up", names, pixels, labels, pixels, labels)


@pytest.mark.parametrize("counts", [(20, 20), (30, 15, 12)])
def test_the_draw_stays_where_no_class_lacks(counts):
    made = long_tail(*counts)
    for seed in range(5):
        order = numpy_random(seed, "search split").permutation(len(made.train_labels))
        num = round(0.4 * len(order))
        assert set(made.train_labels[order[:num]]) == set(range(len(counts))), "the case is meant to be an easy one"
        train, search, _ = split(made, 0.4, seed)
        assert (positions(search), positions(train)) == (order[:num].tolist(), order[num:].tolist())
        assert not_searched(made, 0.4, seed) == ()


@pytest.mark.parametrize("counts", [(120, 1), (40, 2, 1, 3), (1, 2), (2, 2, 2, 2), (60, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.89])
def test_no_class_is_missing_in_training_and_none_of_two_images_in_the_search(counts, share):
    made = long_tail(*counts)
    num_search = max(1, round(share * sum(counts)))
    moved = sum(count > 1 for count in counts)
    for seed in range(30):
        train, search, _ = split(made, share, seed)
        assert sorted(positions(train) + positions(search)) == list(range(sum(counts)))
        assert len(search) == min(num_search, sum(counts) - len(counts))
        assert set(train.labels.tolist()) == set(range(len(counts)))
        if num_search >= moved:
            assert set(search.labels.tolist()) == {label for label, count in enumerate(counts) if count > 1}
        else:
            assert len(set(search.labels.tolist())) == num_search, "as many classes as there is room for"
        lacking = set(made.class_names) - {f"class{label}" for label in search.labels.tolist()}
        assert set(not_searched(made, share, seed)) == lacking


def test_what_completes_the_search_part_comes_first():
    made = long_tail(100, 2)
    lacking = [seed for seed in range(40) if 1 not in made.train_labels[drawn(made, seed)]]
    assert lacking
    for seed in lacking:
        _, search, _ = split(made, 0.1, seed)
        assert search.labels.tolist() == [1, *[0] * 9]
        assert positions(search)[1:] == drawn(made, seed)[:-1].tolist(), "only the last one drawn makes room"


def drawn(made, seed):
    return numpy_random(seed, "search split").permutation(len(made.train_labels))[:10]


def test_a_data_set_of_which_nothing_can_be_held_out():
    with pytest.raises(DataError, match="No image can be held out"):
        split(long_tail(1, 1, 1), 0.5, 0)


def test_take():
    images = Images(torch.arange(5).view(5, 1, 1, 1), torch.arange(5))
    assert images.take(np.array([3, 1])).labels.tolist() == [3, 1]
    assert images.take(slice(0, 2)).pixels.flatten().tolist() == [0, 1]


def test_to_input():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    x = to_input(pixels, 4)  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25
    assert torch.equal(x, torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4))
    assert to_input(pixels, 7).shape == (2, 3, 7, 7)
    torch.testing.assert_close(to_input(pixels, 7)[1], torch.full((3, 7, 7), 2.0))


def test_resizing_is_antialiased():
    checkerboard = (torch.arange(16).view(1, -1) + torch.arange(16).view(-1, 1)) % 2 * 255.0
    x = to_input(checkerboard.expand(1, 3, 16, 16), 4)
    assert x.abs().max() < 0.3, "stripes of one pixel become grey"


def test_a_selection_is_copied_once_its_pixels_are_asked_for():
    pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    images = Images(pixels, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert images.pixels is pixels
    selection = images.take(np.array([4, 0, 1])).take(slice(0, 2))
    assert "pixels" not in vars(selection)
    assert selection.stored is pixels
    assert (len(selection), selection.pixels.flatten().tolist(), selection.labels.tolist()) == (2, [4, 0], [1, 0])
    assert selection.num_classes == 3, "of all images, though no image of class 2 is selected"


def many(num=20, size=16):
    pixels = torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch_generator(0, "many"))
    return Images(pixels, torch.arange(num) % 4)


def test_training_batch_is_that_of_its_step():
    images, data = many(), DataSettings(shift=2)
    pixels, labels = training_batch(images, data, 8, step=3, seed=1, purpose="p")
    indices = batch_indices(20, 8, 3, 1, "p")
    draws = draw(8, data, torch_generator(1, "p", "augment", 3))
    assert torch.equal(pixels, augment(images.pixels[torch.from_numpy(indices)], draws))
    assert torch.equal(labels, images.labels[torch.from_numpy(indices)])
    for other in ({"step": 4}, {"seed": 2}, {"purpose": "q"}):
        assert not torch.equal(
            training_batch(images, data, 8, **{"step": 3, "seed": 1, "purpose": "p", **other})[0], pixels
        )


@pytest.mark.parametrize("fields", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixed_batches_have_soft_labels(fields):
    images = many().take(np.arange(0, 20, 2))  # of classes 0 and 2 alone
    pixels, labels = training_batch(images, DataSettings(**fields), 8, 0, 0, "p")
    assert (pixels.dtype, labels.shape, labels.dtype) == (torch.uint8, (8, 4), torch.float32)
    torch.testing.assert_close(labels.sum(1), torch.ones(8))
    assert (labels[:, [1, 3]] == 0).all()
    loss = torch.nn.functional.cross_entropy(torch.zeros(8, 4), labels, label_smoothing=0.1)
    assert loss.item() == pytest.approx(np.log(4), rel=1e-5)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
def test_every_epoch_is_a_permutation(num_images, batch_size, epoch):
    steps = num_images // min(batch_size, num_images)
    batches = [batch_indices(num_images, batch_size, epoch * steps + i, 0, "p") for i in range(steps)]
    assert {len(batch) for batch in batches} == {min(batch_size, num_images)}
    drawn = np.concatenate(batches).tolist()
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(num_images))
    assert len(drawn) > num_images - batch_size


def test_epochs_and_purposes_differ():
    first = batch_indices(50, 50, 0, 0, "p").tolist()
    assert batch_indices(50, 50, 0, 0, "p").tolist() == first
    for other in (batch_indices(50, 50, 1, 0, "p"), batch_indices(50, 50, 0, 1, "p"), batch_indices(50, 50, 0, 0, "q")):
        assert other.tolist() != first


@given(st.integers(1, 400), st.integers(2, 128))
def test_equal_parts(num_images, batch_size):
    pixels = torch.arange(num_images)
    parts = equal_parts(pixels, batch_size)
    assert torch.equal(torch.cat(parts), pixels)
    sizes = [len(part) for part in parts]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 1 or num_images == 1 or batch_size <= 3, "batch norm needs more than one image"
