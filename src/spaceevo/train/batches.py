"""From stored images to the batches that networks read.

Shapes: N images, B batch, C = 3 channels, H = W size in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.records import ImageData, Preprocessing
from spaceevo.seeding import derive, numpy_random

PREPROCESSING = Preprocessing()


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 [N, 3, size, size].
        labels: int64 [N].
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray | slice) -> Images:
        """A selection of the images."""
        return Images(self.pixels[indices], self.labels[indices])


def split(data: ImageData, search_share: float, seed: int) -> tuple[Images, Images, Images]:
    """(training, search, validation) images; search images are held out of the training set.

    Args:
        data: The data set.
        search_share: Share of the training images that is held out.
        seed: Of the run.
    """
    train = Images(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    order = numpy_random(seed, "search split").permutation(len(train))
    num_search = max(1, round(search_share * len(train)))
    val = Images(torch.from_numpy(data.val_images), torch.from_numpy(data.val_labels))
    return train.take(order[num_search:]), train.take(order[:num_search]), val


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
    mean = torch.tensor(PREPROCESSING.mean).view(3, 1, 1) * 255
    std = torch.tensor(PREPROCESSING.std).view(3, 1, 1) * 255
    return (x_BCHW - mean) / std


def augment(pixels_BCHW: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and shift each by up to `shift` pixels, edges repeated."""
    B, _, H, W = pixels_BCHW.shape
    if flip:
        mirrored = torch.rand(B, generator=generator) < 0.5
        pixels_BCHW = torch.where(mirrored.view(B, 1, 1, 1), pixels_BCHW.flip(3), pixels_BCHW)
    if shift:
        dy, dx = torch.randint(-shift, shift + 1, (2, B, 1), generator=generator)
        rows = (torch.arange(H) + dy).clamp(0, H - 1)
        columns = (torch.arange(W) + dx).clamp(0, W - 1)
        batch = torch.arange(B).view(B, 1, 1, 1)
        channels = torch.arange(3).view(1, 3, 1, 1)
        pixels_BCHW = pixels_BCHW[batch, channels, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]
    return pixels_BCHW


def batch_indices(num_images: int, batch_size: int, step: int, seed: int, purpose: str) -> np.ndarray:
    """Indices of the batch of one step; every epoch is a fresh permutation, its last partial batch left out."""
    batch_size = min(batch_size, num_images)
    epoch, position = divmod(step, num_images // batch_size)
    order = numpy_random(seed, purpose, "epoch", epoch).permutation(num_images)
    return order[position * batch_size : (position + 1) * batch_size]


def equal_parts(pixels: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Parts of at most `batch_size` images, of nearly one size: batch norm cannot use a rest of one image."""
    return torch.tensor_split(pixels, max(1, -(-len(pixels) // batch_size)))


def torch_generator(seed: int, *purpose: object) -> torch.Generator:
    """Torch's generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
