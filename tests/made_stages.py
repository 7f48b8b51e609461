"""Stages made one at a time, in the folder of a run whose earlier stages are finished."""

from __future__ import annotations

from typing import Any, TypeVar

from spaceevo.progress import silent
from spaceevo.run.context import Context
from spaceevo.run.run import given_to, result_of
from spaceevo.run.stage import Stage

T = TypeVar("T")


def made(context: Context, stage: Stage[T]) -> T:
    """Make a stage, whatever was there, and read its result back."""
    folder = context.run.stage(stage.name, stage.files)
    folder.path.mkdir(exist_ok=True)
    value = stage.make(context, given_to(context, stage.name), folder.path, silent)
    folder.note_spent("made", 0.0)
    folder.finish("made", 0.0, 0.0, stage.artifact.save(value, folder.path))
    return result_of(context, stage)


def notes_of(context: Context, stage: Stage[Any]) -> list[str]:
    """What people should know of a finished stage."""
    return stage.notes(context, given_to(context, stage.name))
