"""A folder of plug-ins is its own registry: the file's name is the plug-in's name.

A plug-in is a module that puts one object, which keeps the protocol of its folder, under the name `PLUGIN`. Third
parties add plug-ins with entry points in the group `spaceevo.<folder>`, for example `spaceevo.train.datasets`, whose
value is such a module.
"""

from __future__ import annotations

import importlib
import pkgutil
import sysconfig
import traceback
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from spaceevo.errors import PluginError, nearest

_OURS = str(Path(__file__).parent)
_ATTRIBUTE = "PLUGIN"
P = TypeVar("P")


class Registry(Generic[P]):
    """The plug-ins of a folder.

    Args:
        package: The folder as a dotted module name, for example "spaceevo.train.datasets".
        protocol: What each of them is.
    """

    def __init__(self, package: str, protocol: type[P]) -> None:
        self.package, self.protocol = package, protocol
        self._loaded: dict[str, P] = {}

    def names(self) -> list[str]:
        """The names of all plug-ins, sorted; underscores of file names read as hyphens."""
        return names(self.package)

    def load(self, name: str) -> P:
        """The plug-in of a name.

        Raises:
            PluginError: The name is unknown (all names and the nearest spelling are told) or taken twice, or the
                plug-in cannot be imported or lacks something.
        """
        if name not in self._loaded:
            self._loaded[name] = self._checked(name, load(self.package, name))
        return self._loaded[name]

    def _checked(self, name: str, module: ModuleType) -> P:
        kind = self.protocol.__name__
        if _ATTRIBUTE not in vars(module):
            raise PluginError(
                f"The plug-in {name!r} has no {_ATTRIBUTE}",
                found=f"{module.__name__} is a plug-in of {self.package}",
                remedy=f"Put an object that is a {kind} there; the head of {self.package} says what that is",
            )
        plugin: P = vars(module)[_ATTRIBUTE]
        missing = members(self.protocol).difference(dir(plugin))
        if missing:
            raise PluginError(
                f"The plug-in {name!r} is no {kind}",
                found=f"It lacks {', '.join(sorted(missing))}",
                remedy=f"Add what is missing, or make it a subclass of {self.protocol.__module__}.{kind}",
            )
        return plugin


def members(protocol: type) -> frozenset[str]:
    """The names of all that a protocol asks for, its bases included."""
    found: set[str] = set()
    for base in protocol.__mro__:
        if base.__module__ not in ("builtins", "typing", "abc"):
            found.update(vars(base).get("__annotations__", ()), vars(base))
    return frozenset(name for name in found if not name.startswith("_"))


def names(package: str) -> list[str]:
    """The names of all plug-ins of a folder, sorted; underscores of file names read as hyphens.

    Args:
        package: The folder as a dotted module name, for example "spaceevo.train.datasets".

    >>> "procedural" in names("spaceevo.train.datasets")
    True
    """
    return sorted(_locations(package))


def load(package: str, name: str) -> ModuleType:
    """Import the plug-in `name` of a folder.

    Raises:
        PluginError: The name is unknown (all names and the nearest spelling are told), or taken twice.
    """
    locations = _locations(package)
    if name not in locations:
        folder = package.removeprefix("spaceevo.")
        close = nearest(name, locations)
        raise PluginError(
            f"There is no {folder} plug-in named {name!r}",
            found=f"Available: {', '.join(sorted(locations))}",
            remedy=f"Did you mean {close!r}?" if close else f"Add a file {name}.py to {folder} to make one",
        )
    try:
        return importlib.import_module(locations[name])
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise PluginError(
            f"The plug-in {name!r} cannot be imported",
            found=told(error),
            remedy=f"Install what {locations[name]} needs, or correct it",
        ) from error


def told(error: BaseException) -> str:
    """What foreign code has raised, and in which line of whose file: not of Python's, and rather not of a library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, in {error.filename}, line {error.lineno}"
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    found = [(file, line) for file, line in frames if not file.startswith(("<", _OURS)) and not _is_standard(file)]
    own = [(file, line) for file, line in found if not _is_installed(file)] or found
    words = " ".join(str(error).split())[:300]
    where = f", in {own[-1][0]}, line {own[-1][1]}" if own else ""
    return f"{type(error).__name__}{': ' if words else ''}{words}{where}"


def _is_installed(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _is_standard(file: str) -> bool:
    return file.startswith(sysconfig.get_path("stdlib")) and not _is_installed(file)


@cache
def _locations(package: str) -> dict[str, str]:
    folder = importlib.import_module(package)
    found = {
        info.name.replace("_", "-"): f"{package}.{info.name}"
        for info in pkgutil.iter_modules(folder.__path__)
        if not info.name.startswith("_")
    }
    for entry in entry_points(group=package):
        if entry.name in found:
            raise PluginError(
                f"Two plug-ins of {package} are named {entry.name!r}",
                found=f"{found[entry.name]} and {entry.value}",
                remedy="Rename one of them",
            )
        found[entry.name] = entry.value
    return found
