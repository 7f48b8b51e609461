"""Quantize one trained network: post-training quantization, then LSQ+ fine-tuning if asked. No stage of a run.

A network of the zoo, a subnet of a supernet, a hand-made baseline: all go the same way, so that they can be compared.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor

from spaceevo import interrupts
from spaceevo.artifacts import RunFolder, content_hash, write_atomically
from spaceevo.config import MAX_SEED, Recipe, TargetSettings, TrainingSettings, load_recipe
from spaceevo.errors import ArtifactError, DataError, EncodingError, RecipeError, SpaceEvoError
from spaceevo.graph.graphs import FloatGraph
from spaceevo.graph.nodes import Program
from spaceevo.nets.extracted import FORMAT, SUFFIX, load_extracted, save_extracted
from spaceevo.nets.network import LOGITS_WEIGHT, WEIGHTED, Network, program_of, single_network
from spaceevo.nets.weights import misfits, read_notes, read_safetensors, weight
from spaceevo.pipeline.classes import class_names_of, in_class_order
from spaceevo.pipeline.context import Context, is_recipe, named_data, write_recipe
from spaceevo.pipeline.curves import write_curve
from spaceevo.pipeline.handout import hand_out, metadata_of, run_of
from spaceevo.pipeline.memory import peak_rss_mib
from spaceevo.pipeline.provenance import versions
from spaceevo.processors import profile_of
from spaceevo.progress import LineCallback, ProgressCallback, lines, shown
from spaceevo.records import ExtractedNetwork, ImageData, Record, TargetDescription, Verification
from spaceevo.seeding import numpy_random
from spaceevo.settings import Settings
from spaceevo.spaces import zoo
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.handmade import every_mobilenet_v3
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.named import named_space, named_subnet
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import Images, split
from spaceevo.train.checkpoints import load_weights, save_tensors
from spaceevo.train.evaluation import BATCH_SIZE, RECALIBRATION_BATCHES, calibrated_subnet, predict_logits, top1
from spaceevo.train.loop import train
from spaceevo.train.ptq import PtqSettings, bias_corrected, unfold_norms, with_ranges
from spaceevo.train.supernet import make_supernet

FINETUNING, CURVE = "finetuning", "curve.json"
FILES = (f"{FINETUNING}-*.safetensors", CURVE)
FP32_FILE, INT8_FILE, RESULT_FILE = "fp32.safetensors", "int8.safetensors", "quantize.json"
ZOO = "zoo"  # spaces of networks that belong to no search space: zoo:NAME, hand-made:HYPERSPACE
HANDMADE = "hand-made"
MIN_IMAGE_SIZE = 16
_COUNT = "num_batches_tracked"


class NetworkSettings(Settings):
    """Which network, and whose weights."""

    weights: str = Field(description="A safetensors file with FP32 weights.")
    network: str = Field("", description="A name of the zoo, or an encoding; empty where the file tells it.")
    space: str = Field("", description="Search space of an encoding; hand-made for a baseline's.")
    resolution: int | None = Field(None, ge=1, description="Input resolution of a network of the zoo.")


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


@dataclass(frozen=True, eq=False)
class _Source:
    """A file of weights and the network in it: all of `tensors`, a part of them, or `folded`.

    Attributes:
        class_names: In the order of its logits; None where nothing tells them.
    """

    space: str
    subnet: Subnet
    sha256: str
    tensors: Mapping[str, Tensor]
    supernet: SearchSpace | None = None
    folded: FloatGraph | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        return "extracted" if self.folded else "supernet" if self.supernet else "network"


def quantize(
    network: NetworkSettings,
    inputs: InputSettings,
    ptq: PtqSettings,
    finetuning: FinetuningSettings,
    folder: Path,
    console: Console,
) -> Quantized:
    """Load a float network, quantize it and, if asked, fine-tune it.

    Args:
        network: File, and name or encoding of the architecture.
        inputs: Data, target, seed.
        ptq: Settings of the quantization.
        finetuning: Settings of the fine-tuning, which continues from the folder's checkpoint where there is one.
        folder: For the cache of the data and the checkpoint of the fine-tuning; locked by the caller.
        console: Where progress is shown.

    Raises:
        SpaceEvoError: Whatever is wrong with the arguments; a finished or interrupted fine-tuning is kept.
    """
    source = _source(network)
    context, train_images = _data(inputs, source, network.weights, folder, lines(console))
    target = context.target
    program = program_of(source.subnet)
    val_images = Images(torch.from_numpy(context.data.val_images), torch.from_numpy(context.data.val_labels))
    calibration = train_images.take(slice(ptq.calibration_images)).pixels

    def accuracy(network: Network) -> float:
        return top1(predict_logits(network, program, val_images.pixels), val_images.labels)

    total = 4 if finetuning.epochs else 3
    console.print(f"[1/{total}] Recalibrate batch norm", highlight=False)
    float_network = _float_network(source, program, target.w_qmax, train_images)
    float_network.arithmetic = context.arithmetic
    top1_fp32 = accuracy(float_network)
    with _step(console, f"[2/{total}] Set ranges and scales", "ranges") as progress:
        uncorrected = with_ranges(float_network, program, calibration, ptq, seed=inputs.seed, progress=progress)
    if ptq.bias_correction:
        with _step(console, f"[3/{total}] Correct biases", "bias correction") as progress:
            result = bias_corrected(uncorrected, float_network, program, calibration, progress)
    else:
        console.print(f"[3/{total}] Biases stay as they are", highlight=False)
        result = uncorrected
    top1_ptq, top1_finetuned = accuracy(result), None
    if finetuning.epochs:
        with _step(console, f"[4/{total}] Fine-tune (LSQ+)", "fine-tuning") as progress:
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
    return Quantized(result, float_network, source.subnet, names, val_images, context, record)


def write(quantized: Quantized, name: str, console: Console) -> tuple[QuantizedResult, list[Path]]:
    """Write both networks as safetensors, export the quantized one for the target, and the figures as JSON.

    The folder that `quantize` was given becomes one that `spaceevo verify` and `spaceevo export` take.

    Args:
        quantized: What `quantize` returned.
        name: Stem of the names of the exported files.
        console: Where progress is shown.

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
        metadata_of(quantized.subnet, quantized.class_names, result.image_size, profile, target.w_qmax, result.space),
    )
    models = folder / "export" / "models"
    save_extracted(models / f"{name}{SUFFIX}", network)
    write_recipe(context)
    with _step(console, "Export and verify", "export") as progress:
        bound = context.recipe.export.min_agreement
        out = hand_out(network, target.runtime, models, name, quantized.val_images, bound, progress)
    result = result.model_copy(update={"verification": out.verification})
    write_atomically(figures, result.model_dump_json(indent=1))
    return result, [fp32, int8, models / f"{name}{SUFFIX}", out.int8, out.fp32, figures]


@contextmanager
def _step(console: Console, title: str, label: str) -> Iterator[ProgressCallback]:
    console.print(title, highlight=False)
    with shown(console, label) as show:

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
    inputs: InputSettings, source: _Source, weights: str, folder: Path, say: LineCallback
) -> tuple[Context, Images]:
    """The context, and the training images in random order: those of a folder are sorted by class."""
    given = {"flip": inputs.flip, "image_size": inputs.image_size}
    changes = {key: value for key, value in given.items() if value is not None}
    data = named_data(inputs.data, max(MIN_IMAGE_SIZE, source.subnet.resolution)).model_copy(update=changes)
    target = TargetSettings(name=inputs.target)
    recipe = Recipe(name="quantize", seed=inputs.seed, data=data, target=target)
    context = Context(recipe, RunFolder(folder), say=say)
    _ = context.target  # what is wrong with it is told before images are read
    vars(context)["data"] = _labelled(context.data, source, weights, say)
    path = Path(inputs.data).expanduser()
    if is_recipe(path):
        images, _, _ = split(context.data, data.search_share, load_recipe(path).seed)  # not those a search chooses by
    else:
        images = Images(torch.from_numpy(context.data.train_images), torch.from_numpy(context.data.train_labels))
    order = numpy_random(inputs.seed, "quantize", "images").permutation(len(images))
    return context, images.take(order)


def _labelled(data: ImageData, source: _Source, weights: str, say: LineCallback) -> ImageData:
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


def _source(settings: NetworkSettings) -> _Source:
    """Read the weights and find out which network they are of."""
    path = Path(settings.weights).expanduser()
    tensors, notes = _read(path)
    folded, class_names = None, _class_names(path, notes)
    if notes.get("format") == FORMAT:
        extracted = load_extracted(path)
        folded, class_names = extracted.floating, class_names_of(extracted)
        space, encoding = (extracted.metadata.get(f"spaceevo.{key}", "") for key in ("space", "encoding"))
        num_classes = folded.nodes[-1].out_shape.channels
    else:
        space, encoding = (str(notes.get(key) or "") for key in ("space", "encoding"))
        num_classes = _num_classes(path, tensors)
    if settings.network:
        space, encoding = settings.space, settings.network
        if not space:
            subnet = named_subnet(encoding)
            resolution = settings.resolution or subnet.resolution
            space, encoding = f"{ZOO}:{encoding}", encode(replace(subnet, resolution=resolution))
        elif settings.resolution:
            raise RecipeError("An encoding has its resolution in it", remedy="Write it after r; leave --resolution out")
    elif settings.space or settings.resolution:
        raise RecipeError(
            "A space or a resolution alone names no network", remedy="Give NETWORK, a name of the zoo or an encoding"
        )
    elif not (space and encoding):
        raise ArtifactError(
            f"{path} does not say which network it holds",
            remedy="Give NETWORK: a name of the zoo, or an encoding with --space",
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = []
    for name, subnet, searched in _architectures(encoding, space, num_classes):
        if folded is not None:
            if program_of(subnet) == folded.nodes:
                return _Source(name, subnet, sha256, {}, folded=folded, class_names=class_names)
            problems = ["its operators are others"]
        else:
            problems = _misfits(single_network(program_of(subnet), 127, torch.Generator()), tensors)
            if not problems:
                found.append(_Source(name, subnet, sha256, tensors, class_names=class_names))
            elif searched is not None:
                of_supernet = _misfits(make_supernet(searched, 127, 0), tensors)
                problems = min(problems, of_supernet, key=len)
                if not of_supernet:
                    found.append(_Source(name, subnet, sha256, tensors, searched, class_names=class_names))
    if not found:
        raise ArtifactError(
            f"{path} holds the weights of another network than {settings.network or encoding}",
            found=problems[0],
            remedy="Give the network that the file was trained as: NETWORK, and --space for an encoding",
        )
    if len(found) > 1:
        raise EncodingError(
            f"{encoding} is a hand-made network of more than one hyperspace",
            found=", ".join(one.space for one in found),
            remedy="Name one of these with --space",
        )
    return found[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, all finite, and what spaceevo noted beside them: nothing, in a file that others wrote."""
    if not os.path.isfile(path):
        raise ArtifactError(
            f"There is no file of weights at {path}", remedy="Give a safetensors file with FP32 weights"
        )
    stored, metadata = read_safetensors(path)
    notes = read_notes(path, metadata) or {}
    if notes.get("quantized") or notes.get("lsq+"):
        raise ArtifactError(
            f"{path} holds weights after quantization-aware training",
            found="its notes say that it is quantized",
            remedy="Give the weights of the FP32 phase, whose name ends with -fp32.safetensors; "
            "for a published checkpoint: spaceevo import CHECKPOINT --fp32 --out FILE",
        )
    # Codes of an extracted network, and counts of batches, are whole numbers
    whole = {name: tensor for name, tensor in stored.items() if name.startswith("int8/") or name.endswith(_COUNT)}
    return whole | {name: weight(name, tensor, path) for name, tensor in stored.items() if name not in whole}, notes


def _class_names(path: Path, notes: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Those that a file of weights tells, or the run that it lies in; None where neither does."""
    names = notes.get("class_names")
    if isinstance(names, list):
        return tuple(map(str, names))
    try:
        run = run_of(path)
        exported = sorted((run.run.path / "export" / "models").glob(f"*{SUFFIX}")) if run else []
        told = class_names_of(load_extracted(exported[0])) if exported else None
        return told or (run.data.class_names if run else None)
    except SpaceEvoError:  # the run's data may be gone, or its export damaged
        return None


def _num_classes(path: Path, tensors: Mapping[str, Tensor]) -> int:
    if LOGITS_WEIGHT not in tensors or tensors[LOGITS_WEIGHT].dim() != 2:
        raise ArtifactError(
            f"{path} is not a file of weights of a whole network",
            found=f"{LOGITS_WEIGHT} is missing; there are {', '.join(list(tensors)[:3]) or 'no tensors'}",
            remedy="Give a file that spaceevo wrote, for example RUN/baselines/baseline0-fp32.safetensors",
        )
    return len(tensors[LOGITS_WEIGHT])


def _architectures(encoding: str, space: str, num_classes: int) -> Iterator[tuple[str, Subnet, SearchSpace | None]]:
    """(space, subnet, search space) of everything that an encoding stands for: one, or hand-made ones alike."""
    kind, _, name = space.partition(":")
    if kind == ZOO:
        resolution = re.search(r"_r(\d+)$", encoding)
        if resolution is None:
            raise EncodingError(f"{encoding!r} has no resolution at its end", remedy="Give NETWORK and --resolution")
        subnet = replace(zoo.load_network(name).subnet, num_classes=num_classes)
        yield space, replace(subnet, resolution=int(resolution[1])), None
    elif kind == HANDMADE:
        alike = [
            (f"{HANDMADE}:{hyperspace.name}", subnet)
            for hyperspace in map(load_hyperspace, [name] if name else PRESETS.names())
            for subnet in every_mobilenet_v3(hyperspace, num_classes)
            if encode(subnet) == encoding
        ]
        if not alike:
            raise EncodingError(
                f"{encoding!r} is none of the hand-made networks" + (f" of {name}" if name else ""),
                remedy="Take the encoding of a baseline from export/models.json of a run",
            )
        for place, subnet in dict.fromkeys(alike):
            yield place, subnet, None
    else:
        searched = named_space(space, num_classes)
        yield space, decode(encoding, searched), searched


def _read_keys(network: Network) -> dict[str, Tensor]:
    """What is read: not scales, which are set, nor running statistics, which are recalibrated."""
    return network.float_parameters()


def _misfits(network: Network, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps a file of weights from being those of a network, in words."""
    known = network.state_dict()
    return misfits(_read_keys(network), tensors) + [
        f"{key}, {list(tensor.shape)}, has no place in the network"
        for key, tensor in tensors.items()
        if key.startswith(WEIGHTED) and key not in known
    ]


def _float_network(source: _Source, program: Program, w_qmax: int, images: Images) -> Network:
    """The network in float, with running statistics of its own."""
    if source.folded is not None:
        network = single_network(program, w_qmax, torch.Generator())
        recalibration = images.take(slice(RECALIBRATION_BATCHES * BATCH_SIZE))
        unfold_norms(network, program, source.folded.weights, recalibration.pixels)
        return network
    if source.supernet is not None:
        network = make_supernet(source.supernet, w_qmax, 0)
    else:
        network = single_network(program, w_qmax, torch.Generator())
    read = {key: source.tensors[key] for key in _read_keys(network)}
    network.load_state_dict(network.state_dict() | read)
    return calibrated_subnet(network, program, images, RECALIBRATION_BATCHES)
