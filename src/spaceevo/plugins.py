"""A folder of plug-ins is its own registry: the file's name is the plug-in's name.

Third parties add plug-ins with entry points in the group `spaceevo.<folder>`, for example
`spaceevo.train.datasets`, whose value is a module with the same contents as a file of that folder.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from spaceevo.errors import PluginError, nearest


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
    except ImportError as error:
        raise PluginError(
            f"The plug-in {name!r} cannot be imported",
            found=str(error),
            remedy=f"Install what {locations[name]} needs, or correct it",
        ) from error


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
