"""LiteRT as it is installed: its name, its version, its schema, and what it says of a model that it refuses."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from spaceevo.runtimes import require
from spaceevo.runtimes._models import shortened

NAME = "LiteRT"


def package() -> ModuleType:
    """The package of LiteRT.

    Raises:
        TargetError: It is not installed.
    """
    return require("ai_edge_litert", "LiteRT", "litert")


def load_schema() -> Any:
    """The module of the classes that a TFLite model consists of.

    Raises:
        TargetError: LiteRT is not installed.
    """
    package()
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def version() -> str:
    """Version of LiteRT.

    Raises:
        TargetError: It is not installed.
    """
    return str(package().__version__)


def explain(message: str, version: str) -> tuple[str, str]:
    """What LiteRT means when it refuses a model.

    Args:
        message: What it says.
        version: Of the package that says so, here or on a device.

    Returns:
        What is wrong, and what to do.
    """
    newer = f"or install a newer LiteRT than {version}"
    if "custom op" in message:
        return shortened(message), "Convert the model without custom operators"
    if "Didn't find op" in message:
        return shortened(message), f"Convert the model without operators that LiteRT does not have, {newer}"
    return shortened(message), f"Mend the model, convert it again, {newer}"
