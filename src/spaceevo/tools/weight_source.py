"""Whose weights a file holds: a network of the zoo, a subnet of a supernet, a hand-made baseline, an extracted one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from spaceevo.errors import ArtifactError, EncodingError, RecipeError, SpaceEvoError
from spaceevo.graph.graphs import FloatGraph
from spaceevo.graph.nodes import Program
from spaceevo.nets.extracted import FORMAT, SUFFIX, load_extracted
from spaceevo.nets.network import LOGITS_WEIGHT, WEIGHTED, Network, program_of, single_network
from spaceevo.nets.weights import misfits, read_notes, read_safetensors, weight
from spaceevo.settings import Settings
from spaceevo.spaces import zoo
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.handmade import every_mobilenet_v3
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.named import named_space, named_subnet
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.tools.classes import class_names_of
from spaceevo.tools.handout import run_of
from spaceevo.train.batches import Images
from spaceevo.train.evaluation import BATCH_SIZE, RECALIBRATION_BATCHES, calibrated_subnet
from spaceevo.train.ptq import unfold_norms
from spaceevo.train.supernet import make_supernet

ZOO = "zoo"  # spaces of networks that belong to no search space: zoo:NAME, hand-made:HYPERSPACE
HANDMADE = "hand-made"
_COUNT = "num_batches_tracked"


class NetworkSettings(Settings):
    """Which network, and whose weights."""

    weights: str = Field(description="A safetensors file with FP32 weights.")
    network: str = Field("", description="A name of the zoo, or an encoding; empty where the file tells it.")
    space: str = Field("", description="Search space of an encoding; hand-made for a baseline's.")
    resolution: int | None = Field(None, ge=1, description="Input resolution of a network of the zoo.")


@dataclass(frozen=True, eq=False)
class WeightSource:
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
        """Of the file: a network alone, a supernet with it, or an extracted one with batch norm folded."""
        return "extracted" if self.folded else "supernet" if self.supernet else "network"


def weight_source(settings: NetworkSettings) -> WeightSource:
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
            raise RecipeError("An encoding has its resolution in it", remedy="Write it after r; leave `resolution` out")
    elif settings.space or settings.resolution:
        raise RecipeError(
            "A space or a resolution alone names no network", remedy="Give NETWORK, a name of the zoo or an encoding"
        )
    elif not (space and encoding):
        raise ArtifactError(
            f"{path} does not say which network it holds",
            remedy="Give NETWORK: a name of the zoo, or an encoding with `space`",
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = []
    for name, subnet, searched in _architectures(encoding, space, num_classes):
        if folded is not None:
            if program_of(subnet) == folded.nodes:
                return WeightSource(name, subnet, sha256, {}, folded=folded, class_names=class_names)
            problems = ["its operators are others"]
        else:
            problems = _misfits(single_network(program_of(subnet), 127, torch.Generator()), tensors)
            if not problems:
                found.append(WeightSource(name, subnet, sha256, tensors, class_names=class_names))
            elif searched is not None:
                of_supernet = _misfits(make_supernet(searched, 127, 0), tensors)
                problems = min(problems, of_supernet, key=len)
                if not of_supernet:
                    found.append(WeightSource(name, subnet, sha256, tensors, searched, class_names=class_names))
    if not found:
        raise ArtifactError(
            f"{path} holds the weights of another network than {settings.network or encoding}",
            found=problems[0],
            remedy="Give the network that the file was trained as: NETWORK, and `space` for an encoding",
        )
    if len(found) > 1:
        raise EncodingError(
            f"{encoding} is a hand-made network of more than one hyperspace",
            found=", ".join(one.space for one in found),
            remedy="Name one of these with `space`",
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
            raise EncodingError(f"{encoding!r} has no resolution at its end", remedy="Give NETWORK and `resolution`")
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


def float_network(source: WeightSource, program: Program, w_qmax: int, images: Images) -> Network:
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
