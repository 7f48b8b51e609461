"""Teachers of the block-wise distillation: a network of our own, of the zoo, of a library, or the user's module.

More than 400 lines: what is built in, and every library that a teacher may come from.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spaceevo import plugins
from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import RecipeError, TrainingError
from spaceevo.graph.nodes import Program, blocks
from spaceevo.nets.network import LOGITS_WEIGHT, program_of, single_network
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.spaces import zoo
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.subnet import BlockType, Stage, Subnet, network_program, stage_outputs
from spaceevo.train.batches import NORMALIZATION, Images, equal_parts, to_input, torch_generator
from spaceevo.train.checkpoints import load_tensors, load_weights
from spaceevo.train.evaluation import predict_logits, top1
from spaceevo.train.loop import train
from spaceevo.train.recalibration import recalibrate

DEPTH = 2
Maps = Callable[[Tensor], Sequence[Tensor]]
Size = tuple[int, int]  # height and width of a feature map


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
            bottlenecks = (Block(stage.widths[-1], 3, 0.5),) * DEPTH
            stages.append(Stage(stage.name, BlockType("bottleneck", "relu"), stage.stride, bottlenecks))
        else:
            stages.append(stage.elastic(0, 0).largest())
    return Subnet(hyperspace.resolutions[-1], tuple(stages), hyperspace.head, num_classes)


def map_sizes(hyperspace: Hyperspace, resolution: int) -> tuple[Size, ...]:
    """Height and width of the feature maps before the first searched stage and after each searched stage."""
    sizes = [(resolution, resolution)]
    for stage in hyperspace.stages:
        height, width = sizes[-1]
        sizes.append(((height - 1) // stage.stride + 1, (width - 1) // stage.stride + 1))
    first = hyperspace.stages.index(hyperspace.searched[0])
    return tuple(sizes[first : first + len(hyperspace.searched) + 1])


class TrainedTeacher:
    """Our own teacher, trained at all resolutions of the hyperspace, kept in FP32."""

    def __init__(self, hyperspace: Hyperspace, num_classes: int, seed: int) -> None:
        subnet = builtin_teacher(hyperspace, num_classes)
        self._programs = _programs(subnet, hyperspace)
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
        return self.network.run_with_taps(x_BCHW, self._programs[x_BCHW.shape[-1]], self._taps)[1]

    def _score(self, images: Images, held_out: Images) -> float:
        program = self._programs[max(self._programs)]
        batches = equal_parts(images.take(slice(0, 512)).pixels, 128)
        recalibrate(self.network, program, [to_input(batch, program[0].in_shape.height) for batch in batches])
        return top1(predict_logits(self.network, program, held_out.pixels), held_out.labels)


class ModuleTeacher:
    """The user's own torch module; taps are names of its submodules.

    Args:
        module: Takes the normalized input.
        taps: One submodule before the first searched stage and one after each, in the order of their calls.
        num_taps: How many the hyperspace needs.
        name: Of the teacher, for errors.

    Raises:
        TrainingError: A wrong number of taps, or a tap that the module lacks.
    """

    def __init__(self, module: nn.Module, taps: Sequence[str], num_taps: int, name: str = "of your own") -> None:
        submodules = dict(module.named_modules())
        unknown = [tap for tap in taps if tap not in submodules]
        if unknown or len(taps) != num_taps:
            raise TrainingError(
                f"The teacher {name} needs {num_taps} taps, each the name of a submodule",
                found=f"{len(taps)} taps; unknown: {', '.join(unknown) or 'none'}",
                remedy="Name the module before the first searched stage and the one after each stage",
            )
        self._name = name
        self._module = module.eval()
        self._submodules = {tap: submodules[tap] for tap in taps}

    @torch.no_grad()
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """See `Teacher.features`."""
        called: list[str] = []
        values: list[Tensor] = []

        def keep(tap: str, output: Any) -> None:
            called.append(tap)
            values.append(output)

        hooks = [
            module.register_forward_hook(lambda _m, _i, output, tap=tap: keep(tap, output))
            for tap, module in self._submodules.items()
        ]
        try:
            with _foreign(f"The teacher {self._name} fails on images {list(x_BCHW.shape)}"):
                self._module(x_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        if called != list(self._submodules):
            raise TrainingError(
                f"The taps of the teacher {self._name} are not called once each, in the order in which they are named",
                found=f"Named: {', '.join(self._submodules)}; called: {', '.join(called) or 'none'}",
                remedy="Name submodules that every forward pass calls once, in that order",
            )
        for tap, value in zip(called, values, strict=True):
            if not isinstance(value, Tensor) or value.dim() != 4 or len(value) != len(x_BCHW):
                shape = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise TrainingError(
                    f"The tap {tap!r} of the teacher {self._name} puts out no feature maps",
                    found=f"For images {list(x_BCHW.shape)} {shape}",
                    remedy="Name submodules that put out one tensor [B, C, H, W]",
                )
        return values


class SizedTeacher:
    """A network whose taps are chosen by the size of its feature maps.

    Where n of its maps have the size that k taps need, these are the maps number n/k, 2n/k, ..., n, rounded up: the
    last one of a size is the result of the last stage of that size.

    Args:
        maps: Feature maps [B, C, H, W] for a normalized input, in the order in which they are computed.
        hyperspace: Decides the sizes, at its largest resolution.
        name: Of the network, for errors.

    Raises:
        TrainingError: Fewer maps of a size than taps.
    """

    def __init__(self, maps: Maps, hyperspace: Hyperspace, name: str) -> None:
        self._maps, self._name = maps, name
        resolution = hyperspace.resolutions[-1]
        wanted = map_sizes(hyperspace, resolution)
        with torch.no_grad(), _foreign(f"The teacher {name} fails on images of {resolution} pixels"):
            found_maps = maps(torch.zeros(2, 3, resolution, resolution))
            sizes = [(x.shape[-2], x.shape[-1]) if x.dim() == 4 else (0, 0) for x in found_maps]
        self._chosen = []
        for size in dict.fromkeys(wanted):
            found, num_taps = [i for i, one in enumerate(sizes) if one == size], wanted.count(size)
            if len(found) < num_taps:
                raise TrainingError(
                    f"The teacher {name} has {len(found)} feature maps of {_told(size)} for an image of {resolution}",
                    found=f"The hyperspace {hyperspace.name} needs {num_taps} of that size; the teacher's sizes are "
                    f"{', '.join(map(_told, sizes)) or 'none'}",
                    remedy="Name the taps after a #, where the kind of teacher allows it, or take another teacher",
                )
            self._chosen += [found[-(-tap * len(found) // num_taps) - 1] for tap in range(1, num_taps + 1)]

    @torch.no_grad()
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """See `Teacher.features`."""
        with _foreign(f"The teacher {self._name} fails on images {list(x_BCHW.shape)}"):
            maps = self._maps(x_BCHW)
            return [maps[index] for index in self._chosen]


def load_teacher(location: str, hyperspace: Hyperspace) -> Teacher:
    """The teacher that a recipe names.

    Args:
        location: `zoo:NAME:WEIGHTS`, `timm:NAME`, `huggingface:NAME`, or `package.module:function`. The libraries
            fetch pretrained weights unless they have them; after `NAME#` taps may be named, separated by commas.
        hyperspace: Decides the taps.

    Raises:
        RecipeError: It cannot be imported, or there is no such network.
        PluginError: The zoo has no such network.
        ArtifactError: The weights cannot be read or belong to another network.
        TrainingError: It lacks taps.
    """
    kind, _, rest = location.partition(":")
    load = {"zoo": _zoo, "timm": _timm, "huggingface": _hugging_face}.get(kind)
    return load(rest, hyperspace) if load else _module(location, hyperspace)


def check_teacher(teacher: Teacher, location: str, hyperspace: Hyperspace) -> None:
    """Try a teacher on black images of every resolution.

    Args:
        teacher: As `load_teacher` returned it.
        location: Its name, for errors.
        hyperspace: Decides the resolutions and the number of taps.

    Raises:
        TrainingError: It fails, puts out no feature maps, or values that are not finite.
    """
    for resolution in hyperspace.resolutions:
        maps = teacher.features(torch.zeros(2, 3, resolution, resolution))
        if not all(one.isfinite().all() for one in maps):
            raise TrainingError(
                f"The teacher {location} puts out values that are not finite",
                found=f"For black images of {resolution} pixels",
                remedy="Look at its weights",
            )


def _module(location: str, hyperspace: Hyperspace) -> Teacher:
    """The user's own code: a function without arguments that returns (torch module, names of tapped submodules)."""
    module_name, _, function_name = location.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:
        found = plugins.told(error)
        raise RecipeError(
            f"The teacher {location!r} cannot be imported",
            found=found,
            remedy="Correct it there"
            if ", line " in found
            else "Write teacher_network: package.module:function, importable from where you run (for a file of the "
            "current folder, run with PYTHONPATH=.), or zoo:NAME:WEIGHTS, timm:NAME, huggingface:NAME",
        ) from error
    code = getattr(function, "__code__", None)
    place = f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)
    name = f"{location!r} ({place})"
    with _foreign(f"The teacher {name} fails when it is made"):
        made = function()
    match made:
        case (nn.Module() as module, [*taps]) if all(isinstance(tap, str) for tap in taps):
            return ModuleTeacher(module, taps, len(hyperspace.searched) + 1, name)
    kinds = ", ".join(type(one).__name__ for one in (made if isinstance(made, tuple) else [made]))
    raise TrainingError(
        f"The teacher {location!r} is not a torch module and the names of its taps",
        found=f"The function ({place}) returns {kinds}",
        remedy='Return both, for example: return net, ["stem", "stage1", "stage2", "stage3"]',
    )


@contextmanager
def _foreign(problem: str) -> Iterator[None]:
    """Whatever code that is not ours raises is no bug of ours."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise TrainingError(problem, found=plugins.told(error), remedy="Correct it there") from error


def _zoo(rest: str, hyperspace: Hyperspace) -> Teacher:
    """A network of the zoo with trained FP32 weights; batch norm uses the batch's own statistics."""
    name, _, weights = rest.partition(":")
    subnet = zoo.load_network(name).subnet
    if not weights:
        raise RecipeError(
            f"The teacher zoo:{name} has no weights", remedy=f"Write zoo:{name}:WEIGHTS, a file of `spaceevo quantize`"
        )
    path = Path(weights).expanduser()
    logits = load_tensors(path)[0].get(LOGITS_WEIGHT)
    # What has no rows is no weight of logits, which `load_weights` tells
    subnet = replace(subnet, num_classes=len(logits) if logits is not None and logits.dim() else zoo.NUM_CLASSES)
    programs = _programs(subnet, hyperspace)
    network = single_network(programs[hyperspace.resolutions[-1]], 127, torch.Generator())
    load_weights(network, path)
    ends = list(_block_outputs(subnet))

    def maps(x_BCHW: Tensor) -> Sequence[Tensor]:
        return network.run_with_taps(x_BCHW, programs[x_BCHW.shape[-1]], ends)[1]

    return SizedTeacher(maps, hyperspace, f"zoo:{name}")


def _timm(rest: str, hyperspace: Hyperspace) -> Teacher:
    """A pretrained model of timm; without named taps its `features_only` form, with one map per size."""
    timm = _library("timm")
    name, _, taps = rest.partition("#")
    model = _pretrained(f"timm:{name}", lambda: timm.create_model(name, pretrained=True, features_only=not taps))
    about = timm.data.resolve_model_data_config(model)
    _renormalize(model, about["mean"], about["std"])
    return _of_library(model, taps, model, hyperspace, f"timm:{name}")


def _hugging_face(rest: str, hyperspace: Hyperspace) -> Teacher:
    """A pretrained vision model of transformers; without named taps its hidden states."""
    transformers = _library("transformers")
    name, _, taps = rest.partition("#")
    model = _pretrained(f"huggingface:{name}", lambda: transformers.AutoModel.from_pretrained(name))
    about = _pretrained(f"huggingface:{name}", lambda: transformers.AutoImageProcessor.from_pretrained(name))
    with _foreign(f"The teacher huggingface:{name} does not tell how its images are normalized"):
        _renormalize(model, about.image_mean, about.image_std)

    def maps(x_BCHW: Tensor) -> Sequence[Tensor]:
        states: Sequence[Tensor] = model(x_BCHW, output_hidden_states=True).hidden_states
        return states

    return _of_library(model, taps, maps, hyperspace, f"huggingface:{name}")


def _of_library(model: nn.Module, taps: str, maps: Maps, hyperspace: Hyperspace, name: str) -> Teacher:
    model.eval()
    if taps:
        return ModuleTeacher(model, taps.split(","), len(hyperspace.searched) + 1, name)
    return SizedTeacher(maps, hyperspace, name)


def _library(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except Exception as error:
        raise RecipeError(
            f"A teacher of {package} needs that package",
            found=plugins.told(error),
            remedy=f"Install it: pip install {package}",
        ) from error


def _pretrained(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        found = str(error).strip() or type(error).__name__
        raise RecipeError(f"The teacher {name} cannot be loaded", found=found.splitlines()[0]) from error


def _renormalize(module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Have the module read our normalized input as the one that it was trained on."""
    own_mean, own_std, mean_C, std_C = (
        torch.tensor(values).view(-1, 1, 1) for values in (NORMALIZATION.mean, NORMALIZATION.std, mean, std)
    )
    module.register_forward_pre_hook(lambda _, inputs: ((inputs[0] * own_std + own_mean - mean_C) / std_C,))


def _programs(subnet: Subnet, hyperspace: Hyperspace) -> dict[int, Program]:
    return {r: program_of(replace(subnet, resolution=r)) for r in hyperspace.resolutions}


def _block_outputs(subnet: Subnet) -> Iterator[str]:
    """Ids of the nodes that put out the results of the blocks, in order."""
    for block in blocks(network_program(subnet)):
        if block[-1].role.block is not None:
            yield block[-1].id


def _told(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
