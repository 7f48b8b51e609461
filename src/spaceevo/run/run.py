"""The runner: (recipe, place, last stage) -> a run folder in which every stage is done; it knows no stage by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

from spaceevo import interrupts
from spaceevo.artifacts import MANIFEST, RunFolder, StageFolder, content_hash, write_atomically
from spaceevo.config import Recipe
from spaceevo.errors import ArtifactError
from spaceevo.measure.campaign import clear_left_behind
from spaceevo.ownership import check_folder, claim_folder
from spaceevo.progress import Display, Logged, silent
from spaceevo.run import preflight
from spaceevo.run.context import PROVENANCE, RECIPE, STORE, Context, note_files, write_recipe
from spaceevo.run.memory import peak_rss_mib, return_free_memory
from spaceevo.run.stage import LAST, Given, Stage, in_order, load_stage, needs_of
from spaceevo.storage import located
from spaceevo.train.ranks import ALONE, Ranks

SECONDS_BETWEEN_NOTES = 5.0
T = TypeVar("T")


class Run:
    """A run: what a recipe asks for, in a folder.

    Args:
        recipe: What the run depends on; kept in its folder.
        place: The run folder, made where absent; or the URL of one in an object store (`spaceevo.storage`).
        display: Where it tells how it goes; without one, to the logger `spaceevo`.
        ranks: The processes that train the supernet together; the others call `help_train`.

    Attributes:
        context: What its stages are given.

    Raises:
        ArtifactError: The folder is somebody else's.
    """

    def __init__(self, recipe: Recipe, place: Path | str, display: Display | None = None, ranks: Ranks = ALONE) -> None:
        folder, self._storage = located(place)
        self._display: Display = Logged() if display is None else display
        run = RunFolder(check_folder(folder, "run"))
        self.context = Context(recipe, run, ranks, self._storage, self._display.say)

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """A run that exists, by its folder.

        Raises:
            RecipeError: It holds no recipe.
        """
        path = Path(folder)
        return cls(Context.of_folder(path).recipe, path)

    @property
    def folder(self) -> Path:
        """The run folder on this machine."""
        return self.context.run.path

    def __getitem__(self, stage: Stage[T]) -> T:
        """The result of a stage that is finished, with whatever inputs.

        Raises:
            ArtifactError: It is not finished, or a file is damaged.
        """
        return result_of(self.context, stage)

    def is_finished(self, stage: Stage[Any]) -> bool:
        """Whether a stage is finished, with whatever inputs."""
        return (_folder(self.context, stage).path / MANIFEST).exists()

    def until(self, name: str = LAST) -> Self:
        """Do a stage and all that it needs, each unless it is finished with the same inputs.

        Args:
            name: Of the stage.

        Returns:
            This run, whose results are then at hand.

        Raises:
            SpaceEvoError: Whatever is wrong; finished stages and checkpoints are kept.
        """
        context, storage, stages = self.context, self._storage, in_order(name)
        is_done = (self.is_finished(stage) for stage in stages)
        # Before anything is written, where nothing can be finished: elsewhere only what is not may be told
        is_new = not (storage or context.recipe.engine.device or any(is_done))
        preflight.check_names(context, stages)
        with closing(context.engine):
            if is_new:
                preflight.check_here(context, stages)
                preflight.check_elsewhere(context, stages)
            claim_folder(context.run.path, "run")
            with context.run.locked(), storage.held(self._say) if storage else nullcontext(lambda: None) as check:
                clear_left_behind(context.work_dir)
                _ = context.target, context.data
                unfinished = _unfinished(context, stages)
                if not is_new:
                    preflight.check_here(context, unfinished)
                    preflight.check_elsewhere(context, unfinished)
                for note in preflight.check_data(context, unfinished):
                    context.say(note)
                write_recipe(context)
                note_files(context, (RECIPE, PROVENANCE))
                outputs: dict[str, str] = {}
                for number, stage in enumerate(stages, start=1):
                    label, inputs = f"[{number}/{len(stages)}]", _input_hash(context, stage, outputs)
                    outputs[stage.name] = self._made(stage, inputs, label, check)
                    for note in stage.notes(context, _given(context, stage, with_itself=True)):
                        self._say(note)
                for stage in stages:
                    _publish(context, stage)
        return self

    def _say(self, sentence: str) -> None:
        self._display.line(f"      {sentence}")

    def _made(self, stage: Stage[Any], input_hash: str, label: str, check: Callable[[], None]) -> str:
        """Do a stage unless it is finished; the hash of its output."""
        context, display, folder = self.context, self._display, _folder(self.context, stage)
        manifest = folder.finished(input_hash)
        if manifest is not None:
            display.line(f"{label} {stage.title}: done before, in {manifest.seconds:.0f} s")
            return manifest.output_hash
        display.line(f"{label} {stage.title}")
        before = folder.spent_seconds()
        start = noted = time.monotonic()
        folder.note_spent(input_hash, before)
        with display.task(stage.name) as show:

            def progress(done: int, total: int) -> None:
                nonlocal noted
                interrupts.check()
                check()
                if time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
                    noted = time.monotonic()
                    folder.note_spent(input_hash, before + noted - start)
                show(done, total)

            value = stage.make(context, _given(context, stage), folder.path, progress)
            files = stage.artifact.save(value, folder.path)
            interrupts.check()
        del value
        return_free_memory()
        seconds = before + time.monotonic() - start
        manifest = folder.finish(input_hash, seconds, peak_rss_mib(), files)
        note_files(context, (STORE,))
        display.line(f"      done in {manifest.seconds:.0f} s")
        return manifest.output_hash


def help_train(recipe: Recipe, place: Path | str, ranks: Ranks) -> None:
    """What the other processes of `torchrun` do while the first one runs a recipe: train the supernet with it.

    Raises:
        TrainingError: This process cannot train it; or the first one is gone.
    """
    preflight.check_training(recipe.supernet, silent)
    folder, storage = located(place)
    context = Context(recipe, RunFolder(folder), ranks, storage)
    while ranks.agree(False):
        if storage:
            storage.joined().pull()
        for stage in in_order(LAST):
            if stage.help_make is not None:
                stage.help_make(context, _given(context, stage), _folder(context, stage).path)


def result_of(context: Context, stage: Stage[T]) -> T:
    """The result of a stage that is finished.

    Raises:
        ArtifactError: It is not finished, or a file is damaged.
    """
    folder = _folder(context, stage).path
    if not (folder / MANIFEST).exists():
        raise ArtifactError(
            f"{context.run.path} has no finished stage {stage.name!r}",
            found=f"There is no {folder / MANIFEST}",
            remedy=f"Run it first: spaceevo {stage.name} RECIPE --out {context.run.path}",
        )
    return stage.artifact.load(folder, context, _given(context, stage))


def given_to(context: Context, name: str) -> Given:
    """What a stage of a run is given, with its own result; for what is done beside a run.

    Args:
        context: Of the run.
        name: Of the stage.
    """
    return _given(context, load_stage(name), with_itself=True)


def _publish(context: Context, stage: Stage[Any]) -> None:
    """Copy the files of a stage that people look for to the run folder itself."""
    for name in stage.published:
        content, public = (_folder(context, stage).path / name).read_bytes(), context.run.path / name
        if not public.exists() or public.read_bytes() != content:
            write_atomically(public, content)
    if stage.published:
        note_files(context, stage.published)


def _folder(context: Context, stage: Stage[Any]) -> StageFolder:
    return context.run.stage(stage.name, stage.files)


def _given(context: Context, stage: Stage[Any], *, with_itself: bool = False) -> Given:
    return Given(stage, lambda other: result_of(context, other), with_itself=with_itself)


def _input_hash(context: Context, stage: Stage[Any], outputs: Mapping[str, str]) -> str:
    needed = {need.name: outputs[need.name] for need in needs_of(stage)}
    inputs = dict(stage.inputs(context, _folder(context, stage).path))
    # The first version is not noted, so that runs go on which were begun before there were any
    version = {"version": stage.version} if stage.version > 1 else {}
    return content_hash({"stage": stage.name, "inputs": inputs, "needs": needed, **version})


def _unfinished(context: Context, stages: Sequence[Stage[Any]]) -> list[Stage[Any]]:
    """The stages that are not finished with these inputs."""
    outputs: dict[str, str] = {}
    for stage in stages:
        if all(need.name in outputs for need in needs_of(stage)):
            manifest = _folder(context, stage).manifest()
            if manifest and manifest.input_hash == _input_hash(context, stage, outputs):
                outputs[stage.name] = manifest.output_hash
    return [stage for stage in stages if stage.name not in outputs]
