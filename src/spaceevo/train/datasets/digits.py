"""Handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels in 10 classes, no download.

Source: `sklearn.datasets.load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
The contract of a data set is in `procedural`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from spaceevo.records import ImageData

_DARKEST = 16  # the digits have 17 levels


class Settings(BaseModel):
    """How the digits are split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    val_share: float = Field(0.25, ge=0.05, le=0.5, description="Share of each class that is held out for validation.")
    seed: int = Field(0, ge=0, lt=2**32, description="Draws the split; another seed, another split.")


check = None  # nothing is looked at before it is read


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Enlarge and split the digits; this is faster than reading a cache, so none is written.

    Args:
        settings: How to split.
        image_size: Height = width in pixels, at least 1; enlarged bilinearly, three equal channels.
        cache: Not used; the images are part of scikit-learn.
    """
    digits = load_digits()
    labels: np.ndarray = digits.target.astype(np.int64)
    codes_NHW = np.rint(digits.images * (255 / _DARKEST)).astype(np.uint8)
    size = (image_size, image_size)
    grey_NHW = np.stack(
        [np.asarray(Image.fromarray(code_HW).resize(size, Image.Resampling.BILINEAR)) for code_HW in codes_NHW]
    )
    images_NCHW = np.repeat(grey_NHW[:, None], 3, axis=1)
    train, val = train_test_split(
        np.arange(len(labels)), test_size=settings.val_share, stratify=labels, random_state=settings.seed
    )
    return ImageData(
        name="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        train_images=images_NCHW[train],
        train_labels=labels[train],
        val_images=images_NCHW[val],
        val_labels=labels[val],
    )
