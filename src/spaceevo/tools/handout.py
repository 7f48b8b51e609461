"""Files for devices: written from an extracted network, verified here, and only then handed out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaceevo.artifacts import write_atomically
from spaceevo.config import ExportSettings
from spaceevo.errors import ArtifactError, DataError, ExportError, TargetError
from spaceevo.nets.extracted import SUFFIX, load_extracted, save_extracted
from spaceevo.nets.verification import verify
from spaceevo.ownership import output_file
from spaceevo.processors import this_profile
from spaceevo.progress import LineCallback, ProgressCallback, mute, part, silent
from spaceevo.records import ClassScores, ExtractedNetwork, Preprocessing, TargetDescription, Verification
from spaceevo.report.companions import companions
from spaceevo.run.context import Context, load_data, named_data
from spaceevo.runtimes import RUNTIMES, Runtime
from spaceevo.tools.class_scores import class_scores
from spaceevo.tools.classes import class_names_of, in_class_order
from spaceevo.tools.file_metadata import (
    PRECISION,
    find_network,
    kept_latency,
    latency_told,
    metadata_of_files,
    preprocessing_in,
    read_metadata,
)
from spaceevo.train.batches import Images, to_input
from spaceevo.train.datasets import told
from spaceevo.train.evaluation import BATCH_SIZE, top1

FAILURES = (ExportError, TargetError)  # of one file, while others may be handed out


@dataclass(frozen=True)
class HandedOut:
    """A model in the form of one runtime.

    Attributes:
        int8: Path of the INT8 file.
        fp32: Its FP32 twin.
        top1_fp32: Of the twin, computed by the runtime.
        verification: How the INT8 file compares with the network.
        preprocessing: How a picture becomes the input of both; None of a network that an older version extracted.
        classes: How both do on each class; None of a network that does not name its classes.
    """

    int8: Path
    fp32: Path
    top1_fp32: float
    verification: Verification
    preprocessing: Preprocessing | None
    classes: ClassScores | None


def hand_out(
    network: ExtractedNetwork,
    runtime_name: str,
    folder: Path,
    name: str,
    images: Images,
    min_agreement: float,
    progress: ProgressCallback = silent,
    earlier: Path | None = None,
) -> HandedOut:
    """Write a network for a runtime as `NAME-int8` and `NAME-fp32`, and verify the INT8 file here.

    Files of the same network that were written before are written once more as they are, with their measured latency.

    Args:
        network: What to write.
        runtime_name: A runtime plug-in that is installed here.
        folder: Made where absent.
        name: Stem of the names of the files.
        images: Labelled images to verify on.
        min_agreement: Least top-1 agreement with the integer reference, 0 to 1.
        progress: Called as work goes on.
        earlier: Folder of files that were written before; without it, the same.

    Raises:
        ExportError: The file breaks a bound: it stays under `NAME-unverified`, and is not handed out.
        TargetError: The runtime is not installed.
    """
    runtime = RUNTIMES.load(runtime_name)
    folder.mkdir(parents=True, exist_ok=True)
    int8, fp32, unverified = _files(folder, name, runtime)
    earlier = folder if earlier is None else earlier
    kept_int8, kept_fp32 = (kept_latency(earlier / path.name, network, runtime_name) for path in (int8, fp32))
    preprocessing = _write_pair(network, runtime, unverified, fp32, kept_int8, kept_fp32)
    of_int8: list[Tensor] = []
    share = part(progress, 0, 0.8)
    verification = _verify(unverified, runtime_name, network, images, min_agreement, share, of_int8.append)
    if verification.problems:
        where = verification.first_difference
        raise ExportError(
            f"{unverified} disagrees with its integer reference, and is not handed out",
            found="; ".join(verification.problems) + (f"; the first tensor that differs is {where}" if where else ""),
            remedy="Report it to the authors of spaceevo with this file",
        )
    session = runtime.Session(fp32, threads=torch.get_num_threads())
    logits = torch.cat([torch.from_numpy(session.run(batch.numpy())) for batch in _batches(network, images)])
    progress(1, 1)
    unverified.replace(int8)
    for file, text in _companions(network, runtime_name).items():
        write_atomically(folder / file, text)
    named = verification.model_copy(update={"file": int8.name})
    class_names = class_names_of(network)
    (given,), twin = of_int8, logits.argmax(1).numpy()
    labels = images.labels.numpy()
    classes = class_scores(labels, given.argmax(1).numpy(), twin, class_names, int8.name) if class_names else None
    return HandedOut(int8, fp32, top1(logits, images.labels), named, preprocessing, classes)


def tell_latency(
    network: Path, int8: Path, fp32: Path, target: TargetDescription, measured_ms: tuple[float, float]
) -> None:
    """Write a verified model and its twin once more, the same but for their measured latency.

    Args:
        network: The extracted network that both were written from.
        int8: The INT8 file.
        fp32: Its twin.
        target: That both were measured on, whose runtime they are for.
        measured_ms: Of the INT8 file and of its twin.

    Raises:
        ExportError: The INT8 file would not hold the numbers that were verified.
        NoSpaceError: A file cannot be written.
    """
    runtime = RUNTIMES.load(target.runtime)
    verified = runtime.constants(int8)
    _, _, again = _files(int8.parent, network.stem, runtime)
    told_int8, told_fp32 = (latency_told(target, one) for one in measured_ms)
    _write_pair(load_extracted(network), runtime, again, fp32, told_int8, told_fp32)
    written = runtime.constants(again)
    if written.keys() != verified.keys() or any(not np.array_equal(written[key], verified[key]) for key in verified):
        raise ExportError(f"{again} does not hold the numbers of {int8}", remedy="Report it to the authors of spaceevo")
    again.replace(int8)


def _write_pair(
    network: ExtractedNetwork,
    runtime: Runtime,
    int8: Path,
    fp32: Path,
    latency_int8: dict[str, str],
    latency_fp32: dict[str, str],
) -> Preprocessing | None:
    """Write both files of a network, each with what it tells of its latency; how a picture becomes their input."""
    metadata, preprocessing = metadata_of_files(network, runtime)
    runtime.export_int8(network.integer, int8, {**metadata, **latency_int8, PRECISION: "int8"})
    runtime.export_fp32(network.floating, fp32, {**metadata, **latency_fp32, PRECISION: "fp32"})
    return preprocessing


def verify_file(
    path: Path,
    *,
    network: Path | None = None,
    runtime_name: str | None = None,
    data: str | None = None,
    progress: ProgressCallback = silent,
    say: LineCallback = mute,
) -> Verification:
    """Verify an exported INT8 file against the extracted network that lies beside it.

    Args:
        path: Of an exported INT8 file.
        network: The extracted network; without it, the one in the file's folder that the file names.
        runtime_name: Runs the file; without it, the runtime that it was written for.
        data: Name of a built-in data set, a folder of images, or a recipe; without it, the data of the run that the
            file lies in.
        progress: Called as work goes on.
        say: Told what of the data has been read.

    Raises:
        ArtifactError: The file or the network is missing, damaged or foreign.
        DataError: There is no data, or it has other classes.
    """
    written_for, stored = read_metadata(path)
    if stored.get(PRECISION) != "int8":
        raise ArtifactError(
            f"{path} is no INT8 model of spaceevo",
            found=f"Its precision is {stored.get(PRECISION, 'not told')}",
            remedy="Give the file that ends in -int8",
        )
    runtime_name = runtime_name or written_for
    RUNTIMES.load(runtime_name)  # an unknown one is told before data are read
    extracted = load_extracted(network) if network else find_network(path, stored)
    images, bounds = validation_images(path, extracted, data, say), bounds_of(path)
    return _verify(path, runtime_name, extracted, images, bounds.min_agreement, progress)


def export_network(
    path: Path,
    runtime_name: str,
    folder: Path,
    data: str | None,
    progress: ProgressCallback,
    say: LineCallback = mute,
    force: bool = False,
) -> HandedOut:
    """Write an extracted network for a runtime and verify the file.

    Args:
        path: The extracted network.
        runtime_name: An installed runtime.
        folder: For the files.
        data: As in `verify_file`.
        progress: Called as work goes on.
        say: Told what of the data has been read.
        force: Whether files of these names are overwritten that spaceevo did not write.

    Raises:
        ArtifactError: The network is missing or damaged; or a file is in the way.
        DataError: There is no data, or it has other classes.
        ExportError: The file breaks a bound, or the runtime lacks an operator.
    """
    network = load_extracted(path)
    for file in _files(folder, path.stem, RUNTIMES.load(runtime_name)):
        output_file(file, force=force, is_ours=_is_handed_out)
    for name, text in _companions(network, runtime_name).items():
        output_file(folder / name, force=force, is_ours=partial(_says, text))
    if folder.resolve() != path.parent.resolve():
        output_file(folder / path.name, force=force)
    images = validation_images(path, network, data, say)
    bound = bounds_of(path).min_agreement
    out = hand_out(network, runtime_name, folder, path.stem, images, bound, progress, path.parent)
    if folder.resolve() != path.parent.resolve():
        save_extracted(folder / path.name, network)
    return out


def _files(folder: Path, name: str, runtime: Runtime) -> tuple[Path, Path, Path]:
    """Of the INT8 model, of its twin, and of an INT8 model that is not verified."""
    int8, fp32, unverified = (folder / f"{name}-{what}{runtime.SUFFIX}" for what in ("int8", "fp32", "unverified"))
    return int8, fp32, unverified


def _companions(network: ExtractedNetwork, runtime: str) -> dict[str, str]:
    class_names, preprocessing = class_names_of(network), preprocessing_in(network.metadata)
    return companions(runtime, class_names, preprocessing) if class_names and preprocessing else {}


def _says(text: str, path: Path) -> bool:
    return path.read_bytes() == text.encode()


def _is_handed_out(path: Path) -> bool:
    """Whether spaceevo wrote a model file."""
    try:
        return PRECISION in read_metadata(path)[1]
    except ArtifactError:
        return False


def networks_of(source: Path) -> list[Path]:
    """Extracted networks: the file itself, or all of a run.

    Raises:
        ArtifactError: There are none.
    """
    return _listed(source, f"*{SUFFIX}", "extracted network")


def int8_files_of(source: Path) -> list[Path]:
    """INT8 models: the file itself, or all of a run.

    Raises:
        ArtifactError: There are none.
    """
    return _listed(source, "*-int8.*", "INT8 model")


def _listed(source: Path, pattern: str, what: str) -> list[Path]:
    if source.is_file():
        return [source]
    files = sorted((source / "export" / "models").glob(pattern))
    if not files:
        raise ArtifactError(
            f"There is no {what} at {source}",
            found="It is a folder without export/models/" if source.is_dir() else "There is no such file or folder",
            remedy="Give a file, or the folder of a run whose export is done",
        )
    return files


def bounds_of(path: Path) -> ExportSettings:
    """The bounds of the run that a file lies in; the defaults outside of any."""
    context = run_of(path)
    return context.recipe.export if context else ExportSettings()


def run_of(path: Path) -> Context | None:
    """The run whose folder a path lies in; None outside of any."""
    for folder in (path.resolve(), *path.resolve().parents):
        if (folder / "recipe.yaml").is_file() and (folder / "provenance.json").is_file():
            return Context.of_folder(folder)
    return None


def validation_images(path: Path, network: ExtractedNetwork, data: str | None, say: LineCallback = mute) -> Images:
    """Labelled images that fit a network, none of them trained on.

    Args:
        path: Of a file; its run names the data where `data` is None.
        network: Says which classes, and at which size.
        data: Name of a built-in data set or a folder of images, read at the size that the network's were; or a recipe.
        say: Told what of the data has been read.

    Raises:
        DataError: There is no data, or it has other classes.
    """
    context = run_of(path)
    if data is not None:
        preprocessing = preprocessing_in(network.metadata)
        image_size = preprocessing.image_size if preprocessing else network.integer.nodes[0].in_shape.height
        with tempfile.TemporaryDirectory() as cache:
            loaded = load_data(named_data(data, image_size), Path(cache))
    elif context is not None:
        loaded = context.data
    else:
        raise DataError(
            f"There are no images to run {path} on",
            found="It does not lie in a run folder, and no data is named",
            remedy="Name a data set or a folder of images with `data`",
        )
    say(told(loaded))
    class_names = class_names_of(network)
    if class_names is None:
        raise ArtifactError(f"The network of {path} does not name its classes", remedy="Export it again from its run")
    loaded = in_class_order(loaded, class_names, path)
    return Images(torch.from_numpy(loaded.val_images), torch.from_numpy(loaded.val_labels))


def _verify(
    path: Path,
    runtime_name: str,
    network: ExtractedNetwork,
    images: Images,
    min_agreement: float,
    progress: ProgressCallback,
    take_logits: Callable[[Tensor], None] = lambda logits_BC: None,
) -> Verification:
    return verify(
        path,
        runtime_name,
        network.integer,
        _batches(network, images),
        images.labels,
        this_profile().name,
        min_agreement=min_agreement,
        threads=torch.get_num_threads(),
        progress=progress,
        take_logits=take_logits,
    )


def _batches(network: ExtractedNetwork, images: Images) -> Iterator[Tensor]:
    """What the network reads; a whole data set of it would fill the memory."""
    for pixels in images.pixels.split(BATCH_SIZE):
        yield to_input(pixels, network.integer.nodes[0].in_shape.height)
