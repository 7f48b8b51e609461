"""`spaceevo quantize NETWORK`: post-training quantization of a trained network, then LSQ+ fine-tuning if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def quantize(
        network: Annotated[
            str | None,
            typer.Argument(
                help="A name of the zoo, or an encoding with --space; not needed where the file tells it.",
                show_default=False,
            ),
        ] = None,
        weights: Annotated[
            Path | None, typer.Option(help="A safetensors file with FP32 weights.", show_default=False)
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(
                help="A built-in data set, a folder of images, or a recipe whose data are taken.", show_default=False
            ),
        ] = None,
        space: Annotated[
            str,
            typer.Option(
                help="Search space of the encoding, for example micro-014-120; hand-made for a baseline's.",
                show_default=False,
            ),
        ] = "",
        resolution: Annotated[
            int | None, typer.Option(help="Input resolution of a network of the zoo, if not its own.")
        ] = None,
        image_size: Annotated[
            int | None, typer.Option(help="Images are brought to this size, in pixels; the resolution without it.")
        ] = None,
        flip: Annotated[
            bool | None, typer.Option(help="Mirror images at random in fine-tuning; as the recipe says, else yes.")
        ] = None,
        target: Annotated[
            str, typer.Option(help="runtime@transport; decides the largest weight code.")
        ] = "onnxruntime@local",
        ranges: Annotated[str, typer.Option(help="Activation ranges: mse or percentile.")] = "mse",
        percentile: Annotated[float, typer.Option(help="Upper end of a percentile range; 100: the extremes.")] = 99.98,
        weight_scales: Annotated[str, typer.Option(help="Weight scales per channel: mse or max.")] = "mse",
        bias_correction: Annotated[bool, typer.Option(help="Take mean shifts away from the biases.")] = True,
        calibration_images: Annotated[int, typer.Option(help="Training images to calibrate on.")] = 256,
        epochs: Annotated[float, typer.Option(help="Epochs of LSQ+ fine-tuning; 0 for none.")] = 0,
        lr: Annotated[float, typer.Option(help="Its peak learning rate per 256 images.")] = 0.03,
        batch_size: Annotated[int, typer.Option(help="Its images per step.")] = 64,
        seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
        out: Annotated[
            Path | None, typer.Option(help="The output folder; runs/quantize-NAME without it.", show_default=False)
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Quantize a trained FP32 network: ranges from training images, bias correction, fine-tuning if asked.

        A network of the zoo, a subnet of a supernet and a baseline of a run go the same way. Writes the float and the
        quantized network and the accuracies; an interrupted fine-tuning goes on where it stood.
        """  # fmt: skip
        from spaceevo.errors import RecipeError

        for value, option, example in ((weights, "--weights", "run/baselines/baseline0-fp32.safetensors"),
                                       (data, "--data", "digits")):  # fmt: skip
            if value is None:
                raise RecipeError(f"{option} is missing", remedy=f"Give it, for example {option} {example}")
        assert weights is not None
        assert data is not None
        from spaceevo.api.networks import quantize as quantize_network
        from spaceevo.progress import Shown

        console = Console(stderr=as_json)
        quantized = quantize_network(
            weights,
            data,
            network=network or "",
            space=space,
            resolution=resolution,
            image_size=image_size,
            flip=flip,
            target=target,
            ptq={
                "ranges": ranges,
                "percentile": percentile,
                "weight_scales": weight_scales,
                "bias_correction": bias_correction,
                "calibration_images": calibration_images,
            },
            finetuning={"epochs": epochs, "lr": lr, "batch_size": batch_size},
            seed=seed,
            folder=out,
            display=Shown(console),
        )
        if as_json:
            typer.echo(quantized.result.model_dump_json(indent=1))
            return
        console.print(_table(quantized.result))
        for file in quantized.files:
            console.print(f"  {file}", highlight=False, soft_wrap=True)


def _table(result: Any) -> Table:
    title = f"{result.space}: {result.num_val_images:,} validation images, weight codes up to {result.target.w_qmax}"
    table = Table("network", title=title)
    table.add_column("top-1", justify="right")
    table.add_column("against FP32", justify="right")
    table.add_row("FP32", f"{result.top1_fp32:.2%}", "")
    rows = {"post-training quantization": result.top1_ptq, "fine-tuned (LSQ+)": result.top1_finetuned}
    if result.verification is not None:
        rows["INT8 file, computed by the runtime"] = result.verification.top1
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, f"{value:.2%}", f"{100 * (value - result.top1_fp32):+.2f} points")
    return table
