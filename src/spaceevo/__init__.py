"""spaceevo: find, train and export the INT8 image classifiers that your device runs best.

From Python as from the command line; docs/python.md shows both ways side by side.

- `Run`: from a recipe to measured models and a report; `Recipe`, `load_recipe`, `recipe_for`, `Shown`.
- `Target`: describe, study, measure a device; fit a latency predictor, predict networks.
- `Subnet`, `load_hyperspace`, `zoo`: what can exist; `score_spaces`, `search_spaces`, `TargetTable`: which is best.
- `quantize`, `export`, `verify`: trained networks, files for devices, and whether they compute what was trained.
- `load_model`: an exported file, ready to classify pictures.
- `SpaceEvoError`: whatever is expected to go wrong; `spaceevo.errors` has its kinds.

Nothing is imported before it is used: `import spaceevo` takes a hundredth of a second.
"""

from importlib import import_module

_ROOMS = {
    "spaceevo.api.models": ("Model", "Predictions", "load_model"),
    "spaceevo.api.networks": ("Exports", "QuantizedFiles", "Verified", "export", "quantize", "verify"),
    "spaceevo.api.runs": ("Run",),
    "spaceevo.api.spaces": ("FoundSpaces", "SpaceScores", "TargetTable", "score_spaces", "search_spaces"),
    "spaceevo.api.targets": ("PredictedLatencies", "Target"),
    "spaceevo.config": ("Recipe", "load_recipe"),
    "spaceevo.errors": ("SpaceEvoError",),
    "spaceevo.progress": ("Shown",),
    "spaceevo.spaces.hyperspace": ("load_hyperspace",),
    "spaceevo.spaces.subnet": ("Subnet",),
    "spaceevo.spaces.zoo": ("zoo",),
    "spaceevo.tools.first_recipe": ("recipe_for",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> object:
    """Import what a name stands for; `__version__` is that of the installed package."""
    if name == "__version__":
        from importlib.metadata import version  # slower to import than all the rest

        return version("spaceevo")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ROOM_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """All that is to be had."""
    return sorted([*globals(), *__all__, "__version__"])
