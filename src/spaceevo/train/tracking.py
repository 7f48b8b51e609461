"""Training curves for TensorBoard, while they grow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from spaceevo.errors import TrainingError
from spaceevo.records import TrainingPoint


class Tracker:
    """Writes every step of a training as event files of TensorBoard.

    Args:
        folder: Where to; None writes nothing.
        step: The first step; what an interrupted training logged from there on is ignored.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer = None
        self._last = time.monotonic()
        if folder is None:
            return
        self._writer = writer_class()(folder, purge_step=step)

    def log(self, point: TrainingPoint, num_images: int) -> None:
        """Write losses, rate, and images per second since the last call.

        Args:
            point: Losses and rate of the step.
            num_images: Images that the step trained on, over all processes.
        """
        if self._writer is None:
            return
        now = time.monotonic()
        values = {"loss/largest": point.loss, "lr": point.lr, "images per second": num_images / (now - self._last)}
        if point.loss_smallest is not None:
            values["loss/smallest"] = point.loss_smallest
        self._last = now
        for name, value in values.items():
            self._writer.add_scalar(name, value, point.step)

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()


def writer_class() -> Any:
    """TensorBoard's `SummaryWriter`.

    Raises:
        TrainingError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "The recipe wants tensorboard: true, and TensorBoard is not installed",
            found=str(error),
            remedy="Install it with: pip install tensorboard",
        ) from error
    return SummaryWriter
