"""A Ctrl-C that some code swallows still ends the work."""

import subprocess
import sys

SWALLOWED = """
import os, signal
from spaceevo import interrupts
interrupts.check()
interrupts.remember()
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except KeyboardInterrupt:
    print("swallowed")
try:
    interrupts.check()
except KeyboardInterrupt:
    print("raised again")
"""


def test_a_swallowed_interrupt_is_raised_again() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["swallowed", "raised again"]
