"""From stored images to the batches that networks read.

Shapes: N images, B batch, C = 3 channels, H = W size in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.config import DataSettings, num_held_out
from spaceevo.errors import DataError
from spaceevo.records import ImageData, Normalization
from spaceevo.seeding import derive, numpy_random
from spaceevo.train.augmentation import augment, draw, mix, parts

NORMALIZATION = Normalization()


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, or a selection of them that is copied only when its pixels are asked for.

    Attributes:
        stored: uint8 [M, 3, size, size], may be mapped from a file.
        stored_labels: int64 [M].
        rows: The selection, int64 [N]; all of them by default.
    """

    stored: Tensor
    stored_labels: Tensor
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 [N, 3, size, size]; of a selection a copy, so first `take` what is needed."""
        return self.stored if self.rows is None else self.stored.index_select(0, torch.from_numpy(self.rows))

    @cached_property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self.stored_labels if self.rows is None else self.stored_labels[torch.from_numpy(self.rows)]

    @cached_property
    def num_classes(self) -> int:
        """Classes of all that is stored: a selection may lack some."""
        return 1 + int(self.stored_labels.max())

    def take(self, indices: np.ndarray | slice) -> Images:
        """A selection of the images."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return Images(self.stored, self.stored_labels, rows[indices])


def split(data: ImageData, search_share: float, seed: int) -> tuple[Images, Images, Images]:
    """(training, search, validation) images; search images are held out of the training set.

    They are drawn at random. Then images change sides, as few as can be, so that every class stays in the training
    part, and one of two images or more is in the search part, too, if that has room for all of these.

    Args:
        data: The data set.
        search_share: Share of the training images that is held out.
        seed: Of the run; decides every random draw.

    Raises:
        DataError: Every class has a single training image.
    """
    train = Images(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    order = numpy_random(seed, "search split").permutation(len(train))
    num_search = num_held_out(len(train), search_share)
    drawn, added = _held_out(data.train_labels[order], num_search)
    val = Images(torch.from_numpy(data.val_images), torch.from_numpy(data.val_labels))
    # Those that were added come first: some who judge look at the first ones only
    return train.take(order[~(drawn | added)]), train.take(np.concatenate([order[added], order[drawn]])), val


def not_searched(data: ImageData, search_share: float, seed: int) -> tuple[str, ...]:
    """Names of the classes of which `split` holds no image out, so that the subnet search does not see them.

    Args:
        data: The data set.
        search_share: Share of the training images that is held out.
        seed: Of the run; decides every random draw.
    """
    _, search, _ = split(data, search_share, seed)
    return tuple(data.class_names[label] for label in np.setdiff1d(data.train_labels, search.labels.numpy()))


def _held_out(labels_N: np.ndarray, num_search: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images of a drawn order to hold out, bool [N]: of the first `num_search`, and of the others."""
    drawn, added = np.arange(len(labels_N)) < num_search, np.zeros(len(labels_N), bool)
    num_images = np.bincount(labels_N)
    if num_images.max() == 1:
        raise DataError(
            "No image can be held out for the subnet search",
            found="Every class has a single training image",
            remedy="Add training images; of a class with two, one can be held out",
        )
    num_held = np.bincount(labels_N[drawn], minlength=len(num_images))

    def move(held: np.ndarray, index: np.intp, is_held: bool) -> None:
        held[index] = is_held
        num_held[labels_N[index]] += 1 if is_held else -1

    for label in np.flatnonzero((num_held == num_images) & (num_images > 0)):
        move(drawn, np.flatnonzero(labels_N == label)[-1], False)
    for label in np.flatnonzero((num_held == 0) & (num_images > 1)):
        move(added, np.flatnonzero((labels_N == label) & ~drawn)[0], True)
    # As many as before, if it can be: others go back to the training part, or come from there. Where there is no room
    # for all classes, those that were drawn stay
    for least in (1, 0):
        for held in (added, drawn):
            for index in np.flatnonzero(held)[::-1]:
                if num_held.sum() <= num_search:
                    break
                if num_held[labels_N[index]] > least:
                    move(held, index, False)
    for index in np.flatnonzero(~(drawn | added)):
        if num_held.sum() >= num_search:
            break
        if num_held[labels_N[index]] < num_images[labels_N[index]] - 1:
            move(added, index, True)
    return drawn, added


def to_input(pixels_BCHW: Tensor, resolution: int) -> Tensor:
    """What the network reads: resized (antialiased bilinear) and normalized.

    Args:
        pixels_BCHW: uint8 or float, values 0 to 255.
        resolution: Height = width wanted.
    """
    x_BCHW = pixels_BCHW.float()
    if x_BCHW.shape[-1] != resolution:
        size = (resolution, resolution)
        x_BCHW = F.interpolate(x_BCHW, size, mode="bilinear", antialias=True, align_corners=False)
    mean = torch.tensor(NORMALIZATION.mean, device=x_BCHW.device).view(3, 1, 1) * 255
    std = torch.tensor(NORMALIZATION.std, device=x_BCHW.device).view(3, 1, 1) * 255
    return (x_BCHW - mean) / std


def batch_indices(num_images: int, batch_size: int, step: int, seed: int, purpose: str) -> np.ndarray:
    """Indices of the batch of one step; every epoch is a fresh permutation, its last partial batch left out."""
    batch_size = min(batch_size, num_images)
    epoch, position = divmod(step, num_images // batch_size)
    order = numpy_random(seed, purpose, "epoch", epoch).permutation(num_images)
    return order[position * batch_size : (position + 1) * batch_size]


def training_batch(
    images: Images,
    data: DataSettings,
    batch_size: int,
    step: int,
    seed: int,
    purpose: str,
    device: torch.device | str = "cpu",
    rows: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """The augmented batch of one step, a function of its arguments alone: steps may be made in any order, or ahead.

    Args:
        images: Training images.
        data: Which augmentations apply.
        batch_size: B; all images where there are fewer.
        step: From 0, over all epochs.
        seed: Of the run; decides every random draw.
        purpose: Name of the training.
        device: Where the batch is wanted; pixels go there as bytes and are augmented there.
        rows: What is wanted of the batch. Others are not read, unless images are mixed, which takes all of them.

    Returns:
        Pixels uint8 [B, 3, size, size]; labels int64 [B], or float32 [B, K] where `mixup` or `cutmix` mixes them;
        of `rows` only.
    """
    indices = batch_indices(len(images), batch_size, step, seed, purpose)
    generator = torch_generator(seed, purpose, "augment", step)
    draws = draw(len(indices), data, generator)
    is_mixed = bool(data.mixup or data.cutmix)
    batch = images.take(indices if is_mixed else indices[rows])
    draws = draws if is_mixed else draws[rows]
    pixels = torch.empty((len(batch), *images.stored.shape[1:]), dtype=torch.uint8, device=device)
    for part in parts(pixels):
        pixels[part] = augment(batch.take(part).pixels.to(device), draws[part])
    labels = batch.labels.to(device)
    if not is_mixed:
        return pixels, labels
    pixels, labels = mix(pixels, labels, images.num_classes, data, generator)
    return pixels[rows], labels[rows]


def equal_parts(pixels: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Parts of at most `batch_size` images, of nearly one size: batch norm cannot use a rest of one image."""
    return torch.tensor_split(pixels, max(1, -(-len(pixels) // batch_size)))


def torch_generator(seed: int, *purpose: object) -> torch.Generator:
    """Torch's generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
