"""A data set that is rendered, not downloaded: textured shapes in clutter, as hard as its factors say.

Array suffixes: N images, C = 3 channels, H = W = image_size. Lengths are in half image widths: the image
spans [-1, 1] in x and y, so a scene does not depend on the size at which it is rendered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from spaceevo import seeding
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached

# Name, number of points, radius of the corners between them (1 = that of the points).
SHAPES: tuple[tuple[str, int, float], ...] = (
    ("triangle", 3, math.cos(math.pi / 3)),
    ("square", 4, math.cos(math.pi / 4)),
    ("star", 5, 0.45),
    ("spark", 4, 0.4),
    ("pentagon", 5, math.cos(math.pi / 5)),
    ("propeller", 3, 0.25),
    ("snowflake", 6, 0.5),
    ("hexagon", 6, math.cos(math.pi / 6)),
)
TEXTURES = ("striped", "dotted", "ringed", "checked", "wavy", "bricked")

_BATCH = 128  # scenes rendered at once; small enough for the processor's cache


class Settings(BaseModel):
    """What the data set holds and how hard it is; each factor runs from 0 (easy) to 1 (hard)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_classes: int = Field(
        12, ge=2, le=len(SHAPES) * len(TEXTURES), description="Classes, each one shape with one texture."
    )
    num_train: int = Field(6000, ge=2, le=1_000_000, description="Training images.")
    num_val: int = Field(2000, ge=2, le=1_000_000, description="Validation images.")
    seed: int = Field(0, ge=0, lt=2**63, description="Draws the scenes; another seed, another data set.")
    shape: float = Field(
        0.05,
        ge=0,
        le=1,
        description="How far outlines are drawn towards the disc: each scene by its own share of it.",
    )
    texture: float = Field(
        0.1,
        ge=0,
        le=1,
        description="How faint textures are (each scene by its own share of it), "
        "and how little their frequency tells them apart.",
    )
    colour: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Hue: 0 = one per class, between = a weak cue, 1 = random, a mere distractor. "
        "Also how close the object's brightness comes to the background's.",
    )
    clutter: float = Field(
        0.25, ge=0, le=1, description="How many cut-off shapes lie behind the object (up to 4), and how large."
    )
    pose: float = Field(
        0.25, ge=0, le=1, description="How widely rotation (to ±180°), size and position of the object vary."
    )
    noise: float = Field(0.2, ge=0, le=1, description="How much pixel noise and blur there is.")

    @model_validator(mode="after")
    def _every_class_in_both_splits(self) -> Self:
        if min(self.num_train, self.num_val) < self.num_classes:
            raise ValueError(
                f"num_train ({self.num_train}) and num_val ({self.num_val}) must each be at least "
                f"num_classes ({self.num_classes})"
            )
        return self


check = None  # nothing is looked at before it is read


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Render the data set, or read the pixels from the cache.

    Classes are balanced (counts differ by at most one) and labels shuffled. Another image size shows the
    same scenes; only the pixel noise is drawn anew.

    Args:
        settings: What to render.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the rendered pixels.

    Raises:
        NoSpaceError: The cache cannot be written.
    """
    train_labels = _labels(settings, "train", settings.num_train)
    val_labels = _labels(settings, "val", settings.num_val)

    shape = (settings.num_train + settings.num_val, 3, image_size, image_size)
    images_NCHW = cached(
        cache,
        __file__,
        (settings.model_dump(), image_size),
        shape,
        lambda: chain(
            _render(settings, "train", train_labels, image_size), _render(settings, "val", val_labels, image_size)
        ),
    )
    return ImageData(
        name="procedural",
        class_names=tuple(
            f"{TEXTURES[texture]} {SHAPES[shape][0]}" for shape, texture in _classes(settings.num_classes)
        ),
        train_images=images_NCHW[: settings.num_train],
        train_labels=train_labels,
        val_images=images_NCHW[settings.num_train :],
        val_labels=val_labels,
    )


def _classes(num_classes: int) -> list[tuple[int, int]]:
    """(shape, texture) of each class, a grid as square as it gets: neither alone tells the class."""
    num_textures = min(math.isqrt(num_classes), len(TEXTURES))
    return [divmod(label, num_textures) for label in range(num_classes)]


def _labels(settings: Settings, split: str, num_images: int) -> np.ndarray:
    labels = np.arange(num_images, dtype=np.int64) % settings.num_classes
    return seeding.numpy_random(settings.seed, "procedural labels", split).permutation(labels)


@dataclass(frozen=True)
class _Layer:
    """One textured shape in each of N scenes; fields are float32 [N], colours [N, C]."""

    points: np.ndarray  # of the outline
    inner: np.ndarray  # radius of the corners between the points
    roundness: np.ndarray  # 0 = that outline, 1 = a disc
    texture: np.ndarray  # index into TEXTURES
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    cut: np.ndarray  # the shape ends this far from its centre, in radii; whole from 1 on
    frequency: np.ndarray  # texture periods per radius
    texture_angle: np.ndarray
    phase: np.ndarray
    colour: np.ndarray
    contrast: np.ndarray  # added to the colour where the texture is 1, subtracted where it is -1

    def rows(self, where: slice) -> _Layer:
        return _Layer(**{field.name: getattr(self, field.name)[where] for field in fields(self)})


class _Sampler:
    """Samples layers for N scenes; the factors of `settings` decide how much may vary."""

    def __init__(self, settings: Settings, num: int, random: np.random.Generator) -> None:
        self.settings = settings
        self.num = num
        self.random = random

    def spread(self, low: float, high: float) -> np.ndarray:
        return self.random.uniform(low, high, self.num)

    def sign(self) -> np.ndarray:
        return self.random.choice([-1.0, 1.0], self.num)

    def hued(self, hue: np.ndarray, brightness: np.ndarray | float, saturation: np.ndarray) -> np.ndarray:
        wave_NC = np.cos(2 * np.pi * (hue[:, None] + np.array([0, 1 / 3, 2 / 3])))
        colour_NC: np.ndarray = np.broadcast_to(brightness, self.num)[:, None] + saturation[:, None] * wave_NC
        return colour_NC

    def any_shape(self) -> np.ndarray:
        return self.random.integers(len(SHAPES), size=self.num)

    def any_texture(self) -> np.ndarray:
        return self.random.integers(len(TEXTURES), size=self.num)

    def layer(
        self,
        shape: np.ndarray,
        texture: np.ndarray,
        colour: np.ndarray,
        *,
        x: np.ndarray,
        y: np.ndarray,
        radius: np.ndarray | float,
        angle: np.ndarray,
        cut: np.ndarray | float = 2,
        fineness: float = 1,
        strength: float = 1,
    ) -> _Layer:
        hardness = self.settings.texture
        own_frequency = 1.4 + 1.4 * texture / (len(TEXTURES) - 1)
        frequency = (1 - hardness) * own_frequency + hardness * self.spread(1.6, 2.6)
        contrast = strength * (1 - 0.9 * hardness * self.spread(0, 1)) * self.sign()
        values = {
            "points": np.array([points for _, points, _ in SHAPES])[shape],
            "inner": np.array([inner for _, _, inner in SHAPES])[shape],
            "roundness": self.settings.shape * self.spread(0, 1),
            "texture": texture,
            "x": x,
            "y": y,
            "radius": radius,
            "angle": angle,
            "cut": cut,
            "frequency": fineness * frequency,
            "texture_angle": self.spread(-np.pi, np.pi),
            "phase": self.spread(0, 2 * np.pi),
        }
        tint_NC = self.hued(self.spread(0, 1), 0.25, self.spread(0, 0.08))
        return _Layer(
            **{name: np.broadcast_to(value, self.num).astype(np.float32) for name, value in values.items()},
            colour=colour.astype(np.float32),
            contrast=(contrast[:, None] * tint_NC).astype(np.float32),
        )


def _draw_scenes(settings: Settings, labels: np.ndarray, random: np.random.Generator) -> list[_Layer]:
    """The layers of each scene, from back to front; image size plays no part."""
    draw = _Sampler(settings, len(labels), random)
    spread = draw.spread
    # The object is brighter or darker than the background; the harder the colours, the less.
    side = draw.sign()
    gap = spread(0.24, 0.3) - 0.14 * settings.colour * spread(0, 1)
    middle = spread(0.45, 0.55)
    background = draw.layer(
        draw.any_shape(),
        draw.any_texture(),
        draw.hued(spread(0, 1), middle - side * gap, spread(0, 0.15)),
        x=spread(-1, 1),
        y=spread(-1, 1),
        radius=9,  # beyond every edge of the image
        angle=spread(-np.pi, np.pi),
        fineness=12,
        strength=0.5,
    )
    layers = [background]
    for _ in range(round(4 * settings.clutter)):
        around, distance = spread(-np.pi, np.pi), spread(0.55, 1)
        piece = draw.layer(
            draw.any_shape(),
            draw.any_texture(),
            draw.hued(spread(0, 1), middle + side * spread(-0.3, 0.2), spread(0, 0.2)),
            x=distance * np.cos(around),
            y=distance * np.sin(around),
            radius=spread(0.25, 0.3 + 0.3 * settings.clutter),
            angle=spread(-np.pi, np.pi),
            cut=spread(-0.3, 0.4),
        )
        layers.append(piece)
    shape, texture = np.array(_classes(settings.num_classes))[labels].T
    hue = labels / settings.num_classes + settings.colour * spread(-0.5, 0.5)
    pose = settings.pose
    layers.append(
        draw.layer(
            shape,
            texture,
            draw.hued(hue, middle + side * gap, spread(0.05, 0.2)),
            x=0.35 * pose * spread(-1, 1),
            y=0.35 * pose * spread(-1, 1),
            radius=0.65 * (1 + 0.35 * pose * spread(-1, 1)),
            angle=pose * spread(-np.pi, np.pi),
        )
    )
    return layers


def _render(settings: Settings, split: str, labels: np.ndarray, image_size: int) -> Iterator[np.ndarray]:
    """Images uint8 [n, C, H, W] of the scenes with these labels, a batch at a time."""
    layers = _draw_scenes(settings, labels, seeding.numpy_random(settings.seed, "procedural scenes", split))
    random = seeding.numpy_random(settings.seed, "procedural noise", split)
    blur_N = (settings.noise * random.uniform(0, 0.12, len(labels))).astype(np.float32)
    noise_N = (settings.noise * random.uniform(0, 0.2, len(labels))).astype(np.float32)
    edge_N = np.maximum(blur_N, np.float32(2 / image_size))  # one pixel at least: the antialiasing
    for start in range(0, len(labels), _BATCH):
        where = slice(start, start + _BATCH)
        image_NCHW = np.zeros((len(labels[where]), 3, image_size, image_size), np.float32)
        for layer in layers:
            _paint(image_NCHW, layer.rows(where), edge_N[where])
        image_NCHW += noise_N[where, None, None, None] * random.standard_normal(image_NCHW.shape, np.float32)
        yield np.clip(255 * image_NCHW + 0.5, 0, 255).astype(np.uint8)


def _paint(image_NCHW: np.ndarray, layer: _Layer, edge_N: np.ndarray) -> None:
    """Lay one shape per scene over the images."""
    centres = (2 * np.arange(image_NCHW.shape[-1], dtype=np.float32) + 1) / image_NCHW.shape[-1] - 1
    x_NHW = (centres[None, None, :] - _per_pixel(layer.x)) / _per_pixel(layer.radius)
    y_NHW = (centres[None, :, None] - _per_pixel(layer.y)) / _per_pixel(layer.radius)
    edge_NHW = _per_pixel(edge_N / layer.radius)

    inside_NHW = np.clip(0.5 - _outline(x_NHW, y_NHW, layer) / edge_NHW, 0, 1)
    texture_NHW = _texture(x_NHW, y_NHW, layer)
    # A blurred texture fades as a Gaussian blur of that width would fade its wave.
    texture_NHW *= np.exp(-((_per_pixel(layer.frequency) * edge_NHW * 2) ** 2))
    for channel in range(3):
        colour_NHW = texture_NHW * _per_pixel(layer.contrast[:, channel])
        colour_NHW += _per_pixel(layer.colour[:, channel])
        colour_NHW -= image_NCHW[:, channel]
        colour_NHW *= inside_NHW
        image_NCHW[:, channel] += colour_NHW


def _outline(x_NHW: np.ndarray, y_NHW: np.ndarray, layer: _Layer) -> np.ndarray:
    """Signed distance to the outline in radii, negative inside; straight edges between alternate corners."""
    distance_NHW = np.sqrt(x_NHW * x_NHW + y_NHW * y_NHW)
    # Folded by the symmetries of the shape, one edge runs from (1, 0) to the inner corner.
    sector_N = np.float32(2 * np.pi) / layer.points
    angle_NHW = np.arctan2(y_NHW, x_NHW) + _per_pixel(layer.angle)
    sectors_NHW = angle_NHW / _per_pixel(sector_N)
    angle_NHW = np.abs(sectors_NHW - np.rint(sectors_NHW)) * _per_pixel(sector_N)
    corner_x_N, corner_y_N = layer.inner * np.cos(sector_N / 2), layer.inner * np.sin(sector_N / 2)
    length_N = np.hypot(corner_y_N, 1 - corner_x_N)
    normal_x_N, normal_y_N = corner_y_N / length_N, (1 - corner_x_N) / length_N
    # x * normal_x + y * normal_y, written as one cosine.
    facing_NHW = np.cos(angle_NHW - _per_pixel(np.arctan2(normal_y_N, normal_x_N)))
    edge_NHW = distance_NHW * facing_NHW - _per_pixel(normal_x_N)
    # A disc of about the same area.
    disc_NHW = distance_NHW - _per_pixel(np.sqrt(layer.points / np.float32(np.pi) * corner_y_N))
    edge_NHW += _per_pixel(layer.roundness) * (disc_NHW - edge_NHW)
    beyond_NHW = x_NHW * _per_pixel(np.cos(layer.angle)) - y_NHW * _per_pixel(np.sin(layer.angle))
    outline_NHW: np.ndarray = np.maximum(edge_NHW, beyond_NHW - _per_pixel(layer.cut))
    return outline_NHW


def _texture(x_NHW: np.ndarray, y_NHW: np.ndarray, layer: _Layer) -> np.ndarray:
    """Brightness of the texture, in [-1, 1]."""
    scale_N = np.float32(2 * np.pi) * layer.frequency
    cos_N, sin_N = scale_N * np.cos(layer.texture_angle), scale_N * np.sin(layer.texture_angle)
    u_NHW = x_NHW * _per_pixel(cos_N) + y_NHW * _per_pixel(sin_N)
    v_NHW = y_NHW * _per_pixel(cos_N) - x_NHW * _per_pixel(sin_N)
    phase_NHW = np.broadcast_to(_per_pixel(layer.phase), u_NHW.shape)
    texture_NHW: np.ndarray = np.empty_like(u_NHW)
    for index, name in enumerate(TEXTURES):
        rows = np.flatnonzero(layer.texture == index)
        texture_NHW[rows] = _WAVES[name](u_NHW[rows], v_NHW[rows], phase_NHW[rows])
    return texture_NHW


def _per_pixel(value_N: np.ndarray) -> np.ndarray:
    return value_N[:, None, None]


# u and v are angles along two perpendicular directions, of one period each.
_WAVES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "striped": lambda u, v, phase: np.sin(u + phase),
    "dotted": lambda u, v, phase: np.tanh(2 * (np.cos(u + phase) + np.cos(v) - 0.8)),
    "ringed": lambda u, v, phase: np.sin(np.sqrt(u * u + v * v) + phase),
    "checked": lambda u, v, phase: np.sin(u + phase) * np.sin(v),
    "wavy": lambda u, v, phase: np.sin(u + phase + 1.2 * np.sin(v)),
    "bricked": lambda u, v, phase: np.sin(u + phase + np.sign(np.sin(v)) * np.float32(np.pi / 2)),
}
