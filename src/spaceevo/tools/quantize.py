"""Quantize one trained network: post-training quantization, then LSQ+ fine-tuning if asked. No stage of a run.

A network of the zoo, a subnet of a supernet, a hand-made baseline: all go the same way, so that they can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field

from spaceevo import interrupts
from spaceevo.artifacts import RunFolder, content_hash, write_atomically
from spaceevo.config import MAX_SEED, Recipe, TargetSettings, TrainingSettings, load_recipe
from spaceevo.errors import DataError
from spaceevo.graph.nodes import Program
from spaceevo.nets.extracted import SUFFIX, save_extracted
from spaceevo.nets.network import Network, program_of
from spaceevo.processors import profile_of
from spaceevo.progress import Display, LineCallback, ProgressCallback
from spaceevo.records import ExtractedNetwork, ImageData, Record, TargetDescription, Verification
from spaceevo.run.context import Context, is_recipe, named_data, write_recipe
from spaceevo.run.curves import write_curve
from spaceevo.run.memory import peak_rss_mib
from spaceevo.run.provenance import versions
from spaceevo.seeding import numpy_random
from spaceevo.settings import Settings
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.subnet import Subnet
from spaceevo.tools.classes import in_class_order
from spaceevo.tools.file_metadata import metadata_of
from spaceevo.tools.handout import hand_out
from spaceevo.tools.weight_source import NetworkSettings, WeightSource, float_network, weight_source
from spaceevo.train.batches import Images, split
from spaceevo.train.checkpoints import load_weights, save_tensors
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_subnet, predict_logits, top1
from spaceevo.train.loop import train
from spaceevo.train.ptq import PtqSettings, bias_corrected, with_ranges

FINETUNING, CURVE = "finetuning", "curve.json"
FILES = (f"{FINETUNING}-*.safetensors", CURVE)
FP32_FILE, INT8_FILE, RESULT_FILE = "fp32.safetensors", "int8.safetensors", "quantize.json"
MIN_IMAGE_SIZE = 16


class InputSettings(Settings):
    """Images, target, seed."""

    data: str = Field(description="A data set, a folder of images, or a recipe whose data are taken.")
    image_size: int | None = Field(None, ge=16, le=1024, description="The network's resolution without it.")
    flip: bool | None = Field(None, description="Mirror images in fine-tuning; as the recipe says, else yes.")
    target: str = Field("onnxruntime@local", description="runtime@transport.")
    seed: int = Field(0, ge=0, le=MAX_SEED)


class FinetuningSettings(Settings):
    """LSQ+ after post-training quantization."""

    epochs: float = Field(0, ge=0, le=10_000, description="Epochs; 0 for none.")
    lr: float = Field(0.03, gt=0, le=100, description="Peak learning rate per 256 images.")
    batch_size: int = Field(64, ge=2, le=65_536, description="Images per step.")


class QuantizedResult(Record):
    """`quantize.json`. Accuracies are 0 to 1, on the validation images.

    Attributes:
        space: Search space, zoo:NAME, or hand-made:HYPERSPACE.
        encoding: Published string of the network in it.
        num_classes: Number of classes, that is of logits.
        macs: For one image.
        params: Trained parameters, without quantizers.
        weights: The file of weights as it was given.
        weights_sha256: Hash of the file.
        weights_kind: "network", "supernet" (whose subnet was extracted) or "extracted" (batch norm folded).
        data: Name of the data set.
        image_size: Height = width of its images.
        num_train_images: Images that fine-tuning may draw.
        num_calibration_images: Those that the network was observed on.
        num_val_images: Images that decided the accuracies.
        target: The target; its `w_qmax` is the largest weight code.
        profile: Of the target's processor, which decides `w_qmax`.
        ptq: Settings of the post-training quantization.
        finetuning: Settings of the fine-tuning.
        seed: All that is random follows from it.
        top1_fp32: With batch norm recalibrated.
        top1_ptq: After post-training quantization.
        top1_finetuned: After fine-tuning; None where none was asked for.
        verification: Of the exported INT8 file.
        versions: Versions of Python and of the packages that numbers depend on, by name.
    """

    space: str
    encoding: str
    num_classes: int
    macs: int
    params: int
    weights: str
    weights_sha256: str
    weights_kind: str
    data: str
    image_size: int
    num_train_images: int
    num_calibration_images: int
    num_val_images: int
    target: TargetDescription
    profile: str
    ptq: PtqSettings
    finetuning: FinetuningSettings
    seed: int
    top1_fp32: float
    top1_ptq: float
    top1_finetuned: float | None
    verification: Verification | None = None
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Quantized:
    """What an export needs.

    Attributes:
        network: Quantized, in evaluation mode, final: recalibrating it would undo the correction of biases.
        float_network: Its float twin, recalibrated, in evaluation mode.
        subnet: The architecture of both.
        class_names: In label order.
        val_images: For verifying a file.
        context: Recipe, target and folder.
        result: Accuracies and what they were reached with.
    """

    network: Network
    float_network: Network
    subnet: Subnet
    class_names: tuple[str, ...]
    val_images: Images
    context: Context
    result: QuantizedResult


def quantize(
    network: NetworkSettings,
    inputs: InputSettings,
    ptq: PtqSettings,
    finetuning: FinetuningSettings,
    folder: Path,
    display: Display,
) -> Quantized:
    """Load a float network, quantize it and, if asked, fine-tune it.

    Args:
        network: File, and name or encoding of the architecture.
        inputs: Data, target, seed.
        ptq: Settings of the quantization.
        finetuning: Settings of the fine-tuning, which continues from the folder's checkpoint where there is one.
        folder: For the cache of the data and the checkpoint of the fine-tuning; locked by the caller.
        display: Where it tells how it goes.

    Raises:
        SpaceEvoError: Whatever is wrong with the arguments; a finished or interrupted fine-tuning is kept.
    """
    source = weight_source(network)
    context, train_images = _data(inputs, source, network.weights, folder, display.say)
    target = context.target
    program = program_of(source.subnet)
    val_images = Images(torch.from_numpy(context.data.val_images), torch.from_numpy(context.data.val_labels))
    calibration = train_images.take(slice(ptq.calibration_images)).pixels

    def accuracy(network: Network) -> float:
        return top1(predict_logits(network, program, val_images.pixels), val_images.labels)

    total = 4 if finetuning.epochs else 3
    display.line(f"[1/{total}] Recalibrate batch norm")
    float_twin = float_network(source, program, target.w_qmax, train_images)
    float_twin.arithmetic = context.arithmetic
    top1_fp32 = accuracy(float_twin)
    with _step(display, f"[2/{total}] Set ranges and scales", "ranges") as progress:
        uncorrected = with_ranges(float_twin, program, calibration, ptq, seed=inputs.seed, progress=progress)
    if ptq.bias_correction:
        with _step(display, f"[3/{total}] Correct biases", "bias correction") as progress:
            result = bias_corrected(uncorrected, float_twin, program, calibration, progress)
    else:
        display.line(f"[3/{total}] Biases stay as they are")
        result = uncorrected
    top1_ptq, top1_finetuned = accuracy(result), None
    if finetuning.epochs:
        with _step(display, f"[4/{total}] Fine-tune (LSQ+)", "fine-tuning") as progress:
            # Batches bring their own means: a corrected bias would count twice.
            start = {"weights": source.sha256, "space": source.space, "encoding": encode(source.subnet),
                     "ptq": ptq.model_dump(), "w_qmax": target.w_qmax, "seed": inputs.seed,
                     "num_train_images": len(train_images)}  # fmt: skip
            _finetune(context, uncorrected, program, train_images, finetuning, start, progress)
        result = calibrated_subnet(uncorrected, program, train_images, RECALIBRATION_BATCHES)
        top1_finetuned = accuracy(result)
    record = QuantizedResult(
        space=source.space,
        encoding=encode(source.subnet),
        num_classes=source.subnet.num_classes,
        macs=source.subnet.macs,
        params=source.subnet.num_params,
        weights=network.weights,
        weights_sha256=source.sha256,
        weights_kind=source.kind,
        data=context.data.name,
        image_size=context.data.image_size,
        num_train_images=len(train_images),
        num_calibration_images=len(calibration),
        num_val_images=len(val_images),
        target=target,
        profile=profile_of(target.machine, target.flags).name,
        ptq=ptq,
        finetuning=finetuning,
        seed=inputs.seed,
        top1_fp32=top1_fp32,
        top1_ptq=top1_ptq,
        top1_finetuned=top1_finetuned,
        versions=versions(),
    )
    names = context.data.class_names
    return Quantized(result, float_twin, source.subnet, names, val_images, context, record)


def write(quantized: Quantized, name: str, display: Display) -> tuple[QuantizedResult, list[Path]]:
    """Write both networks as safetensors, export the quantized one for the target, and the figures as JSON.

    The folder that `quantize` was given becomes one that `spaceevo verify` and `spaceevo export` take.

    Args:
        quantized: What `quantize` returned.
        name: Stem of the names of the exported files.
        display: Where it tells how it goes.

    Returns:
        The figures with the verification, and the files.

    Raises:
        ExportError: The exported file does not compute what the network does; the networks are kept.
        NoSpaceError: The folder cannot be written.
    """
    result = quantized.result
    notes = {
        "space": result.space,
        "encoding": result.encoding,
        "num_classes": result.num_classes,
        "class_names": list(quantized.class_names),
        "w_qmax": result.target.w_qmax,
        "profile": result.profile,
    }
    folder = quantized.context.run.path
    fp32, int8, figures = (folder / file for file in (FP32_FILE, INT8_FILE, RESULT_FILE))
    save_tensors(fp32, quantized.float_network.state_dict(), {**notes, "quantized": False})
    save_tensors(int8, quantized.network.state_dict(), {**notes, "quantized": True})
    context, program, target = quantized.context, program_of(quantized.subnet), result.target
    profile = profile_of(target.machine, target.flags)
    network = ExtractedNetwork(
        quantized.network.integer_graph(program),
        quantized.float_network.float_graph(program),
        metadata_of(
            quantized.subnet,
            quantized.class_names,
            result.image_size,
            profile,
            target.w_qmax,
            result.space,
            data=result.data,
        ),
    )
    models = folder / "export" / "models"
    save_extracted(models / f"{name}{SUFFIX}", network)
    write_recipe(context)
    with _step(display, "Export and verify", "export") as progress:
        bound = context.recipe.export.min_agreement
        out = hand_out(network, target.runtime, models, name, quantized.val_images, bound, progress)
    result = result.model_copy(update={"verification": out.verification})
    write_atomically(figures, result.model_dump_json(indent=1))
    return result, [fp32, int8, models / f"{name}{SUFFIX}", out.int8, out.fp32, figures]


@contextmanager
def _step(display: Display, title: str, label: str) -> Iterator[ProgressCallback]:
    display.line(title)
    with display.task(label) as show:

        def progress(done: int, total: int) -> None:
            interrupts.check()
            show(done, total)

        yield progress


def _finetune(
    context: Context,
    network: Network,
    program: Program,
    images: Images,
    settings: FinetuningSettings,
    start: dict[str, object],
    progress: ProgressCallback,
) -> None:
    """Train in place; what is found in the folder for other inputs is set aside."""
    folder = context.run.stage(FINETUNING, FILES)
    input_hash = content_hash({**start, "data": context.data_hash, "settings": settings.model_dump()})
    if folder.finished(input_hash) is not None:
        load_weights(network, folder.path / f"{FINETUNING}-int8.safetensors")
        return
    before, started = folder.spent_seconds(), time.monotonic()
    folder.note_spent(input_hash, before)
    files, curve = train(
        network,
        lambda _: [program],
        images,
        TrainingSettings(epochs_int8=settings.epochs, lr_int8=settings.lr, batch_size=settings.batch_size),
        context.recipe.data,
        seed=context.recipe.seed,
        purpose=FINETUNING,
        folder=folder.path,
        progress=progress,
    )
    curve_path = folder.path / CURVE
    write_curve(curve_path, curve)
    seconds = before + time.monotonic() - started
    folder.finish(input_hash, seconds, peak_rss_mib(), [files.int8, curve_path])


def _data(
    inputs: InputSettings, source: WeightSource, weights: str, folder: Path, say: LineCallback
) -> tuple[Context, Images]:
    """The context, and the training images in random order: those of a folder are sorted by class."""
    given = {"flip": inputs.flip, "image_size": inputs.image_size}
    changes = {key: value for key, value in given.items() if value is not None}
    data = named_data(inputs.data, max(MIN_IMAGE_SIZE, source.subnet.resolution)).model_copy(update=changes)
    target = TargetSettings(name=inputs.target)
    recipe = Recipe(name="quantize", seed=inputs.seed, data=data, target=target)
    context = Context(recipe, RunFolder(folder), say=say)
    _ = context.target  # what is wrong with it is told before images are read
    context = context.with_data(_labelled(context.data, source, weights, say))
    path = Path(inputs.data).expanduser()
    if is_recipe(path):
        images, _, _ = split(context.data, data.search_share, load_recipe(path).seed)  # not those a search chooses by
    else:
        images = Images(torch.from_numpy(context.data.train_images), torch.from_numpy(context.data.train_labels))
    order = numpy_random(inputs.seed, "quantize", "images").permutation(len(images))
    return context, images.take(order)


def _labelled(data: ImageData, source: WeightSource, weights: str, say: LineCallback) -> ImageData:
    """The data set with labels as the weights number their classes; where nothing tells how, that is said."""
    if data.num_classes != source.subnet.num_classes:
        raise DataError(
            f"The data set {data.name} has {data.num_classes} classes",
            found=f"the weights in {weights} tell {source.subnet.num_classes} apart",
            remedy="Give the data set that the network was trained on, or weights trained on this one",
        )
    if source.class_names is not None:
        return in_class_order(data, source.class_names, weights)
    names = ", ".join(data.class_names[:20]) + (", …" if data.num_classes > 20 else "")
    say(f"{weights} does not name its classes: they are taken to be those of {data.name}, in this order: {names}")
    return data
