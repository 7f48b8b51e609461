"""OpenVINO as it is installed: its name, its version, and what it says of a model that it refuses."""

from __future__ import annotations

import re
from contextlib import suppress

from spaceevo.runtimes import require
from spaceevo.runtimes._models import shortened
from spaceevo.runtimes.openvino import on_device

NAME = "OpenVINO"


def check_installed() -> None:
    """Refuse to go on without OpenVINO; imports it as the device does, without its telemetry.

    Raises:
        TargetError: It is not installed.
    """
    with suppress(ImportError):
        on_device.package()
    require("openvino", "OpenVINO", "openvino")


def version() -> str:
    """Version of OpenVINO.

    Raises:
        TargetError: It is not installed.
    """
    check_installed()
    return on_device.version()


def explain(message: str, version: str) -> tuple[str, str]:
    """What OpenVINO means when it refuses a model.

    Args:
        message: What it says.
        version: Of the package that says so, here or on a device.

    Returns:
        What is wrong, and what to do.

    >>> explain("Exception from src/a.cpp:84:\\nCheck 'x > 0' failed at src/b.cpp:1:\\nNo weights", "2026")[0]
    'No weights'
    """
    text = re.sub(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:", " ", message)
    newer = f"or install a newer OpenVINO than {version}"
    if "No conversion rule" in text:
        return shortened(text), f"Export the model without these operators, which OpenVINO does not have, {newer}"
    if "bin file" in text:
        return shortened(text), "Put the .bin that was saved with the .xml beside it, under the same name"
    return shortened(text), f"Mend the model, export it again, {newer}"
