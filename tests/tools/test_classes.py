"""Labels follow the names of classes."""

from dataclasses import replace

import numpy as np
import pytest

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.tools.classes import in_class_order


def test_three_classes_in_a_circle():
    images, labels = np.zeros((3, 3, 1, 1), np.uint8), np.array([0, 1, 2])
    data = ImageData("d", ("a", "b", "c"), images, labels, images, labels[::-1])
    ours = in_class_order(data, ("c", "a", "b"), "n")
    assert [ours.class_names[label] for label in ours.train_labels] == ["a", "b", "c"]
    assert [ours.class_names[label] for label in ours.val_labels] == ["c", "b", "a"]
    assert in_class_order(data, ("a", "b", "c"), "n") is data
    accents = replace(data, class_names=("a", "cafe\u0301", "c"))
    assert in_class_order(accents, ("caf\u00e9", "a", "c"), "n").train_labels.tolist() == [1, 0, 2]
    with pytest.raises(
        DataError, match="Of its 3 classes it alone has 'c'; of the network's 2, that alone has nothing"
    ):
        in_class_order(data, ("a", "b"), "n")
