"""The standard streams: what their encoding lacks, what would steer a terminal, and readers that have gone away."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import select
import sys

#: Instead of what we write ourselves and an encoding may lack; the width is kept where it can be.
_PLAIN = {"–": "-", "—": "-", "−": "-", "─": "-", "×": "x", "±": "+-", "µ": "u", "μ": "u", "°": "deg ", "·": ".",
          "→": "->", "…": "...", "‘": "'", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "≈": "~",
          "\N{NO-BREAK SPACE}": " "}  # fmt: skip
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursors
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and the like
    r"|\x1b.?|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]"
)


def prepare() -> None:
    """Let the standard streams take any text, and have nothing else opened in the place of one that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a file with its number would get what libraries print
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("spaceevo.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spaceevo.plain")


def without_control(text: str) -> str:
    """A text that others wrote, without what would steer a terminal.

    >>> without_control("\\x1b]0;pi@box\\x07said \\x1b[1mno\\x1b[0m")
    'said no'
    """
    return _CONTROL.sub("", text)


def has_reader(error: BaseException | None = None) -> bool:
    """Whether standard output still has a reader; once it has none, what is still printed goes nowhere.

    Args:
        error: What ended the program, if anything did.
    """
    try:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise error
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as closed:
        if closed.errno != errno.EPIPE:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nowhere, number)
        return False
    return True


def reader_is_gone() -> bool:
    """Whether one of the standard streams has lost its reader."""
    streams = select.poll()
    for number in (1, 2):
        streams.register(number, 0)  # asks for nothing but errors
    return any(event & select.POLLERR for _, event in streams.poll(0))


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Plain characters for one that a stream's encoding lacks; bytes of file names as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return character.encode("utf-8", "surrogateescape"), error.start + 1
    return _PLAIN.get(character) or json.dumps(character)[1:-1], error.start + 1
