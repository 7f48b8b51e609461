"""`spaceevo plan RECIPE`: what a run would take, from measured or given speeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import ForceOption, JsonOption, OutOption, RecipeArgument

MOST_IMAGES = 10**12
BUSY = 1.3


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def plan(
        recipe: RecipeArgument,
        out: OutOption = None,
        machines: Annotated[int, typer.Option(help="Machines that work together.", min=1, max=10**6)] = 1,
        efficiency: Annotated[
            float, typer.Option(help="Share of so many times the speed of one that the supernet reaches.",
                                min=0.01, max=1)
        ] = 0.9,
        rates: Annotated[
            Path | None, typer.Option(help="Speeds that --save-rates has written, here or on another machine; "
                                      "measured here without it.", show_default=False)
        ] = None,
        save_rates: Annotated[
            Path | None, typer.Option(help="Write the measured speeds to this file.", show_default=False)
        ] = None,
        num_train: Annotated[
            int | None, typer.Option(help="Training images, for data that are not here; with --rates.", min=2,
                                      max=MOST_IMAGES)
        ] = None,
        num_val: Annotated[int, typer.Option(help="With --num-train: validation images.", min=1,
                                             max=MOST_IMAGES)] = 50_000,
        num_classes: Annotated[int, typer.Option(help="With --num-train: classes.", min=2, max=10**7)] = 1000,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Estimate time, device time and disk of every stage, before anything is run.

        Short pieces of the recipe's own work are timed on this machine, which takes about a minute. Beside the
        estimate stands what a stage took where the run folder has it finished; a space that was found there counts.
        """
        from spaceevo.artifacts import write_atomically
        from spaceevo.config import load_recipe

        settings = load_recipe(recipe)
        if not 0 < efficiency <= 1:  # "nan" lies in every range
            raise typer.BadParameter("it lies above 0, up to 1", param_hint="--efficiency")
        if num_train is not None and rates is None:
            raise typer.BadParameter("it needs --rates: nothing is measured without data", param_hint="--num-train")
        console = Console(stderr=as_json, highlight=False)
        from spaceevo.artifacts import MANIFEST, RunFolder
        from spaceevo.ownership import claim_folder, output_file
        from spaceevo.progress import lines, shown
        from spaceevo.run import preflight
        from spaceevo.run.context import Context
        from spaceevo.run.planning import Planning
        from spaceevo.run.run import result_of
        from spaceevo.run.stage import LAST, in_order
        from spaceevo.run.work import typical_space, work_of
        from spaceevo.stages import space
        from spaceevo.storage import located
        from spaceevo.tools.plan import beside, plan as planned
        from spaceevo.tools.rates import holds_rates, load_rates, measure_rates

        folder, storage = located(out or Path("runs") / settings.name)
        if save_rates is not None:
            save_rates = output_file(save_rates, force=force, is_ours=holds_rates)
        if num_train is None:  # its data are kept there
            claim_folder(folder, "run")
        if storage:
            storage.joined().pull()
        context = Context(settings, RunFolder(folder), say=lines(console))
        stages = in_order(LAST)
        preflight.check_names(context, stages)
        if rates is None:  # else it may be planned for another machine
            preflight.check_here(context, stages)
        if num_train is None:
            data = context.data
            counts = len(data.train_labels), len(data.val_labels), data.num_classes
        else:
            counts = num_train, num_val, num_classes
        is_found = (folder / space.STAGE.name / MANIFEST).exists()
        found = result_of(context, space.STAGE).space if is_found else None
        if rates is not None:
            speeds = load_rates(rates)
        else:
            with shown(console, "measuring speeds") as progress:
                speeds = measure_rates(context, found or typical_space(context.hyperspace, counts[2]), progress)
        if save_rates is not None:
            write_atomically(save_rates, speeds.model_dump_json(indent=1))
        work = work_of(settings, context.hyperspace, *counts, found)
        result = beside(planned(Planning(settings, work, speeds, machines, efficiency)), folder)
        if as_json:
            typer.echo(result.model_dump_json(indent=1))
            return
        console.print(_table(result))
        console.print(_sentence(result), soft_wrap=True)


def _table(found: Any) -> Table:
    took = any(stage.took_seconds is not None for stage in found.stages)
    many = found.machines > 1
    shown = Table("stage", "time", *(["all machines"] if many else []), "computes on", "device", "disk",
                  *(["took"] if took else []),
                  title=f"{found.recipe} on {found.machines} machine{'s' * many}: {found.rates.machine}")  # fmt: skip
    rows = [(stage.name, stage.seconds, stage.machine_seconds, stage.device_seconds, stage.disk_mib, stage.took_seconds,
             stage.computes_on)
            for stage in found.stages]  # fmt: skip
    devices, taken = [row[3] for row in rows], [row[5] for row in rows]
    rows.append(("together", sum(row[1] for row in rows), sum(row[2] for row in rows),
                 None if None in devices else sum(devices), sum(row[4] for row in rows),
                 None if None in taken else sum(taken), ""))  # fmt: skip
    for name, seconds, all_seconds, device, disk, own, place in rows:
        shown.add_row(name, _duration(seconds), *([_duration(all_seconds)] if many else []), place, _duration(device),
                      f"{disk:,.0f} MiB", *([_duration(own)] if took else []),
                      style="bold" if name in (found.binding, "together") else "")  # fmt: skip
    return shown


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"


def _sentence(found: Any) -> str:
    rates = found.rates
    binding = next(stage for stage in found.stages if stage.name == found.binding)
    place = {"CPU": f"on {rates.workers * found.machines} cores", "GPU": "on the GPU", "device": "on the device"}
    told = (
        f"{found.binding} takes longest, {place[binding.computes_on]}. Decoded images take up to another "
        f"{found.data_mib:,.0f} MiB of disk. Memory: about {rates.memory_mib:,.0f} MiB for the main process and "
        f"{rates.job_memory_mib:,.0f} MiB for each of {rates.workers} jobs that distil."
    )
    if rates.measure_s is None:
        told += " The device could not be measured now, so its time is missing."
    if rates.waited > BUSY:
        told += (
            f" Other work kept this machine busy while it was timed: jobs took {rates.waited:.1f} times as long as "
            "they computed. Their times are for a quiet machine; those of supernet and teacher may be too long."
        )
    return told
