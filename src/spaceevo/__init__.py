"""spaceevo: find, train and export the INT8 image classifiers that your device runs best."""


def __getattr__(name: str) -> str:
    """`__version__`, of the installed package; importlib.metadata is slower to import than all the rest."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("spaceevo")
