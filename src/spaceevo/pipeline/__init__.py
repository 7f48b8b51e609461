"""The stages in order: (recipe, run folder) -> artifacts. The only place that joins rooms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from rich.console import Console

from spaceevo import interrupts
from spaceevo.artifacts import MANIFEST, RunFolder, content_hash
from spaceevo.config import Recipe
from spaceevo.measure.campaign import clear_left_behind
from spaceevo.ownership import check_folder, claim_folder
from spaceevo.pipeline import (
    baselines,
    blocks,
    compare,
    export,
    finetune,
    predict,
    preflight,
    report,
    space,
    study,
    subnets,
    supernet,
)
from spaceevo.pipeline.context import PROVENANCE, RECIPE, STORE, Context, StageModule, note_files, write_recipe
from spaceevo.pipeline.memory import peak_rss_mib, return_free_memory
from spaceevo.progress import lines, shown, silent
from spaceevo.storage import located
from spaceevo.train.ranks import ALONE, Ranks

STAGES: tuple[StageModule, ...] = (
    study,
    predict,
    blocks,
    space,
    supernet,
    subnets,
    finetune,
    baselines,
    export,
    report,
)
#: Those that a whole run does not need.
FURTHER: tuple[StageModule, ...] = (compare,)
SECONDS_BETWEEN_NOTES = 5.0


def run(recipe: Recipe, place: Path | str, console: Console, until: str = report.NAME, ranks: Ranks = ALONE) -> Context:
    """Run a stage of a recipe and all that it needs, each unless it is finished with the same inputs.

    Args:
        recipe: What the run depends on; kept in its folder.
        place: The run folder, made where absent; or the URL of one in an object store (`spaceevo.storage`).
        console: Where progress is shown.
        until: Name of the stage.
        ranks: The processes that train the supernet together; the others call `help_train`.

    Returns:
        The context, from which every stage's `load` functions read the results.

    Raises:
        SpaceEvoError: Whatever is wrong; finished stages and checkpoints are kept.
    """
    folder, storage = located(place)
    context = Context(recipe, RunFolder(check_folder(folder, "run")), ranks, storage, lines(console))
    wanted = _with_needs(until)

    def say(sentence: str) -> None:
        console.print(f"      {sentence}", highlight=False)

    names = [stage.NAME for stage in wanted]
    # Before anything is written, where nothing can be finished: elsewhere only what is not may be told
    is_new = not (storage or recipe.engine.device or any((folder / name / MANIFEST).exists() for name in names))
    preflight.check_names(context, names)
    with closing(context.engine):
        if is_new:
            preflight.check_here(context, names)
            preflight.check_elsewhere(context, names)
        claim_folder(context.run.path, "run")
        with context.run.locked(), storage.held(say) if storage else nullcontext(lambda: None) as check:
            clear_left_behind(context.work_dir)
            _ = context.target, context.data
            unfinished = _unfinished(context, wanted)
            if not is_new:
                preflight.check_here(context, unfinished)
                preflight.check_elsewhere(context, unfinished)
            for note in preflight.check_data(context, unfinished):
                context.say(note)
            write_recipe(context)
            note_files(context, (RECIPE, PROVENANCE))
            outputs: dict[str, str] = {}
            for number, stage in enumerate(wanted, start=1):
                label, inputs = f"[{number}/{len(wanted)}]", _input_hash(context, stage, outputs)
                outputs[stage.NAME] = _run_stage(context, stage, inputs, label, console, check)
                for note in report.NOTES[stage.NAME](context) if stage.NAME in report.NOTES else ():
                    say(note)
            if until == report.NAME:
                report.publish(context)
                note_files(context, (report.REPORT, report.SUMMARY))
    return context


def help_train(recipe: Recipe, place: Path | str, ranks: Ranks) -> None:
    """What the other processes of `torchrun` do while the first one runs a recipe: train the supernet with it.

    Raises:
        TrainingError: This process cannot train it; or the first one is gone.
    """
    preflight.check_training(recipe.supernet, silent)
    folder, storage = located(place)
    supernet.help_train(Context(recipe, RunFolder(folder), ranks, storage))


def _input_hash(context: Context, stage: StageModule, outputs: Mapping[str, str]) -> str:
    needed = {name: outputs[name] for name in stage.NEEDS}
    return content_hash({"stage": stage.NAME, "inputs": stage.inputs(context), "needs": needed})


def _unfinished(context: Context, wanted: Sequence[StageModule]) -> list[str]:
    """Names of the stages that are not finished with these inputs."""
    outputs: dict[str, str] = {}
    for stage in wanted:
        if outputs.keys() >= set(stage.NEEDS):
            manifest = context.run.stage(stage.NAME, stage.FILES).manifest()
            if manifest and manifest.input_hash == _input_hash(context, stage, outputs):
                outputs[stage.NAME] = manifest.output_hash
    return [stage.NAME for stage in wanted if stage.NAME not in outputs]


def _run_stage(
    context: Context, stage: StageModule, input_hash: str, label: str, console: Console, check: Callable[[], None]
) -> str:
    folder = context.run.stage(stage.NAME, stage.FILES)
    manifest = folder.finished(input_hash)
    if manifest is not None:
        console.print(f"{label} {stage.TITLE}: done before, in {manifest.seconds:.0f} s", highlight=False)
        return manifest.output_hash
    console.print(f"{label} {stage.TITLE}", highlight=False)
    before = folder.spent_seconds()
    start = noted = time.monotonic()
    folder.note_spent(input_hash, before)
    with shown(console, stage.NAME) as show:

        def progress(done: int, total: int) -> None:
            nonlocal noted
            interrupts.check()
            check()
            if time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                folder.note_spent(input_hash, before + noted - start)
            show(done, total)

        files = stage.run(context, folder.path, progress)
        interrupts.check()
    return_free_memory()
    seconds = before + time.monotonic() - start
    manifest = folder.finish(input_hash, seconds, peak_rss_mib(), files)
    note_files(context, (STORE,))
    console.print(f"      done in {manifest.seconds:.0f} s", highlight=False)
    return manifest.output_hash


def _with_needs(until: str) -> list[StageModule]:
    wanted = {until}
    for stage in reversed((*STAGES, *FURTHER)):
        if stage.NAME in wanted:
            wanted.update(stage.NEEDS)
    return [stage for stage in (*STAGES, *FURTHER) if stage.NAME in wanted]
