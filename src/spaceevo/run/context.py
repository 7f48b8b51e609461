"""What every stage is given."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spaceevo.artifacts import RunFolder, content_hash, entry_of, storage_errors, write_atomically
from spaceevo.config import DataSettings, EngineSettings, Recipe, load_recipe
from spaceevo.engines import Engine, Needs, in_order, start
from spaceevo.errors import DataError, EngineError, RecipeError
from spaceevo.measure.store import Store
from spaceevo.measure.target import describe
from spaceevo.ownership import read_marker, write_marker
from spaceevo.progress import LineCallback, ProgressCallback, mute, silent
from spaceevo.records import Arithmetic, ImageData, TargetDescription
from spaceevo.run.provenance import versions
from spaceevo.run.stored_engine import StoredEngine
from spaceevo.runtimes import RUNTIMES
from spaceevo.settings import parse
from spaceevo.spaces.hyperspace import Hyperspace, load_hyperspace
from spaceevo.storage import Storage
from spaceevo.train.batches import not_searched
from spaceevo.train.datasets import DATASETS, Dataset, told
from spaceevo.train.ranks import ALONE, Ranks

#: Data sets that are made, not read. Their options stay in `data_hash`, so that runs of earlier versions go on.
MADE = ("digits", "procedural")
RECIPE, PROVENANCE, STORE = "recipe.yaml", "provenance.json", "measurements.sqlite"
#: What is the same in a context with other data or another folder, once it is there.
_SHARED = ("engine", "target", "hyperspace")
R = TypeVar("R")


@dataclass(frozen=True)
class Context:
    """One run: its recipe, its folder, and what both name.

    It travels to the jobs of an engine without its data, and their own jobs run one after the other. Contexts of the
    same recipe and folder are equal.

    Attributes:
        recipe: As it is kept in the run folder, every key resolved.
        run: The run folder.
        ranks: The processes that train the supernet together.
        storage: Where the run folder is kept beside this machine, if anywhere.
        say: Told what has been read when the data are opened; jobs say nothing.
    """

    recipe: Recipe
    run: RunFolder
    ranks: Ranks = ALONE
    storage: Storage | None = None
    say: LineCallback = field(default=mute, compare=False, repr=False)

    @classmethod
    def of_folder(cls, path: Path) -> Context:
        """That of a run folder which exists.

        Raises:
            RecipeError: It holds no recipe.
        """
        return cls(load_recipe(path / "recipe.yaml"), RunFolder(path))

    def __hash__(self) -> int:
        return hash(self.run)

    def __reduce__(self) -> tuple[Any, ...]:
        recipe = self.recipe.model_copy(update={"engine": EngineSettings(name="serial")})
        return _of_job, (recipe, RunFolder(self.run.path.absolute()), self.storage, vars(self).get("target"))

    @cached_property
    def engine(self) -> Engine:
        """Where its independent jobs run.

        Raises:
            PluginError: No such engine.
            EngineError: It cannot run here.
        """
        engine = start(self.recipe.engine)
        # With an address there are other machines
        return StoredEngine(engine, self.storage) if self.storage and self.recipe.engine.address else engine

    @cached_property
    def hyperspace(self) -> Hyperspace:
        """The hyperspace.

        Raises:
            PluginError: No such preset.
            RecipeError: It holds a single search space.
        """
        hyperspace = load_hyperspace(self.recipe.hyperspace)
        if not hyperspace.searched:
            raise RecipeError(
                f"The recipe names the hyperspace {hyperspace.name!r}",
                found="a hand-made space: there is no search space to choose",
                remedy="Take one that leaves a choice: micro, mobilew or onnxw",
            )
        return hyperspace

    @cached_property
    def data(self) -> ImageData:
        """The data set, from its cache in the run folder where it has been read before."""
        data = load_data(self.recipe.data, self.run.path / "cache")
        self.say(told(data))
        return data

    @property
    def has_data(self) -> bool:
        """Whether the data set has been read."""
        return "data" in vars(self)

    def with_data(self, data: ImageData) -> Context:
        """The same with a data set at hand, which is then not read again."""
        other = replace(self)
        vars(other).update({name: vars(self)[name] for name in _SHARED if name in vars(self)} | {"data": data})
        return other

    def moved_to(self, folder: Path) -> Context:
        """The same in another folder, with what has been read and started at hand."""
        other = replace(self, run=RunFolder(folder))
        vars(other).update({name: vars(self)[name] for name in (*_SHARED, "data") if name in vars(self)})
        return other

    @cached_property
    def not_searched(self) -> tuple[str, ...]:
        """Names of the classes that the subnet search does not see.

        Raises:
            DataError: Nothing can be held out of the training images.
        """
        return not_searched(self.data, self.recipe.data.search_share, self.recipe.seed)

    @property
    def data_settings(self) -> DataSettings:
        """What of the settings counts beside the images themselves; where they lie and how they are stored does not."""
        settings = self.recipe.data
        return settings if settings.name in MADE else settings.model_copy(update={"name": "", "options": {}})

    @cached_property
    def data_hash(self) -> str:
        """Hash over all images and labels, and over what else of the settings a training depends on."""
        # The names by their `repr`, as earlier versions had them: their trainings go on
        digest = hashlib.sha256(repr(self.data.class_names).encode())
        for array in (
            self.data.train_images,
            self.data.train_labels,
            self.data.val_images,
            self.data.val_labels,
        ):
            digest.update(array.data)
        return content_hash([digest.hexdigest(), self.data_settings.model_dump()])

    @cached_property
    def target(self) -> TargetDescription:
        """The target as it is now."""
        return self.at_device(_describe, silent)

    def at_device(self, work: Callable[[Context, ProgressCallback], R], progress: ProgressCallback) -> R:
        """Do what measures where the device is: a job of its own where the recipe names one, else right here.

        Args:
            work: A function of a module, or a partial of one; it is given a context of the same recipe and folder.
            progress: To report to.
        """
        if not self.recipe.engine.device:
            return work(self, progress)
        results = self.engine.map(work, [self], progress, needs=Needs(device=self.recipe.engine.device))
        return in_order(results, 1)[0]

    @property
    def trainer(self) -> Needs:
        """What each process that trains the supernet takes of a machine."""
        return Needs(self.recipe.engine.trainer_cpus, self.recipe.engine.gpus)

    @property
    def training(self) -> Needs:
        """What the training of a network takes of a machine."""
        return Needs(gpus=self.recipe.engine.gpus)

    @property
    def arithmetic(self) -> Arithmetic:
        """How the runtime of the target rounds: quantized networks are evaluated accordingly."""
        return RUNTIMES.load(self.target.runtime).ARITHMETIC

    @property
    def work_dir(self) -> Path:
        """For files that are needed for a while only."""
        return self.run.path / "work"

    def store(self) -> Store:
        """The measurements of this run."""
        return Store(self.run.path / STORE)


def _describe(context: Context, progress: ProgressCallback) -> TargetDescription:
    settings = context.recipe.target
    return describe(settings.name, settings.threads, settings.cores)


def _of_job(recipe: Recipe, run: RunFolder, storage: Storage | None, target: TargetDescription | None) -> Context:
    """The context of a job, maybe on another machine: the target stays the one that the run has described."""
    if storage is None and not run.path.is_dir():
        raise EngineError(
            f"{platform.node()} does not see the run folder",
            found=f"There is no folder {run.path}",
            remedy="Give one with `place` that all machines of the cluster share under the same path, or a place in an "
            "object store",
        )
    context = Context(recipe, run, storage=storage)
    if target is not None:
        vars(context)["target"] = target
    return context


def write_recipe(context: Context) -> None:
    """Write what makes a folder a run folder: the resolved recipe and the provenance."""
    folder, recipe = context.run.path, context.recipe
    write_atomically(folder / RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    provenance = {"versions": versions(), "target": context.target.model_dump(), "seed": recipe.seed}
    write_atomically(folder / PROVENANCE, json.dumps(provenance, indent=1))


def note_files(context: Context, names: Iterable[str]) -> None:
    """Note the digests of files that belong to no stage, for `spaceevo verify`; forget those that are gone.

    Not of measurements that another process may be writing, or of which the store of a run has a copy.

    Args:
        context: Recipe, folder and target of the run.
        names: Of files in the run folder; those that are not there are left out.
    """
    folder = context.run.path
    marker = read_marker(folder)
    if marker is None:
        return
    last_measured = marker.last_measured
    paths = {name: folder / name for name in names if (folder / name).is_file()}
    if context.storage or (folder / f"{STORE}-wal").exists():
        paths.pop(STORE, None)
    if STORE in paths:
        with context.store() as store:
            last_measured = store.last_measured()
    with storage_errors(folder):
        files = {name: entry_of(path) for name, path in paths.items()}
    kept = {name: entry for name, entry in marker.files.items() if os.path.lexists(folder / name)}
    write_marker(folder, marker.model_copy(update={"files": kept | files, "last_measured": last_measured}))


def load_data(settings: DataSettings, cache: Path) -> ImageData:
    """A data set.

    Args:
        settings: Name, image size and options of the data set.
        cache: Folder for its pixels.

    Raises:
        PluginError: No such data set.
        RecipeError: An option is wrong.
        DataError: It is missing, empty or unreadable.
    """
    plugin, options = data_options(settings)
    with storage_errors(cache):
        return plugin.load(options, settings.image_size, cache)


def data_options(settings: DataSettings) -> tuple[Dataset, Any]:
    """The plug-in of a data set and its options.

    Raises:
        PluginError: No such data set.
        RecipeError: An option is wrong.
    """
    plugin = DATASETS.load(settings.name)
    return plugin, parse(plugin.Settings, settings.options, "The recipe, at 'data.options',")


def is_recipe(path: Path) -> bool:
    """Whether a path of a command line is that of a recipe."""
    return path.suffix in (".yaml", ".yml")


def named_data(name: str, image_size: int) -> DataSettings:
    """The data set that a word of a command line means: the name of a built-in one, a folder of images, or a recipe.

    Args:
        name: What a command was given for the data.
        image_size: For a built-in one or a folder; a recipe has its own.

    Raises:
        DataError: It is none of these.
        RecipeError: The recipe is malformed.
    """
    path = Path(name).expanduser()
    if is_recipe(path):
        return load_recipe(path).data
    if os.path.isdir(path):  # also where nobody may look
        return DataSettings(name="folder", image_size=image_size, options={"path": str(path)})
    known = [known for known in DATASETS.names() if known != "folder"]
    if name not in known:
        raise DataError(
            f"There is no data set {name!r}",
            found=f"It is no folder; built in are {', '.join(known)}",
            remedy="Give a folder with train/<class>/... and val/<class>/..., a recipe, or one of these names",
        )
    return DataSettings(name=name, image_size=image_size)
