"""What the stages of a teacher put out on the images of a distillation, kept on disk."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.artifacts import storage_errors, write_atomically
from spaceevo.errors import ArtifactError
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.train.batches import Images, equal_parts, to_input
from spaceevo.train.teachers import Size, Teacher, map_sizes

FEATURE_BATCH = 128
POSITIONS_AT_ONCE = 2**16  # of a map, that sums in float64 are taken over


@dataclass(frozen=True, eq=False)
class StageFeatures:
    """The teacher's feature maps around one stage, at every resolution, in files that are mapped to memory.

    Attributes:
        sources: By resolution, [N, C_in, H, W] float16, channels last: before the stage.
        targets: By resolution, [N, C_out, H', W'] float16, channels last: after it.
        mean_C: [C_out], mean of each target channel.
        power_C: [C_out], variance of each target channel, 0 for constant channels.
        in_sizes: By resolution, height and width of the student's input.
        out_sizes: By resolution, height and width of the student's output.
    """

    sources: dict[int, Tensor]
    targets: dict[int, Tensor]
    mean_C: Tensor
    power_C: Tensor
    in_sizes: dict[int, Size]
    out_sizes: dict[int, Size]


def write_features(
    hyperspace: Hyperspace, indices: Sequence[int], teacher: Teacher, images: Images, folder: Path
) -> None:
    """Run the teacher once over the images at every resolution and keep what some stages need.

    The maps take 2 bytes per value on disk; of memory this needs a batch of `FEATURE_BATCH` images. What is there
    already is not written again; of an interrupted run nothing counts but whole files.

    Args:
        hyperspace: Gives resolutions and strides.
        indices: Of the searched stages, from 0.
        teacher: Gives the feature maps.
        images: All images of the distillation; the last ones are held out for scoring.
        folder: For the maps and their moments, `TAP-RESOLUTION.npy` and `TAP-moments.npy`.

    Raises:
        NoSpaceError: The folder has no room for the maps.
    """
    taps = {tap for index in indices for tap in (index, index + 1)}
    missing = sorted(tap for tap in taps if not _moments_path(folder, tap).exists())
    if not missing:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    moments: dict[int, Tensor] = {}  # by tap, [2, C]
    for resolution in hyperspace.resolutions:
        sizes = map_sizes(hyperspace, resolution)
        sums: dict[int, list[Tensor]] = {tap: [] for tap in missing}
        shapes: dict[int, tuple[int, ...]] = {}
        with storage_errors(folder), ExitStack() as stack:
            files = {tap: stack.enter_context(_partial(folder, tap, resolution).open("wb")) for tap in missing}
            for pixels in equal_parts(images.pixels, FEATURE_BATCH):
                features = teacher.features(to_input(pixels, resolution))
                for tap, file in files.items():
                    x_BHWC = resized(features[tap], sizes[tap]).half().permute(0, 2, 3, 1).contiguous()
                    if tap not in shapes:
                        shapes[tap] = (len(images), *x_BHWC.shape[1:])
                        header = {"descr": "<f2", "fortran_order": False, "shape": shapes[tap]}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(x_BHWC.numpy().data)
                    for x_PC in x_BHWC.flatten(0, 2).split(POSITIONS_AT_ONCE):
                        sums[tap].append(torch.stack((x_PC.double().sum(0), x_PC.double().square().sum(0))))
        for tap, shape in shapes.items():  # of the largest resolution, which comes last
            moments[tap] = _mean_and_power(torch.stack(sums[tap]).sum(0), math.prod(shape[:3]))
    for tap in missing:
        for resolution in hyperspace.resolutions:
            _partial(folder, tap, resolution).replace(_maps_path(folder, tap, resolution))
        buffer = io.BytesIO()
        np.save(buffer, moments[tap].numpy())
        write_atomically(_moments_path(folder, tap), buffer.getvalue())


def load_features(hyperspace: Hyperspace, index: int, folder: Path) -> StageFeatures:
    """What `write_features` keeps of one stage, mapped to memory.

    Args:
        hyperspace: As it was written for.
        index: Of the searched stage, from 0.
        folder: Of the maps.

    Raises:
        ArtifactError: Something is missing or damaged.
    """

    def read(path: Path) -> Tensor:
        try:
            return torch.from_numpy(np.load(path, "c"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path}, feature maps of the teacher, cannot be read",
                found=str(error),
                remedy=f"Delete {folder} and run the same command again; finished cells are kept",
            ) from error

    def maps(tap: int) -> dict[int, Tensor]:
        return {r: read(_maps_path(folder, tap, r)).permute(0, 3, 1, 2) for r in hyperspace.resolutions}

    sizes = {resolution: map_sizes(hyperspace, resolution) for resolution in hyperspace.resolutions}
    mean_C, power_C = read(_moments_path(folder, index + 1))
    return StageFeatures(
        maps(index),
        maps(index + 1),
        mean_C,
        power_C,
        {resolution: of_taps[index] for resolution, of_taps in sizes.items()},
        {resolution: of_taps[index + 1] for resolution, of_taps in sizes.items()},
    )


def _mean_and_power(sums: Tensor, count: int) -> Tensor:
    """Mean and variance of each channel, from the sums [2, C] of the values and of their squares."""
    mean_C = sums[0] / count
    power_C = (sums[1] - count * mean_C.square()) / max(1, count - 1)
    power_C[power_C < 1e-6 * power_C.max()] = 0
    return torch.stack((mean_C, power_C)).float()


def _maps_path(folder: Path, tap: int, resolution: int) -> Path:
    return folder / f"{tap}-{resolution}.npy"


def _moments_path(folder: Path, tap: int) -> Path:
    """Written last: with it the maps of a tap are there."""
    return folder / f"{tap}-moments.npy"


def _partial(folder: Path, tap: int, resolution: int) -> Path:
    return folder / f".{tap}-{resolution}.tmp"


def resized(x_BCHW: Tensor, size: Size) -> Tensor:
    """A map brought to another height and width, by means over its positions."""
    return x_BCHW if tuple(x_BCHW.shape[-2:]) == size else F.adaptive_avg_pool2d(x_BCHW, size)
