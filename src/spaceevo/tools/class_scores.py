"""Predictions against labels, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spaceevo.records import ClassScore, ClassScores, Confusion

MOST_CLASSES = 60  # of a matrix that somebody looks at
MOST_CONFUSIONS, MOST_EXAMPLES = 20, 4
Labels = NDArray[np.int64]


def class_scores(
    labels: Labels, int8: Labels, fp32: Labels, class_names: Sequence[str], int8_file: str = ""
) -> ClassScores:
    """How a model and its FP32 twin do on each class.

    Args:
        labels: Of the validation images, [N].
        int8: The class that the INT8 file gives each, [N].
        fp32: The class that its FP32 twin gives each, [N].
        class_names: In the order of the logits.
        int8_file: For the record.
    """
    num = len(class_names)
    matrices = [np.bincount(labels * num + found, minlength=num * num).reshape(num, num) for found in (int8, fp32)]
    of_class = matrices[0].sum(1)
    recall = [_shares(matrix.diagonal(), of_class) for matrix in matrices]
    precision = [_shares(matrix.diagonal(), matrix.sum(0)) for matrix in matrices]
    classes = tuple(
        ClassScore(
            name=name,
            num_images=int(of_class[index]),
            recall_int8=recall[0][index],
            recall_fp32=recall[1][index],
            precision_int8=precision[0][index],
            precision_fp32=precision[1][index],
        )
        for index, name in enumerate(class_names)
    )
    wrong = matrices[0].copy()
    np.fill_diagonal(wrong, 0)
    most = [index for index in np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS] if wrong.flat[index]]
    confusions = tuple(
        Confusion(
            label=class_names[label],
            predicted=class_names[found],
            num_int8=int(wrong[label, found]),
            num_fp32=int(matrices[1][label, found]),
            examples=tuple(np.flatnonzero((labels == label) & (int8 == found))[:MOST_EXAMPLES].tolist()),
        )
        for label, found in (divmod(int(index), num) for index in most)
    )
    kept = [tuple(map(tuple, matrix.tolist())) if num <= MOST_CLASSES else None for matrix in matrices]
    return ClassScores(
        int8_file=int8_file, classes=classes, confusions=confusions, matrix_int8=kept[0], matrix_fp32=kept[1]
    )


def _shares(some: NDArray[np.int64], of_all: NDArray[np.int64]) -> list[float | None]:
    return [float(one / all_) if all_ else None for one, all_ in zip(some.tolist(), of_all.tolist(), strict=True)]
