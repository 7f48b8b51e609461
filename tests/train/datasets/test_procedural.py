"""The rendered data set: what its factors promise, seen in the pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from pydantic import ValidationError

from spaceevo.train.datasets import procedural

EASY = {"shape": 0, "texture": 0, "colour": 0, "clutter": 0, "pose": 0, "noise": 0}


def _render(cache: Path, image_size: int = 32, num_images: int = 48, **fields: float):
    settings = procedural.Settings(num_train=num_images, num_val=num_images, **fields)
    return procedural.load(settings, image_size, cache)


@given(num_classes=st.integers(2, 48), extra=st.integers(0, 100), seed=st.integers(0, 2**63 - 1))
def test_classes_are_balanced_and_shuffled(num_classes: int, extra: int, seed: int) -> None:
    num = num_classes + extra
    settings = procedural.Settings(num_classes=num_classes, num_train=num, num_val=num, seed=seed)
    labels = procedural._labels(settings, "train", num)
    counts = np.bincount(labels, minlength=num_classes)
    assert len(counts) == num_classes
    assert counts.max() - counts.min() <= 1
    if num >= 20:
        assert (labels != np.arange(num) % num_classes).any()


@given(num_classes=st.integers(4, 48))
def test_neither_shape_nor_texture_alone_tells_the_class(num_classes: int) -> None:
    classes = procedural._classes(num_classes)
    assert len(set(classes)) == num_classes
    shapes, textures = zip(*classes, strict=True)
    assert max(shapes) < len(procedural.SHAPES)
    assert max(textures) < len(procedural.TEXTURES)
    assert shapes.count(0) > 1
    assert all(textures.count(texture) > 1 for texture in textures)


def test_train_and_val_show_different_scenes_and_a_seed_draws_others(tmp_path: Path) -> None:
    data, other = _render(tmp_path), _render(tmp_path, seed=1)
    # Labels and noise have streams of their own, so look at the scenes themselves.
    same_labels = np.arange(48) % 12
    train, val = (
        np.concatenate([*procedural._render(procedural.Settings(noise=0), split, same_labels, 8)]).astype(int)
        for split in ("train", "val")
    )
    assert np.abs(train - val).mean() > 20
    assert not (data.train_images == other.train_images).all()
    assert not (data.train_labels == data.val_labels).all()


def test_another_size_shows_the_same_scenes(tmp_path: Path) -> None:
    small = _render(tmp_path, 24, noise=0)
    large = _render(tmp_path, 96, noise=0)
    assert (small.train_labels == large.train_labels).all()
    shrunk = large.train_images.reshape(-1, 3, 24, 4, 24, 4).mean(axis=(3, 5))
    difference = np.abs(shrunk - small.train_images).mean(axis=(1, 2, 3))
    to_another_scene = np.abs(np.roll(shrunk, 1, axis=0) - small.train_images).mean(axis=(1, 2, 3))
    assert difference.max() < 0.5 * to_another_scene.min()


def test_batches_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _render(tmp_path / "whole")
    monkeypatch.setattr(procedural, "_BATCH", 7)
    assert (_render(tmp_path / "parts").train_images == whole.train_images).all()


def test_pose_widens_with_its_factor() -> None:
    def drawn(pose: float) -> procedural._Layer:
        settings = procedural.Settings(pose=pose)
        return procedural._draw_scenes(settings, np.arange(400) % 12, np.random.default_rng(0))[-1]

    fixed, half, free = drawn(0), drawn(0.5), drawn(1)
    for name in ("x", "y", "radius", "angle"):
        assert np.ptp(getattr(fixed, name)) == 0
        assert 0 < 1.5 * np.ptp(getattr(half, name)) < np.ptp(getattr(free, name))
    assert np.ptp(free.angle) == pytest.approx(2 * np.pi, rel=0.05)
    # The object stays in sight.
    assert (np.abs(free.x) + free.radius / 2 < 1).all()


def test_clutter_adds_pieces_behind_the_object() -> None:
    def num_layers(clutter: float) -> int:
        settings = procedural.Settings(clutter=clutter)
        return len(procedural._draw_scenes(settings, np.arange(12), np.random.default_rng(0)))

    assert [num_layers(clutter) for clutter in (0, 0.5, 1)] == [2, 4, 6]


def test_noise_roughens_neighbouring_pixels(tmp_path: Path) -> None:
    def roughness(noise: float) -> float:
        images = _render(tmp_path, **(EASY | {"noise": noise})).train_images.astype(float)
        return float(np.median(np.abs(np.diff(images, n=2, axis=-1))))

    assert roughness(1) > 2 * roughness(0)


def _object_pixels(cache: Path, **fields: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3, 8, 8] inside the unmoved object, and labels."""
    data = _render(cache, 32, 240, **(EASY | fields))
    return data.train_images[:, :, 12:20, 12:20].astype(float), data.train_labels


def _hue(pixels: np.ndarray) -> np.ndarray:
    """Phase of the mean colour on the colour circle, as a complex number of length 1 per image."""
    wave = (pixels.mean(axis=(2, 3)) * np.exp(2j * np.pi * np.array([0, 1 / 3, 2 / 3]))).sum(axis=1)
    return wave / np.abs(wave)


def test_colour_goes_from_cue_to_distractor(tmp_path: Path) -> None:
    def agreement(colour: float) -> float:
        pixels, labels = _object_pixels(tmp_path, colour=colour)
        hue = _hue(pixels)
        return float(np.mean([np.abs(hue[labels == label].mean()) for label in range(12)]))

    cue, weak, distractor = agreement(0), agreement(0.6), agreement(1)
    assert cue > 0.85
    assert cue > weak + 0.1
    assert weak > distractor + 0.1


def test_texture_fades(tmp_path: Path) -> None:
    def contrast(texture: float) -> float:
        return float(_object_pixels(tmp_path, texture=texture)[0].std(axis=(2, 3)).mean())

    assert contrast(1) < 0.8 * contrast(0)


def test_shapes_grow_alike(tmp_path: Path) -> None:
    def outlines_apart(shape: float) -> float:
        """Mean distance between the mean images of two classes that differ in shape only."""
        layer = procedural._draw_scenes(
            procedural.Settings(**(EASY | {"shape": shape})), np.array([0, 3, 6, 9]), np.random.default_rng(0)
        )[-1]
        axis = np.linspace(-1.2, 1.2, 48, dtype=np.float32)
        x_NHW, y_NHW = np.broadcast_arrays(axis[None, None, :], axis[None, :, None])
        inside = procedural._outline(x_NHW, y_NHW, layer) < 0
        return float(np.mean([(inside[a] ^ inside[b]).mean() for a in range(4) for b in range(a)]))

    assert outlines_apart(1) < 0.8 * outlines_apart(0)


def test_outline_is_the_named_polygon() -> None:
    settings = procedural.Settings(**EASY)
    labels = np.arange(12)
    layer = procedural._draw_scenes(settings, labels, np.random.default_rng(0))[-1]
    axis = np.linspace(-1.2, 1.2, 400, dtype=np.float32)
    x_NHW, y_NHW = np.broadcast_arrays(axis[None, None, :], axis[None, :, None])
    area = (procedural._outline(x_NHW, y_NHW, layer) < 0).mean(axis=(1, 2)) * 2.4**2
    triangle, square = 3 * np.sqrt(3) / 4, 2.0
    np.testing.assert_allclose(area[:3], triangle, rtol=0.02)
    np.testing.assert_allclose(area[3:6], square, rtol=0.02)


@given(u=st.floats(-50, 50), v=st.floats(-50, 50), phase=st.floats(0, 7))
def test_textures_stay_in_range(u: float, v: float, phase: float) -> None:
    for wave in procedural._WAVES.values():
        assert -1 <= wave(np.array([u]), np.array([v]), np.array([phase]))[0] <= 1


def test_every_texture_has_its_wave() -> None:
    assert tuple(procedural._WAVES) == procedural.TEXTURES


@pytest.mark.parametrize("factor", ["shape", "texture", "colour", "clutter", "pose", "noise"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_factors_are_bounded(factor: str, value: float) -> None:
    with pytest.raises(ValidationError, match=factor):
        procedural.Settings(**{factor: value})


def test_too_few_images_for_the_classes() -> None:
    with pytest.raises(ValidationError, match=r"num_val \(11\).*at least num_classes \(12\)"):
        procedural.Settings(num_val=11)


@hypothesis_settings(max_examples=10)
@given(image_size=st.integers(1, 40))
def test_any_image_size(tmp_path_factory: pytest.TempPathFactory, image_size: int) -> None:
    data = _render(tmp_path_factory.mktemp("cache"), image_size, 12)
    assert data.val_images.shape == (12, 3, image_size, image_size)
