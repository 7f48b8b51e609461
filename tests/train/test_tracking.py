"""Curves for TensorBoard: with what stands in for it, and with itself where it is installed."""

import sys
from types import SimpleNamespace

import pytest

from spaceevo.errors import TrainingError
from spaceevo.records import TrainingPoint
from spaceevo.train import tracking
from spaceevo.train.tracking import Tracker

POINT = TrainingPoint(phase="fp32", step=7, loss=0.5, loss_smallest=0.75, lr=0.1)


class Writer:
    """Keeps what a SummaryWriter is told."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)

    def close(self):
        self.closed = True


def test_every_step_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(tracking.time, "monotonic", iter([10.0, 10.5, 14.5]).__next__)
    tracker = Tracker(tmp_path, 7)
    writer = tracker._writer
    assert (writer.folder, writer.purge_step) == (tmp_path, 7)
    tracker.log(POINT, 32)
    tracker.log(POINT.model_copy(update={"step": 8, "loss_smallest": None}), 32)
    tracker.close()
    assert writer.closed
    assert writer.scalars == [
        ("loss/largest", 0.5, 7), ("lr", 0.1, 7), ("images per second", 64.0, 7), ("loss/smallest", 0.75, 7),
        ("loss/largest", 0.5, 8), ("lr", 0.1, 8), ("images per second", 8.0, 8),
    ]  # fmt: skip


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        Tracker(tmp_path, 0)
    tracker = Tracker(None, 0)  # needs none
    tracker.log(POINT, 32)
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_real_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = Tracker(tmp_path, 0)
    tracker.log(POINT, 32)
    tracker.close()
    assert next(tmp_path.iterdir()).stat().st_size > 0
