"""What the package says of its version, and where else it stands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spaceevo

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert spaceevo.__version__ == project["version"]


def test_other_attributes_are_missing_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spaceevo.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_of_weight() -> None:
    program = "import sys; before = set(sys.modules); import spaceevo; print(*sorted(set(sys.modules) - before))"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "spaceevo" in modules
    assert not {"importlib.metadata", "numpy", "pydantic", "torch"} & set(modules)


def test_the_changelog_begins_with_the_version_of_the_project() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", text, flags=re.MULTILINE)[0] == spaceevo.__version__
