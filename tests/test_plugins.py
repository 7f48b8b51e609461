"""A folder is a registry: names, unknown names, duplicates, third parties."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol

import pytest

from spaceevo import plugins
from spaceevo.cli import VERBS
from spaceevo.engines import ENGINES
from spaceevo.errors import PluginError
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.transports import TRANSPORTS
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import PRESETS
from spaceevo.train.datasets import DATASETS

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


def test_a_package_is_a_plugin_like_a_file(package: str, tmp_path: Path) -> None:
    """Found, told about without an import, and loaded by what its `__init__` has."""
    folder = tmp_path / package / "deep_green"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"""\"\"\"Green, of several files.\"\"\"\nfrom {package}.deep_green.colour import COLOUR\n"""
    )
    (folder / "colour.py").write_text("COLOUR = 'green'\n")
    colours = plugins.Registry(package, Coloured)
    assert colours.names() == ["blue", "deep-green", "red-green"]
    assert colours.about("deep-green") == "Green, of several files."
    assert f"{package}.deep_green" not in sys.modules
    assert colours.load("deep-green").COLOUR == "green"


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_what_a_runtime_says_of_itself_is_read_and_not_run(name: str) -> None:
    code = (
        "import sys; from spaceevo.runtimes import RUNTIMES; print(RUNTIMES.about(sys.argv[1]));"
        "assert f'spaceevo.runtimes.{sys.argv[1]}' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(".")


def test_unknown_name_tells_what_exists_and_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        plugins.load("spaceevo.train.datasets", "digit")
    text = str(caught.value)
    assert "train.datasets" in text
    assert "'digit'" in text
    assert "digits, folder, huggingface, listing, procedural, webdataset" in text
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


class Coloured(Protocol):
    """What all made-up plug-ins are."""

    COLOUR: str


class Painted(Protocol):
    """What the made-up plug-ins are."""

    COLOUR: str

    @property
    def thinner(self) -> str | None: ...

    def mix(self, other: str) -> str: ...


def test_a_plugin_is_checked_once_and_all_that_it_lacks_is_told(package: str, tmp_path: Path) -> None:
    whole = "COLOUR = 'green'\nthinner = None\ndef mix(other):\n    return COLOUR + other\n"
    (tmp_path / package / "whole_green.py").write_text(whole)
    colours = plugins.Registry(package, Painted)
    assert colours.names() == ["blue", "red-green", "whole-green"]
    with pytest.raises(PluginError) as caught:
        colours.load("blue")
    text = str(caught.value)
    assert "The plug-in 'blue' is no Painted" in text
    assert "made_up_plugins.blue has no mix, thinner" in text
    found = colours.load("whole-green")
    assert found.mix("ish") == "greenish"
    assert found.thinner is None


ROOMS: dict[str, plugins.Registry[Any]] = {
    "BLOCKS": BLOCKS, "DATASETS": DATASETS, "ENGINES": ENGINES, "METRICS": METRICS, "PRESETS": PRESETS,
    "RUNTIMES": RUNTIMES, "TRANSPORTS": TRANSPORTS, "VERBS": VERBS,
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_every_plugin_of_a_room_has_what_its_protocol_asks_for(room: str) -> None:
    for name in ROOMS[room].names():
        assert ROOMS[room].load(name)


def test_the_type_checker_takes_every_plugin_for_what_it_should_be(tmp_path: Path) -> None:
    """A parameter or a result of another type is found here, and what is missing, too."""
    lines, wanted = [], 0
    for room in ROOMS.values():
        protocol = room.protocol.__name__
        lines.append(f"from {room.protocol.__module__} import {protocol}")
        for name in room.names():
            module = f"{room.package}.{name.replace('-', '_')}"
            lines += [f"import {module}", f"p{wanted}: {protocol} = {module}"]
            wanted += 1
    assert wanted > 50
    lines += ["import json", "wrong: Runtime = json"]  # so that an error would be seen
    file = tmp_path / "plugins_as_types.py"
    file.write_text("\n".join(lines) + "\n")
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(file)]
    environment = os.environ | {"MYPYPATH": str(root / "src")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1, done.stdout
    assert "Module" in errors[0]
