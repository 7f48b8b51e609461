"""Whether files are what was written."""

from __future__ import annotations

from typing import Literal

from spaceevo.records.base import Record

FileState = Literal["whole", "damaged", "missing", "unchecked", "unknown"]


class FileCheck(Record):
    """A file of a run folder.

    Attributes:
        file: Path relative to the folder.
        state: "whole"; "damaged" and "missing"; "unchecked" where there is no digest to check it by; "unknown" where
            spaceevo did not write it.
        found: What is wrong, or why it is unchecked.
    """

    file: str
    state: FileState
    found: str = ""


class FolderCheck(Record):
    """A run folder, file by file.

    Attributes:
        folder: Path of the folder.
        files: By path, in order.
        unfinished: Of a run, the stages that have no manifest, in order.
    """

    folder: str
    files: tuple[FileCheck, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[FileCheck, ...]:
        """What is damaged or missing."""
        return tuple(one for one in self.files if one.state in ("damaged", "missing"))
