"""Lists of networks as people keep them: one per line, with blank lines, comments and whatever ends a line."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from spaceevo.errors import ArtifactError, EncodingError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell writes it


class NamedNetwork(NamedTuple):
    """A network that somebody named.

    Attributes:
        text: As it was named: a word, or a search space, a blank and an encoding.
        where: For messages: "Line 3 of networks.txt"; empty for a word of the command line.
    """

    text: str
    where: str = ""

    @property
    def space(self) -> str:
        """The search space; empty where none is named."""
        return self.text.rpartition(" ")[0]

    @property
    def word(self) -> str:
        """A name of the zoo, or an encoding."""
        return self.text.rpartition(" ")[2]


def named_networks(names: Iterable[str], file: Path | None) -> Iterator[NamedNetwork]:
    """Those given, then those of a file, read as it goes.

    In both, what follows a word's leading "#" is a comment; blank lines name nothing. The file is UTF-8, or UTF-16 with
    its mark.

    Raises:
        EncodingError: There are none, or a line names more than a space and a network.
        ArtifactError: The file cannot be read, or a line is no text.
    """
    lines = chain(((name, "") for name in names), _lines(file) if file is not None else ())
    count = 0
    for line, where in lines:
        words = line.removeprefix("\ufeff").split()
        words = words[: next((number for number, word in enumerate(words) if word.startswith("#")), None)]
        if len(words) > 2:
            raise EncodingError(
                f"{where}{where and ': '}{line.strip()!r} names no network",
                found=f"It has {len(words)} words",
                remedy="Write a name of the zoo, an encoding, or a search space, a blank and an encoding",
            )
        if words:
            count += 1
            yield NamedNetwork(" ".join(words), where)
    if not count:
        raise EncodingError(
            "There are no networks to predict",
            found=f"{file} names none" if file is not None else "",
            remedy="Name some, or give a list with `file` FILE",
        )


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Lines, each with where it is."""
    try:
        with file.open("rb") as binary:
            is_utf16 = binary.read(2) in _UTF16
        with file.open(encoding="utf-16" if is_utf16 else "utf-8-sig", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, 1):
                where = f"Line {number} of {file}"
                if not _is_text(line):
                    raise ArtifactError(
                        f"{where} is no text in UTF-8",
                        found=f"It begins {line[:20]!r}",
                        remedy="Save the list as UTF-8",
                    )
                yield line, where
    except (OSError, UnicodeError) as error:
        raise ArtifactError(f"The list of networks {file} cannot be read", found=str(error)) from error


def _is_text(line: str) -> bool:
    """Whether all of it was decoded, and none of it is binary."""
    return "\0" not in line and (line.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in line))
