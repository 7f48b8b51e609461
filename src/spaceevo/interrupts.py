"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread happens to be, and code in C that asks whether an attribute
exists clears whatever was raised meanwhile; torch is full of such code. So the wish is also remembered.
"""

from __future__ import annotations

import signal
from types import FrameType

_wished = False


def remember() -> None:
    """From now on remember Ctrl-C, beside raising KeyboardInterrupt; for the main thread of a command."""
    signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed and the interrupt got lost; long work calls this."""
    if _wished:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _wished
    _wished = True
    raise KeyboardInterrupt
