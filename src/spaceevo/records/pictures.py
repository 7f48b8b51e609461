"""Images of a data set, and how a picture becomes what a network reads."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from spaceevo.records.base import Record


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What of a data set was not read, for one reason.

    Attributes:
        reason: In the plural, for people, for example "files with the ending .avif".
        count: How many, at least 1.
        example: Where the first one lies.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True, eq=False)
class ImageData:
    """A classification data set, all images square and of one size.

    Its arrays may be mapped from files, and then larger than memory.

    Attributes:
        name: Name of the data set, for reports.
        class_names: One name per class, in label order.
        train_images: uint8 [num_train, 3, size, size], RGB.
        train_labels: int64 [num_train], each in [0, num_classes).
        val_images: uint8 [num_val, 3, size, size], RGB; never used for training or searching.
        val_labels: int64 [num_val], each in [0, num_classes).
        passed_over: What looked as if it belonged to it and was not read.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height = width of every image, in pixels."""
        return int(self.train_images.shape[-1])


@dataclass(frozen=True, slots=True)
class Normalization:
    """How pixels become the network's input: (pixel / 255 - mean) / std, per RGB channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


class Preprocessing(Record):
    """How a picture becomes what a network reads; every exported file tells it as JSON, with `steps`.

    Attributes:
        resize: Height = width that the network reads.
        image_size: Height = width that the square is resized to before, and rounded to whole pixel values.
        min_decoded_size: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where both sides stay as large.
        exif_transpose: Whether a picture is turned as its EXIF orientation says.
        background: Colour under transparent pixels, RGB, 0 to 255.
        crop: What is cut out: the largest square in the centre.
        interpolation: How both resizes interpolate.
        antialias: Whether the filter widens with the scale where a picture shrinks.
        scale: What pixel values are multiplied by, before `mean` and `std`.
        mean: Then taken away, per channel.
        std: Then divided by, per channel.
        channels: Order of the colour channels.
        layout: Order of the axes of the input, which is float32, one picture at a time.
    """

    resize: int
    image_size: int
    min_decoded_size: int
    exif_transpose: bool = True
    background: tuple[int, int, int] = (255, 255, 255)
    crop: str = "center_square"
    interpolation: str = "bilinear"
    antialias: bool = True
    scale: float = 1 / 255
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"
    layout: str = "NCHW"

    @property
    def steps(self) -> tuple[str, ...]:
        """The same in sentences, in the order in which it is done."""
        small, size = self.image_size, self.resize
        again = (
            f"Resize to {size} x {size} in float32, bilinear with antialiasing (a triangle filter of radius "
            f"max(1, {small}/{size}) around pixel centres, its weights normalized), without rounding."
        )
        return (
            f"Decode; a JPEG by Pillow's draft mode for {self.min_decoded_size} x {self.min_decoded_size} pixels.",
            "Turn upright as the EXIF orientation says.",
            "Bring grey of more than 8 bits to 8 by scaling; compose on the background where it is transparent; "
            "convert to RGB.",
            f"Take the largest square in the centre, of the shorter side s: the box ((w-s)/2, (h-s)/2, (w+s)/2, "
            f"(h+s)/2), and resize it to {small} x {small}, bilinear with antialiasing, rounded to bytes: Pillow's "
            f"resize(({small}, {small}), BILINEAR, box), the same as ImageOps.fit.",
            *([again] if size != small else []),
            "Multiply by scale, take away mean, divide by std, per channel.",
            f"Order the axes as {self.layout}, float32.",
        )

    def told(self) -> str:
        """As JSON, for people and programs."""
        return json.dumps(self.model_dump(mode="json") | {"steps": self.steps})
