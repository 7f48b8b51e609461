"""`spaceevo import CHECKPOINT`: take over a published supernet checkpoint, and tell what that changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from spaceevo.cli.run import ForceOption, JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("import")
    def import_checkpoint(
        checkpoint: Annotated[Path, typer.Argument(help="A .pth or .safetensors file.", show_default=False)],
        space: Annotated[
            str, typer.Option(help="The search space of the checkpoint, for example onnxw-151122-023231.")
        ],
        out: Annotated[
            Path | None, typer.Option(help="Write the supernet here, as safetensors.", show_default=False)
        ] = None,
        fp32: Annotated[bool, typer.Option("--fp32", help="Leave the quantization parameters out.")] = False,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Import a supernet checkpoint in the key layout of the reference implementation of SpaceEvo.

        Reports what becomes of its quantization parameters: float offsets become integer zero points.
        """
        import torch

        from spaceevo.nets.published import (
            import_supernet,
            logits_of,
            num_classes_of,
            read_checkpoint,
            zero_point_effect,
        )
        from spaceevo.ownership import output_file
        from spaceevo.spaces.hyperspace import load_hyperspace
        from spaceevo.train.checkpoints import save_tensors

        out = None if out is None else output_file(out, force=force)
        hyperspace = load_hyperspace(space.split("-", 1)[0])
        choice = hyperspace.decode(space)
        state = read_checkpoint(checkpoint)
        searched = hyperspace.space(choice, num_classes_of(state))
        imported = import_supernet(state, searched, quantized=not fp32)
        shifts = [abs(shift) for shift in imported.shifts.values()]
        size = searched.resolutions[0]
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        effect: dict[str, float] = {}
        if fp32:
            for subnet in (searched.smallest(), searched.largest()):
                logits_of(imported, subnet, images)
        else:
            effect = zero_point_effect(imported, searched, images)
        result = {
            "checkpoint": str(checkpoint),
            "space": space,
            "mode": "fp32" if fp32 else "lsq+",
            "num_classes": searched.num_classes,
            "num_subnets": searched.num_subnets,
            "unused_keys": list(imported.unused),
            "num_quantizers": len(shifts),
            "num_moved_offsets": sum(shift > 1e-4 for shift in shifts),
            "mean_shift_steps": sum(shifts) / max(1, len(shifts)),
            "max_shift_steps": max(shifts, default=0.0),
            "num_clamped_zero_points": imported.num_clamped,
            "num_lowest_codes": imported.num_lowest_codes,
            "logits_relative_rms_change": effect,
            "out": str(out) if out else None,
        }
        if out is not None:
            notes = {"space": space, "num_classes": searched.num_classes, "placement": "published", "lsq+": not fp32}
            save_tensors(out, imported.network.state_dict(), notes)
        typer.echo(json.dumps(result, indent=1) if as_json else _told(result))


def _told(result: Mapping[str, object]) -> str:
    unused = result["unused_keys"]
    assert isinstance(unused, list)
    lines = [
        f"Imported {result['checkpoint']} as {result['space']} in {result['mode']} mode:"
        f" {result['num_subnets']:.3g} subnets, {result['num_classes']} classes.",
        f"Keys that no subnet of this space needs: {len(unused)}" + (f", for example {unused[0]}" if unused else "."),
    ]
    effect = result["logits_relative_rms_change"]
    if isinstance(effect, dict) and effect:
        lines += [
            f"Zero points: {result['num_moved_offsets']} of {result['num_quantizers']} float offsets moved to the next"
            f" integer zero point, by {result['mean_shift_steps']:.3f} quantization steps on average, at most"
            f" {result['max_shift_steps']:.3f}; {result['num_clamped_zero_points']} were outside of [0, 255].",
            "That changes the logits of two random images by (relative RMS): "
            + ", ".join(f"{name} subnet {value:.2g}" for name, value in effect.items())
            + ".",
            f"Weights whose code is -128, which an exported network does not have: {result['num_lowest_codes']}.",
        ]
    if result["out"]:
        lines.append(f"Supernet: {result['out']}")
    return "\n".join(lines)
