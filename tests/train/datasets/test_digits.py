"""The digits of scikit-learn, enlarged and split."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from pydantic import ValidationError
from sklearn.datasets import load_digits

from spaceevo.train.datasets import digits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return digits.load(digits.Settings(), 16, tmp_path_factory.mktemp("cache"))


def test_at_its_own_size_every_digit_is_there_once(tmp_path: Path) -> None:
    native = digits.load(digits.Settings(), 8, tmp_path)
    source = load_digits()
    images = np.concatenate([native.train_images, native.val_images])
    labels = np.concatenate([native.train_labels, native.val_labels])
    found = sorted(
        (int(y), np.rint(x[0] / 255 * 16).astype(int).tobytes()) for x, y in zip(images, labels, strict=True)
    )
    expected = sorted((int(y), x.astype(int).tobytes()) for x, y in zip(source.images, source.target, strict=True))
    assert found == expected


def test_channels_are_equal(data) -> None:
    assert (data.train_images == data.train_images[:, :1]).all()
    assert data.train_images.max() == 255


def test_enlarged_digits_keep_their_form(data, tmp_path: Path) -> None:
    native = digits.load(digits.Settings(), 8, tmp_path)
    shrunk = data.train_images.reshape(-1, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    assert np.corrcoef(shrunk.ravel(), native.train_images.ravel())[0, 1] > 0.95


@hypothesis_settings(max_examples=10)
@given(val_share=st.floats(0.05, 0.5))
def test_split_is_stratified(tmp_path_factory: pytest.TempPathFactory, val_share: float) -> None:
    data = digits.load(digits.Settings(val_share=val_share), 1, tmp_path_factory.getbasetemp())
    total = np.bincount(load_digits().target)
    np.testing.assert_allclose(np.bincount(data.val_labels), total * val_share, atol=1.01)
    assert (np.bincount(data.val_labels) + np.bincount(data.train_labels) == total).all()


def test_a_seed_draws_another_split(data, tmp_path: Path) -> None:
    other = digits.load(digits.Settings(seed=1), 16, tmp_path)
    assert (other.val_labels != data.val_labels).any()


def test_no_cache_is_written(tmp_path: Path) -> None:
    digits.load(digits.Settings(), 8, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("val_share", [0, 0.6, float("nan")])
def test_share_is_bounded(val_share: float) -> None:
    with pytest.raises(ValidationError, match="val_share"):
        digits.Settings(val_share=val_share)
