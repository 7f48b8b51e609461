"""What the room of runtimes checks for all of them."""

import numpy as np
import pytest

from spaceevo.errors import DataError, TargetError
from spaceevo.runtimes import check_images, require


def test_missing_runtime_says_what_to_install():
    with pytest.raises(TargetError, match=r"Fast is not installed.*pip install 'spaceevo\[fast\]'"):
        require("no_such_package", "Fast", "fast")


@pytest.mark.parametrize("shape", [(2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32), (2, 32, 32, 3)])
def test_images_of_the_wrong_size(shape):
    with pytest.raises(DataError, match=r"takes images of the shape \[3, 32, 32\]"):
        check_images(np.zeros(shape, np.float32), (1, 3, 32, 32))


def test_images_of_the_right_size():
    check_images(np.zeros((2, 3, 32, 32), np.float32), (1, 3, 32, 32))
