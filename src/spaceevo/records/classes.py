"""How a model does on each class, in INT8 and in FP32."""

from __future__ import annotations

from statistics import fmean

from spaceevo.records.base import Record


class ClassScore(Record):
    """One class on the validation images. Shares are 0 to 1.

    Attributes:
        name: Of the class.
        num_images: Validation images of it.
        recall_int8: Share of these that the INT8 file gives the class; None where there is none.
        recall_fp32: Of its FP32 twin.
        precision_int8: Share of the images that the INT8 file gives the class which are of it; None where it gives it
            to none.
        precision_fp32: Of its FP32 twin.
    """

    name: str
    num_images: int
    recall_int8: float | None
    recall_fp32: float | None
    precision_int8: float | None
    precision_fp32: float | None

    @property
    def cost(self) -> float | None:
        """What INT8 costs in recall: above 0 where FP32 is better; None without images."""
        if self.recall_fp32 is None or self.recall_int8 is None:
            return None
        return self.recall_fp32 - self.recall_int8


class Confusion(Record):
    """Images of one class that the INT8 file takes for another.

    Attributes:
        label: The class that they are of.
        predicted: The class that the INT8 file gives.
        num_int8: How many.
        num_fp32: How many the FP32 twin takes so.
        examples: Numbers of some among the validation images, at least one.
    """

    label: str
    predicted: str
    num_int8: int
    num_fp32: int
    examples: tuple[int, ...]


class ClassScores(Record):
    """One exported model, class by class.

    Attributes:
        int8_file: Its INT8 file, relative to the run folder.
        classes: In the order of the logits.
        confusions: The most frequent ones of the INT8 file, most first.
        matrix_int8: Images [label][predicted] of the INT8 file; None with more than 60 classes.
        matrix_fp32: Of its FP32 twin.
    """

    int8_file: str
    classes: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    matrix_int8: tuple[tuple[int, ...], ...] | None
    matrix_fp32: tuple[tuple[int, ...], ...] | None

    @property
    def balanced_accuracy_int8(self) -> float:
        """Mean recall over the classes that have images, 0 to 1."""
        return fmean(one.recall_int8 for one in self.classes if one.recall_int8 is not None)

    @property
    def balanced_accuracy_fp32(self) -> float:
        """Of the FP32 twin."""
        return fmean(one.recall_fp32 for one in self.classes if one.recall_fp32 is not None)


class ClassReport(Record):
    """`export/classes.json`.

    Attributes:
        models: The found subnets, in the order of their budgets.
    """

    models: tuple[ClassScores, ...]
