"""Every error that spaceevo raises on purpose.

    SpaceEvoError                what was wrong, what was found, what to do; exit code 1
    ├── RecipeError              an unknown key, a wrong type, values that contradict each other
    ├── PluginError              an unknown or duplicate plug-in name
    ├── EncodingError            a malformed or out-of-space encoding
    ├── DataError                a missing, empty or unreadable data set
    ├── TargetError              the device or its runtime cannot do what is asked
    │   └── UnstableSessionError measurements that would not hold when repeated
    ├── InfeasibleBudgetError    a latency budget that no subnet meets
    ├── TrainingError            a loss that is not a number, a teacher that does not fit
    ├── EngineError              jobs that are lost again and again, a cluster that is not there
    ├── ExportError              a file that disagrees with its integer reference
    └── StorageError             the run folder
        ├── ArtifactError        a truncated, damaged or foreign artifact
        ├── RunLockedError       another process works in this run folder
        └── NoSpaceError         the disk is full or cannot be written

Exit codes of the command line: 0 done, 1 one of these errors, 2 usage, 3 partly done, 70 a bug of ours,
130 interrupted by the user, 141 the reader of the output has gone away.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Words that begin a sentence of ours in capitals; any other one may be a name that the user gave.
_CAPITALIZED = frozenset(
    {"a", "an", "from", "in", "it", "its", "no", "not", "of", "only", "the", "there", "they", "this"}
)

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_PARTLY_DONE = 3
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141


class SpaceEvoError(Exception):
    """An expected error, told in one paragraph.

    Args:
        problem: What was wrong, as one sentence.
        found: What was found instead (the evidence); may be empty.
        remedy: What the user can do; may be empty. Settings stand in backticks as Python names them, for example
            `place`; the command line tells its own options in their stead.
    """

    exit_code = EXIT_ERROR

    def __init__(self, problem: str, *, found: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.found = found
        self.remedy = remedy
        super().__init__(" ".join(_sentence(part) for part in (problem, found, remedy) if part))


class RecipeError(SpaceEvoError):
    """The recipe has an unknown key, a wrong type or values that contradict each other."""


class PluginError(SpaceEvoError):
    """A plug-in name is unknown or taken twice."""


class EncodingError(SpaceEvoError):
    """An encoding is malformed, or names something outside its space."""


class DataError(SpaceEvoError):
    """A data set is missing, empty or unreadable."""


class TargetError(SpaceEvoError):
    """The device or its runtime cannot do what is asked."""


class UnstableSessionError(TargetError):
    """Latencies drifted so far during a session that they would not hold when repeated."""


class InfeasibleBudgetError(SpaceEvoError):
    """No subnet meets the latency budget; the closest feasible budget is named."""


class TrainingError(SpaceEvoError):
    """A training that cannot go on: a loss that is not a number, a teacher that does not fit."""


class EngineError(SpaceEvoError):
    """Independent jobs cannot be run: the engine is not there, or loses them again and again."""


class ExportError(SpaceEvoError):
    """An exported file disagrees with its integer reference beyond the stated bound."""


class StorageError(SpaceEvoError):
    """The run folder cannot be used."""


class ArtifactError(StorageError):
    """An artifact is truncated, damaged or was not written by spaceevo."""


class RunLockedError(StorageError):
    """Another process works in this run folder."""


class NoSpaceError(StorageError):
    """The disk is full, or the folder cannot be written."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name whose spelling is nearest to `name`, or None where none is close.

    >>> nearest("epoch", ["epochs", "batch_size"])
    'epochs'
    """
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _sentence(text: str) -> str:
    text = text.strip()
    if text.split(" ", 1)[0] in _CAPITALIZED:
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
