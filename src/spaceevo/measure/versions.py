"""What a measurement depends on beside what is measured and how long: the code that measures, and that writes files.

A test fails when that code changes and its version stays (`tests/measure/test_versions.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from spaceevo.graph.identity import canonical_json
from spaceevo.measure.session import Plan
from spaceevo.runtimes import RUNTIMES

#: Of how latencies are measured: raised where the same files on the same device would give others.
MEASURING = 1


@dataclass(frozen=True)
class Measuring:
    """How something is measured, and with which code.

    Attributes:
        plan: Visits, samples, pauses; None of a reference model, which is kept as it was first measured.
        measuring: `MEASURING` of the code.
        exporter: `EXPORTER` of the runtime that wrote the file; None of a file that was given.
    """

    plan: Plan | None
    measuring: int
    exporter: int | None


def how(plan: Plan | None, runtime: str | None) -> str:
    """As canonical JSON, for the key of a measurement.

    Args:
        plan: See `Measuring`.
        runtime: That writes the file; None for a file that is given.

    Raises:
        PluginError: There is no such runtime.
    """
    exporter = None if runtime is None else RUNTIMES.load(runtime).EXPORTER
    return canonical_json(Measuring(plan, MEASURING, exporter))


def code_differs(text: str, runtime: str) -> bool:
    """Whether a measurement was made by other code than today's.

    Args:
        text: What `how` gave then; that of versions before it tells no code.
        runtime: Of its target.
    """
    try:
        noted = json.loads(text)["value"]
        measuring, exporter = noted["measuring"], noted.get("exporter")
    except (ValueError, TypeError, KeyError, AttributeError):
        return True
    return measuring != MEASURING or exporter not in (None, RUNTIMES.load(runtime).EXPORTER)
