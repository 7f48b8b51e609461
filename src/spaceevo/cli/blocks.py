"""`spaceevo blocks`: the stage of a recipe, or block-wise distillation without a target, and tables for targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import ForceOption, JsonOption, stage_group
from spaceevo.cli.target import CoresOption, ThreadsOption, core_numbers


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = stage_group(
        app,
        "blocks",
        "Or, without a target: distil the cells of a hyperspace, and make a block table of them for any target.",
    )

    @group.command()
    def distill(
        out: Annotated[Path, typer.Option("--out", help="Folder of the cells.", show_default=False)],
        hyperspace: Annotated[
            str | None, typer.Option(help="A preset; that of the recipe without it.", show_default=False)
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(help="A built-in data set, a folder of images, or a recipe whose data are taken.",
                         show_default=False),
        ] = None,
        recipe: Annotated[
            Path | None, typer.Option(help="Whose settings are taken where no option says otherwise.",
                                      show_default=False)
        ] = None,
        teacher: Annotated[
            str | None,
            typer.Option(help="package.module:function, zoo:NAME:WEIGHTS, timm:NAME, huggingface:NAME; trained here "
                              "without it.", show_default=False),
        ] = None,
        stage: Annotated[
            list[str] | None, typer.Option("--stage", help="Only this stage, by its number or name; may be given "
                                           "several times.", show_default=False)
        ] = None,
        block: Annotated[
            list[int] | None, typer.Option("--block", help="Only this block type, from 0; may be given several times.",
                                           show_default=False)
        ] = None,
        image_size: Annotated[
            int | None, typer.Option(help="Images are brought to this size; the largest resolution without it.")
        ] = None,
        teacher_epochs: Annotated[float | None, typer.Option(help="Epochs of a teacher that is trained here.")] = None,
        num_images: Annotated[int | None, typer.Option(help="Images whose feature maps are distilled.")] = None,
        steps_fp32: Annotated[int | None, typer.Option(help="Steps per cell in FP32.")] = None,
        steps_int8: Annotated[int | None, typer.Option(help="Steps of LSQ+ after it.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        substages: Annotated[
            int | None, typer.Option(help="Sub-stages scored per cell, window and resolution.")
        ] = None,
        score_images: Annotated[int | None, typer.Option(help="Images on which a sub-stage is scored.")] = None,
        weight_scales: Annotated[
            str | None, typer.Option(help="Learned scales of a weight: per-channel or per-tensor.")
        ] = None,
        w_qmax: Annotated[
            int, typer.Option(help="Largest weight code: 127, or 63 for x86 without VNNI.", min=1, max=127)
        ] = 127,
        seed: Annotated[int | None, typer.Option(help="Of all draws.")] = None,
        as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Distil and quantize block types of stages, each on its own; no target is measured.

        One file per cell. Killed and started again it goes on where it stood, and several processes may share the
        folder, for example one per stage.
        """
        from spaceevo import interrupts
        from spaceevo.ownership import at_home, claim_folder
        from spaceevo.progress import lines, shown
        from spaceevo.run import preflight
        from spaceevo.run.stage import load_stage
        from spaceevo.tools.cells import trained_cells
        from spaceevo.tools.distillation import distil

        console = Console(stderr=as_json, highlight=False)
        out = at_home(out)
        context = _context(out, recipe, hyperspace, data, image_size, {
            "teacher_network": teacher, "num_images": num_images, "steps_fp32": steps_fp32, "steps_int8": steps_int8,
            "batch_size": batch_size, "lr": lr, "substages": substages, "score_images": score_images,
        }, teacher_epochs, weight_scales, seed, lines(console))  # fmt: skip
        preflight.check_names(context, [load_stage("blocks")])
        preflight.check_here(context, [load_stage("blocks")])
        searched = context.hyperspace.searched
        cells = _cells(context.hyperspace, stage or [], block or [])
        claim_folder(out, "cells")
        console.print(f"{len(cells)} cells in {out}", soft_wrap=True)
        with shown(console, "distil") as show:

            def progress(done: int, total: int) -> None:
                interrupts.check()
                show(done, total)

            elsewhere = distil(context, w_qmax, out, cells, progress)
        for index, number in elsewhere:
            console.print(f"{searched[index].name}, block {number}: another process is at it.", soft_wrap=True)
        found = [one for one in trained_cells(context.hyperspace, out) if one[0] in cells]
        if as_json:
            typer.echo(json.dumps([record.model_dump(exclude={"curve"}) for _, record in found], indent=1))
            return
        console.print(_summary([record for _, record in found]))
        console.print(f"Make a table of all cells: spaceevo blocks table {out} --target TARGET --out TABLE.parquet",
                      soft_wrap=True)  # fmt: skip

    @group.command()
    def table(
        folder: Annotated[
            Path, typer.Argument(help="Folder of the cells, or `blocks` in that of a run.", show_default=False)
        ],
        target: Annotated[
            str, typer.Option(help="runtime@transport, after `spaceevo target fit`.", show_default=False)
        ],
        out: Annotated[Path, typer.Option("--out", help="The table, a parquet file.", show_default=False)],
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        target_folder: Annotated[
            Path | None,
            typer.Option(help="Of what is known about the target; targets/TARGET without it.", show_default=False),
        ] = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Join the quality of distilled cells with latencies predicted for a target: no training, no measuring.

        The table is for `spaceevo space score` and `search`, with the latency of what is not searched as printed.
        """
        from spaceevo.ownership import output_file
        from spaceevo.search.tables import doubts
        from spaceevo.tools.block_table import base_ms, table_columns, with_latency, write_table
        from spaceevo.tools.cells import failed_cells, load_distillation, load_quality
        from spaceevo.tools.target_predictors import load_predictor
        from spaceevo.tools.targets import open_device
        from spaceevo.train.distillation import all_cells

        out = output_file(out, force=force)
        console = Console(stderr=as_json, highlight=False)
        about, hyperspace = load_distillation(folder)
        quality, cells = load_quality(hyperspace, folder)
        device = open_device(target, threads, core_numbers(cores), target_folder)
        predictor = load_predictor(device, "int8")
        failed = failed_cells(hyperspace, cells)
        joined = with_latency(hyperspace, quality, failed, predictor)
        write_table(out, table_columns(joined))
        base = base_ms(hyperspace, about.num_classes, predictor)
        doubtful = {(doubt.stage, doubt.block): doubt.reason for doubt in doubts(joined) if not doubt.is_failed}
        if as_json:
            result = {"table": str(out), "base_latency_ms": base, "cells": [
                {**cell.model_dump(exclude={"curve"}), "doubt": doubtful.get(key, "")}
                for key, cell in zip(all_cells(hyperspace), cells, strict=True)
            ]}  # fmt: skip
            typer.echo(json.dumps(result, indent=1))
        console.print(_summary(cells, [doubtful.get(key, "") for key in all_cells(hyperspace)]))
        if about.w_qmax != device.target.w_qmax:
            console.print(f"The cells were distilled for weight codes up to {about.w_qmax}; {target} takes "
                          f"{device.target.w_qmax}.", soft_wrap=True)  # fmt: skip
        option = ",".join(f"{resolution}={ms:.4g}" for resolution, ms in base.items())
        console.print(f"Table: {out}", soft_wrap=True)
        console.print(f"Use it with: spaceevo space search --hyperspace {hyperspace.name} --table {out} --latency MS "
                      f"--base-latency {option}", soft_wrap=True)  # fmt: skip


def _context(
    out: Path,
    recipe_path: Path | None,
    hyperspace: str | None,
    data: str | None,
    image_size: int | None,
    blocks: dict[str, Any],
    teacher_epochs: float | None,
    weight_scales: str | None,
    seed: int | None,
    say: Callable[[str], None],
) -> Any:
    """The context of a recipe, or of a new one, with what the options change."""
    from spaceevo.artifacts import RunFolder
    from spaceevo.config import Recipe, load_recipe
    from spaceevo.errors import RecipeError
    from spaceevo.run.context import Context, named_data
    from spaceevo.settings import parse

    if recipe_path is None:
        for value, option, example in ((hyperspace, "--hyperspace", "micro"), (data, "--data", "digits")):
            if value is None:
                raise RecipeError(f"{option} is missing", remedy=f"Give it, as in {option} {example}, or a recipe")
    recipe = load_recipe(recipe_path) if recipe_path else Recipe()
    content = recipe.model_dump()
    content["hyperspace"] = hyperspace or recipe.hyperspace
    content["seed"] = recipe.seed if seed is None else seed
    content["blocks"] |= {key: value for key, value in blocks.items() if value is not None}
    if teacher_epochs is not None:
        content["blocks"]["teacher"]["epochs_fp32"] = teacher_epochs
    if weight_scales is not None:
        content["supernet"]["weight_scales"] = weight_scales
    context = Context(parse(Recipe, content, "The command line"), RunFolder(out))
    if data is not None:
        largest = context.hyperspace.resolutions[-1]
        content["data"] = named_data(data, largest if image_size is None else image_size).model_dump()
    elif image_size is not None:
        content["data"]["image_size"] = image_size
    return Context(parse(Recipe, content, "The command line"), RunFolder(out), say=say)


def _cells(hyperspace: Any, stages: Sequence[str], blocks: Sequence[int]) -> list[tuple[int, int]]:
    """The cells of some stages and block types; of all where none are named."""
    from spaceevo.train.distillation import all_cells

    names = [stage.name for stage in hyperspace.searched]
    wanted = []
    for word in stages or names:
        name = f"stage{word}" if word.isdigit() else word
        if name not in names:
            raise typer.BadParameter(f"{hyperspace.name} searches {', '.join(names)}, not {name}", param_hint="--stage")
        wanted.append(names.index(name))
    cells = [cell for cell in all_cells(hyperspace) if cell[0] in wanted]
    for block in blocks:
        if all(block != number for _, number in cells):
            raise typer.BadParameter(f"There is no block {block} in these stages", param_hint="--block")
    return [cell for cell in cells if not blocks or cell[1] in blocks]


def _summary(cells: Sequence[Any], doubtful: Sequence[str] | None = None) -> Table:
    shown = Table("stage", "block", title="NSR loss of the largest sub-stages on held-out images")
    for column in ("FP32", "INT8", "trainings"):
        shown.add_column(column, justify="right")
    shown.add_column("excluded, or in doubt")
    for cell, doubt in zip(cells, doubtful or [""] * len(cells), strict=True):
        word = f"excluded: {cell.failure}" if cell.failure else f"in doubt: {doubt}" if doubt else ""
        shown.add_row(cell.stage, f"{cell.block}, {cell.block_type}", f"{cell.nsr_fp32:.3f}", f"{cell.nsr_int8:.3f}",
                      str(cell.attempts), word)  # fmt: skip
    return shown
