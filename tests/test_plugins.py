"""A folder is a registry: names, unknown names, duplicates, third parties."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from spaceevo import plugins
from spaceevo.errors import PluginError

FOLDERS = {
    "spaceevo.cli": {"init", "run"},
    "spaceevo.runtimes": {"onnxruntime"},
    "spaceevo.measure.transports": {"local"},
    "spaceevo.spaces.presets": {"micro"},
    "spaceevo.spaces.blocks": {"mbv2", "mbv3", "fused-mbconv", "mbv1-dual", "bottleneck", "conv"},
    "spaceevo.train.datasets": {"procedural", "digits", "folder"},
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    plugins._locations.cache_clear()
    yield
    plugins._locations.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "made_up_plugins"
    folder.mkdir()
    for name in ("__init__", "red_green", "blue", "_private"):
        (folder / f"{name}.py").write_text(f"COLOUR = {name!r}\n")
    (folder / "notes.txt").write_text("no plug-in")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_up_plugins", raising=False)
    return "made_up_plugins"


@pytest.mark.parametrize("folder", FOLDERS)
def test_own_folders(folder: str) -> None:
    names = plugins.names(folder)
    assert names == sorted(names)
    assert set(names) >= FOLDERS[folder]


def test_hyphens_stand_for_underscores_and_private_files_are_no_plugins(package: str) -> None:
    assert plugins.names(package) == ["blue", "red-green"]
    assert plugins.load(package, "red-green").COLOUR == "red_green"


def test_naming_imports_nothing(package: str) -> None:
    plugins.names(package)
    assert "made_up_plugins.blue" not in sys.modules
    plugins.load(package, "blue")
    assert "made_up_plugins.blue" in sys.modules


def test_unknown_name_tells_what_exists_and_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        plugins.load("spaceevo.train.datasets", "digit")
    text = str(caught.value)
    assert "train.datasets" in text
    assert "'digit'" in text
    assert "digits, folder, huggingface, procedural, webdataset" in text
    assert "Did you mean 'digits'?" in text


def test_unknown_name_far_from_all_tells_how_to_add_one(package: str) -> None:
    with pytest.raises(PluginError, match=r"Add a file zzzz\.py"):
        plugins.load(package, "zzzz")


def test_third_parties_add_by_entry_point(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EntryPoint("own", "json", package)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [own] if group == package else [])
    assert plugins.names(package) == ["blue", "own", "red-green"]
    assert plugins.load(package, "own").__name__ == "json"


@pytest.mark.parametrize("twice", [("blue",), ("own", "own")])
def test_duplicate_names_are_an_error(package: str, twice: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint(name, "json", package) for name in twice]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    with pytest.raises(PluginError, match=rf"Two plug-ins of {package} are named '{twice[0]}'.*json"):
        plugins.names(package)
