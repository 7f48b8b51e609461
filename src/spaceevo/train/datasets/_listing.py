"""Which files are pictures, and an account of those that are not: nothing is passed over without a word."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from spaceevo.records import PassedOver

#: What Pillow reads by itself, and knows by its first bytes: no other program is started, nothing is guessed.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF", "TIFF", "JPEG2000", "AVIF", "QOI")

LEFT_BEHIND = "files that systems leave behind"
HIDDEN = "hidden files"
NO_FILES = "pipes, sockets and devices"
NOWHERE = "links that lead nowhere"
NO_PICTURES = "files without an ending that are no pictures"

# In lower case
_LEFT_BEHIND = {
    *(".ds_store", "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@tmp", "lost+found", ".directory", ".thumbnails"),
    *(".ipynb_checkpoints", "__pycache__"),
}
_LEFT_BEHIND_STARTS = ("._", ".trash-", ".nfs", ".fuse_hidden")
_ENDING = re.compile(r"\.[a-z][a-z0-9_~-]{0,9}")


class Tally:
    """Counts what is passed over, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, PassedOver] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count something; the first example of a reason is kept.

        Args:
            reason: In the plural, for people.
            example: Where the first of them lies.
            count: How many; 0 changes nothing.
        """
        before = self._found.get(reason)
        if before is not None:
            self._found[reason] = PassedOver(reason, before.count + count, before.example)
        elif count:
            # The name of a file may hold bytes that are no text
            self._found[reason] = PassedOver(reason, count, example.encode(errors="backslashreplace").decode())

    def passed_over(self) -> tuple[PassedOver, ...]:
        """By reason, the most frequent one first."""
        return tuple(sorted(self._found.values(), key=lambda one: (-one.count, one.reason)))


@cache
def endings() -> tuple[str, ...]:
    """Endings of pictures, each with its dot and in lower case, as far as the installed Pillow reads them."""
    # A .pfm file holds floating-point numbers
    known = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, kind in known if kind in (*FORMATS, "MPO") and ending != ".pfm"))


def why_no_picture(name: str) -> str | None:
    """Why the name of a file or folder says that it is none of the user's pictures; None where it may be one.

    Of a name without an ending only its content tells: `is_picture`.

    >>> why_no_picture("1.JPG"), why_no_picture("notes.txt"), why_no_picture(".DS_Store")
    (None, 'files with the ending .txt', 'files that systems leave behind')
    """
    reason = why_not_entered(name)
    ending = os.path.splitext(name)[1].lower()
    if reason or not ending or ending in endings():
        return reason
    return f"files with the ending {ending}" if _ENDING.fullmatch(ending) else "files with other endings"


def why_not_entered(name: str) -> str | None:
    """Why a folder of that name holds none of the user's pictures; None where it may."""
    if name.lower() in _LEFT_BEHIND or name.lower().startswith(_LEFT_BEHIND_STARTS):
        return LEFT_BEHIND
    return HIDDEN if name.startswith(".") else None


def is_picture(file: Path) -> bool:
    """Whether the content of a regular file is that of a picture.

    One that cannot be opened counts as a picture, so that decoding tells of it.
    """
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # damaged files make Pillow raise nearly anything
        return True
