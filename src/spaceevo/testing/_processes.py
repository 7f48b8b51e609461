"""What importing a plug-in brings along."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection

from spaceevo.plugins import load


def brought_by(package: str, name: str, heavy: Collection[str]) -> set[str]:
    """Which of some heavy packages a fresh process has imported after a plug-in.

    Args:
        package: The plug-in's folder, for example "spaceevo.runtimes".
        name: Of the plug-in.
        heavy: Packages that should wait until they are used.
    """
    module = load(package, name).__name__  # its entry point need not be known to the fresh process
    code = f"import sys, {module}; print(*sys.modules.keys() & {set(heavy)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
