"""Losses of a training as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.records import TrainingPoint


def write_curve(path: Path, curve: Iterable[TrainingPoint]) -> None:
    """Write the losses of every step, as JSON."""
    write_atomically(path, json.dumps([point.model_dump() for point in curve]))


def read_curve(path: Path) -> list[TrainingPoint]:
    """What `write_curve` wrote."""
    return [TrainingPoint.model_validate(point) for point in json.loads(path.read_text(encoding="utf-8"))]
