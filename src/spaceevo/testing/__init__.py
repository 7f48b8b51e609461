"""Laws that every plug-in keeps, for packages that bring their own; needs pytest (`pip install spaceevo[testing]`).

A test of such a package names the plug-in, and pytest runs all laws over it:

    from spaceevo.testing import DatasetSuite

    class TestStripes(DatasetSuite):
        NAME = "stripes"  # of its entry point

What a plug-in needs beside its name, a suite's docstring tells.
"""

import pytest

pytest.register_assert_rewrite("spaceevo.testing")

from spaceevo.testing.datasets import DatasetSuite  # noqa: E402

__all__ = ["DatasetSuite"]
