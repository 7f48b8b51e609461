"""Which profile a processor has, and what a runtime that is missing says."""

import numpy as np
import pytest

from spaceevo.errors import DataError, TargetError
from spaceevo.runtimes import PROFILES, check_images, profile_of, require


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", (), "x86-avx2"),
        ("AMD64", ("avx2", "avx512f"), "x86-avx2"),
        ("x86_64", ("avx2", "avx_vnni"), "x86-vnni"),
        ("x86_64", ("avx512_vnni",), "x86-vnni"),
        ("aarch64", ("asimd",), "arm"),
        ("arm64", ("asimd", "asimddp"), "arm-dotprod"),
        ("riscv64", ("avx512_vnni",), "other"),
    ],
)
def test_profile(machine, flags, expected):
    assert profile_of(machine, flags).name == expected


def test_names_are_unique():
    assert len({profile.name for profile in PROFILES}) == len(PROFILES)


def test_the_largest_code_that_does_not_saturate():
    assert 2 * 255 * 63 < 2**15 <= 2 * 255 * 65


def test_missing_runtime_says_what_to_install():
    with pytest.raises(TargetError, match=r"Fast is not installed.*pip install 'spaceevo\[fast\]'"):
        require("no_such_package", "Fast", "fast")


@pytest.mark.parametrize("shape", [(2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32), (2, 32, 32, 3)])
def test_images_of_the_wrong_size(shape):
    with pytest.raises(DataError, match=r"takes images of the shape \[3, 32, 32\]"):
        check_images(np.zeros(shape, np.float32), (1, 3, 32, 32))


def test_images_of_the_right_size():
    check_images(np.zeros((2, 3, 32, 32), np.float32), (1, 3, 32, 32))
