"""A folder of plug-ins is its own registry: the file's name is the plug-in's name.

A plug-in is a module that has what the protocol of its folder asks for, which stands in the folder's `__init__`. Third
parties add plug-ins with entry points in the group `spaceevo.<folder>`, for example `spaceevo.train.datasets`, whose
value is such a module.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import pydoc
import sysconfig
import traceback
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from spaceevo.errors import PluginError, nearest

_OURS = str(Path(__file__).parent)
P = TypeVar("P")


class Registry(Generic[P]):
    """The plug-ins of a folder.

    Args:
        package: The folder as a dotted module name, for example "spaceevo.train.datasets".
        protocol: What each of them is.
    """

    def __init__(self, package: str, protocol: type[P]) -> None:
        self.package, self.protocol = package, protocol

    def names(self) -> list[str]:
        """The names of all plug-ins, sorted; underscores of file names read as hyphens."""
        return names(self.package)

    def about(self, name: str) -> str:
        """The first line of the docstring of a plug-in's file, which is not imported for it; "" where there is none.

        Raises:
            PluginError: The name is unknown.
        """
        return _about(_location(self.package, name))

    def load(self, name: str) -> P:
        """The plug-in of a name.

        Raises:
            PluginError: The name is unknown (all names and the nearest spelling are told) or taken twice, or the
                plug-in cannot be imported or lacks something.
        """
        module = load(self.package, name)
        missing = _members(self.protocol).difference(vars(module))
        if missing:
            raise PluginError(
                f"The plug-in {name!r} is no {self.protocol.__name__}",
                found=f"{module.__name__} has no {', '.join(sorted(missing))}",
                remedy=f"Add what is missing; the head of {self.package} says what that is",
            )
        return cast(P, module)


def _members(protocol: type) -> frozenset[str]:
    """The names of all that a protocol asks for."""
    asked = {*vars(protocol).get("__annotations__", ()), *vars(protocol)}
    return frozenset(name for name in asked if not name.startswith("_"))


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
    location = _location(package, name)
    try:
        return importlib.import_module(location)
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise PluginError(
            f"The plug-in {name!r} cannot be imported",
            found=told(error),
            remedy=f"Install what {location} needs, or correct it",
        ) from error


def _about(module: str) -> str:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return ""
    return (pydoc.synopsis(found.origin) or "").strip()


def _location(package: str, name: str) -> str:
    locations = _locations(package)
    if name not in locations:
        folder = package.removeprefix("spaceevo.")
        close = nearest(name, locations)
        raise PluginError(
            f"There is no {folder} plug-in named {name!r}",
            found=f"Available: {', '.join(sorted(locations))}",
            remedy=f"Did you mean {close!r}?" if close else f"Add a file {name}.py to {folder} to make one",
        )
    return locations[name]


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
