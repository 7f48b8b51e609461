"""Teachers of the block-wise distillation: a network of our own, or the user's module with named taps."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import RecipeError, TrainingError
from spaceevo.nets.network import Program, program_of, single_network
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.subnet import Block, BlockType, Stage, Subnet, stage_outputs
from spaceevo.train.batches import Images, equal_parts, to_input, torch_generator
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.evaluation import predict_logits, top1
from spaceevo.train.loop import train
from spaceevo.train.recalibration import recalibrate

DEPTH = 2


class Teacher(Protocol):
    """What distillation asks of a teacher."""

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """Feature maps before the first searched stage and after each searched stage, for a normalized input.

        No gradient; spatial sizes that differ from the student's are resized by the caller.
        """
        ...


def builtin_teacher(hyperspace: Hyperspace, num_classes: int) -> Subnet:
    """The architecture of our own teacher: residual bottlenecks at the hyperspace's largest widths."""
    stages = []
    for stage in hyperspace.stages:
        if stage.is_searched:
            blocks = (Block(stage.widths[-1], 3, 0.5),) * DEPTH
            stages.append(Stage(stage.name, BlockType("bottleneck", "relu"), stage.stride, blocks))
        else:
            stages.append(stage.elastic(0, 0).largest())
    return Subnet(hyperspace.resolutions[-1], tuple(stages), hyperspace.head, num_classes)


class TrainedTeacher:
    """Our own teacher, trained at all resolutions of the hyperspace, kept in FP32."""

    def __init__(self, hyperspace: Hyperspace, num_classes: int, seed: int) -> None:
        subnet = builtin_teacher(hyperspace, num_classes)
        self._programs = {r: program_of(replace(subnet, resolution=r)) for r in hyperspace.resolutions}
        outputs = stage_outputs(subnet)
        names = [stage.name for stage in hyperspace.stages]
        first = names.index(hyperspace.searched[0].name)
        self._taps = [outputs[names[first - 1]], *(outputs[stage.name] for stage in hyperspace.searched)]
        largest = self._programs[hyperspace.resolutions[-1]]
        self.network = single_network(largest, 127, torch_generator(seed, "teacher", "weights"))

    def fit(
        self,
        images: Images,
        held_out: Images,
        settings: TrainingSettings,
        data: DataSettings,
        *,
        seed: int,
        folder: Path,
        progress: ProgressCallback,
    ) -> tuple[list[TrainingPoint], float]:
        """Train; returns the losses and the FP32 top-1 on held-out images."""
        programs = list(self._programs.values())

        def sample(rng: random.Random) -> Sequence[Program]:
            return [rng.choice(programs)]

        files, curve = train(
            self.network,
            sample,
            images,
            settings,
            data,
            seed=seed,
            purpose="teacher",
            folder=folder,
            progress=progress,
        )
        load_weights(self.network, files.fp32)
        self.network.quantized = False
        return curve, self._score(images, held_out)

    @torch.no_grad()
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """See `Teacher.features`; batch norm uses the batch's own statistics."""
        self.network.train()
        _, taps = self.network(x_BCHW, self._programs[x_BCHW.shape[-1]], self._taps)
        return list(taps)

    def _score(self, images: Images, held_out: Images) -> float:
        program = self._programs[max(self._programs)]
        batches = equal_parts(images.pixels[:512], 128)
        recalibrate(self.network, program, [to_input(batch, program[0].in_size) for batch in batches])
        return top1(predict_logits(self.network, program, held_out.pixels), held_out.labels)


class ModuleTeacher:
    """The user's own torch module; taps are names of its submodules.

    Args:
        module: Takes the normalized input.
        taps: One submodule before the first searched stage and one after each.
        num_taps: How many the hyperspace needs.

    Raises:
        TrainingError: A wrong number of taps, or a tap that the module lacks.
    """

    def __init__(self, module: nn.Module, taps: Sequence[str], num_taps: int) -> None:
        submodules = dict(module.named_modules())
        unknown = [tap for tap in taps if tap not in submodules]
        if unknown or len(taps) != num_taps:
            raise TrainingError(
                f"The teacher needs {num_taps} taps, each the name of a submodule",
                found=f"{len(taps)} taps; unknown: {', '.join(unknown) or 'none'}",
                remedy="Name the module before the first searched stage and the one after each stage",
            )
        self._module = module.eval()
        self._submodules = [submodules[tap] for tap in taps]

    @torch.no_grad()
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """See `Teacher.features`."""
        values: list[Tensor] = []
        hooks = [m.register_forward_hook(lambda _m, _i, output: values.append(output)) for m in self._submodules]
        try:
            self._module(x_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        return values


def load_module_teacher(location: str, num_taps: int) -> ModuleTeacher:
    """The teacher that a recipe names as package.module:function.

    The function takes no argument and returns (torch module, names of the tapped submodules). This runs the
    user's own code, which the recipe names.

    Raises:
        RecipeError: The function cannot be imported.
    """
    module_name, _, function_name = location.partition(":")
    try:
        function: Callable[[], tuple[nn.Module, Sequence[str]]] = getattr(
            importlib.import_module(module_name), function_name
        )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"The teacher {location!r} cannot be imported",
            found=str(error),
            remedy="Write teacher_module: package.module:function, importable from where you run",
        ) from error
    return ModuleTeacher(*function(), num_taps)
