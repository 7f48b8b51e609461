"""What every record is, and how one is read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from spaceevo.artifacts import read_file
from spaceevo.errors import ArtifactError


class Record(BaseModel):
    """Base of the records that are written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


R = TypeVar("R", bound=Record)


def read_record(model: type[R], path: Path) -> R:
    """Read a record of a finished stage.

    Raises:
        ArtifactError: It is not one.
    """
    try:
        return model.model_validate_json(read_file(path))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a {model.__name__} that spaceevo wrote",
            found=str(error).splitlines()[0],
            remedy=f"Delete the folder {path.parent} and run the same command again",
        ) from error
