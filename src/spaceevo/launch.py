"""Which of several processes this one is: what `torchrun` and the like tell in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from spaceevo.errors import TrainingError

_NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process was started.

    Attributes:
        rank: Its number among all, from 0.
        count: How many processes there are.
        local_rank: Its number on this machine, from 0.
        address: Where they meet, as host:port; "" for one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    address: str = ""


def this_launch() -> Launch:
    """The launch of this process, by WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; an empty one is unset.

    Raises:
        TrainingError: They are no numbers, out of range, or contradict each other.
    """
    told = {name: os.environ[name].strip() for name in _NAMES if os.environ.get(name, "").strip()}
    count = _number(told, "WORLD_SIZE", 1, 1, None)
    rank = _number(told, "RANK", 0, 0, count - 1)
    local_rank = _number(told, "LOCAL_RANK", rank, 0, count - 1)
    if count == 1:
        return Launch()
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in told]:
        raise _refused(f"The environment tells of {count} processes, but not of {' and '.join(missing)}", told)
    port = _number(told, "MASTER_PORT", 0, 1, 65535)
    return Launch(rank, count, local_rank, f"{told['MASTER_ADDR']}:{port}")


def _number(variables: dict[str, str], name: str, default: int, least: int, most: int | None) -> int:
    text = variables.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        raise _refused(f"{name} in the environment is no whole number", variables) from None
    if value < least or (most is not None and value > most):
        between = f"{least} or more" if most is None else f"{least} to {most}" if most > least else str(least)
        raise _refused(f"{name} in the environment is out of range, which is {between} here", variables)
    return value


def _refused(problem: str, variables: dict[str, str]) -> TrainingError:
    names = ", ".join(variables)
    return TrainingError(
        problem,
        found=", ".join(f"{name}={text}" for name, text in variables.items()),
        remedy=f"Start them with torchrun, which sets these variables, or unset {names}",
    )
