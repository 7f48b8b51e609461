"""Predictions against labels, class by class: counted by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_score, recall_score

from spaceevo.tools.class_scores import MOST_CLASSES, MOST_CONFUSIONS, MOST_EXAMPLES, class_scores

NAMES = ("cat", "dog", "eel")


def scores(labels, int8, fp32=None, names=NAMES):
    fp32 = int8 if fp32 is None else fp32
    return class_scores(*(np.array(one, np.int64) for one in (labels, int8, fp32)), names, "a.onnx")


def test_counted_by_hand() -> None:
    found = scores([0, 0, 0, 1, 1], [0, 0, 1, 2, 2], [0, 0, 0, 1, 2])
    cat, dog, eel = found.classes
    assert (cat.num_images, cat.recall_int8, cat.recall_fp32) == (3, pytest.approx(2 / 3), 1)
    assert (cat.precision_int8, cat.precision_fp32) == (1, 1)
    assert (dog.recall_int8, dog.recall_fp32, dog.precision_int8, dog.precision_fp32) == (0, 0.5, 0, 1)
    assert dog.cost == 0.5
    assert (eel.num_images, eel.recall_int8, eel.cost, eel.precision_int8) == (0, None, None, 0)
    assert found.matrix_int8 == ((2, 1, 0), (0, 0, 2), (0, 0, 0))
    assert [(one.label, one.predicted, one.num_int8, one.num_fp32, one.examples) for one in found.confusions] == [
        ("dog", "eel", 2, 1, (3, 4)),
        ("cat", "dog", 1, 0, (2,)),
    ]
    assert found.balanced_accuracy_int8 == pytest.approx(1 / 3)
    assert found.balanced_accuracy_fp32 == 0.75


def test_a_class_that_is_never_given_has_no_precision() -> None:
    assert scores([0, 1], [0, 0]).classes[1].precision_int8 is None


def test_all_right_confuses_nothing() -> None:
    assert scores([0, 1, 2], [0, 1, 2]).confusions == ()


@given(st.lists(st.tuples(*(st.integers(0, 4),) * 3), min_size=1, max_size=60))
def test_as_scikit_learn_counts(rows: list[tuple[int, int, int]]) -> None:
    labels, int8, fp32 = map(np.array, zip(*rows, strict=True))
    found = scores(labels, int8, fp32, tuple("abcde"))
    wanted = {"labels": range(5), "average": None, "zero_division": 0}
    np.testing.assert_array_equal(found.matrix_fp32, confusion_matrix(labels, fp32, labels=range(5)))
    for one, recall, precision in zip(
        found.classes, recall_score(labels, int8, **wanted), precision_score(labels, int8, **wanted), strict=True
    ):
        assert (one.recall_int8 or 0) == pytest.approx(recall)
        assert (one.precision_int8 or 0) == pytest.approx(precision)
    present = np.isin(int8, labels)  # scikit-learn warns of others
    if present.all() and len(set(labels)) > 1:
        assert found.balanced_accuracy_int8 == pytest.approx(balanced_accuracy_score(labels, int8))
    counts = [one.num_int8 for one in found.confusions]
    assert counts == sorted(counts, reverse=True)
    for one in found.confusions:
        assert 1 <= len(one.examples) <= MOST_EXAMPLES
        assert all("abcde"[labels[number]] == one.label for number in one.examples)
        assert all("abcde"[int8[number]] == one.predicted for number in one.examples)


def test_of_many_classes_no_matrix_is_kept() -> None:
    num = MOST_CLASSES + 1
    labels = np.arange(num)
    found = class_scores(labels, (labels + 1) % num, labels, [str(number) for number in range(num)])
    assert found.matrix_int8 is None
    assert len(found.confusions) == MOST_CONFUSIONS
