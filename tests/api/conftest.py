"""The tiny run from Python: its hyperspace is a plug-in that this process sees."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spaceevo import plugins


@pytest.fixture
def plugin(tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    yield
    plugins._locations.cache_clear()
