"""Laws that every plug-in keeps, for packages that bring their own.

It needs pytest and hypothesis (`pip install spaceevo[testing]`), and imports torch, which takes seconds.

A test of such a package names the plug-in, and pytest runs all laws over it:

    from spaceevo.testing import DatasetSuite

    class TestStripes(DatasetSuite):
        NAME = "stripes"  # of its entry point

What a plug-in needs beside its name, the docstring of the suite tells. Those of this package run over its own folders.
"""

import pytest

_ROOMS = ("blocks", "datasets", "engines", "metrics", "presets", "runtimes", "transports", "_processes")
pytest.register_assert_rewrite(*(f"spaceevo.testing.{room}" for room in _ROOMS))

from spaceevo.testing.blocks import BlockForm, BlockSuite  # noqa: E402
from spaceevo.testing.datasets import DatasetSuite  # noqa: E402
from spaceevo.testing.engines import EngineSuite  # noqa: E402
from spaceevo.testing.metrics import MetricSuite  # noqa: E402
from spaceevo.testing.presets import PresetSuite  # noqa: E402
from spaceevo.testing.runtimes import RuntimeSuite  # noqa: E402
from spaceevo.testing.transports import TargetSuite, TransportSuite  # noqa: E402

__all__ = [
    "BlockForm",
    "BlockSuite",
    "DatasetSuite",
    "EngineSuite",
    "MetricSuite",
    "PresetSuite",
    "RuntimeSuite",
    "TargetSuite",
    "TransportSuite",
]
