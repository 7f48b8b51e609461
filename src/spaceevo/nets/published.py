"""Import of the reference implementation's supernet checkpoints (SpaceEvo, ICCV 2023) into ours.

The reference quantizes what each convolution and linear layer reads, each with its own scale and a float offset, and
weights per tensor. Imported networks run with the "published" placement; the offset becomes an integer zero point.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spaceevo.errors import ArtifactError
from spaceevo.nets.fake_quant import ActivationQuantizer
from spaceevo.nets.network import Network, WeightedOperator, program_of
from spaceevo.spaces.operators import NUM_CODES
from spaceevo.spaces.search_space import SearchSpace

_INVERTED_RESIDUAL = {
    "expand": "point_conv1.conv",
    "depthwise": "depth_conv.dwconv",
    "depthwise0": "depth_conv.dwconv.dwconv0",
    "depthwise1": "depth_conv.dwconv.dwconv1",
    "depthwise2": "depth_conv.dwconv.dwconv2",
    "project": "point_conv2.conv",
}
_BOTTLENECK = {"reduce": "conv1.conv", "conv": "conv2.conv", "expand": "conv3.conv"}
_FUSED = {"conv": "fused_conv.conv", "project": "point_conv.conv"}
#: By block type: our layers and the reference's modules; the norm is that module's neighbour.
_MODULES = {
    "conv": {"conv": "conv.conv"},
    "mbv1-dual": {
        "depthwise1": "depth_conv1.dwconv",
        "pointwise1": "point_conv1.conv",
        "depthwise2": "depth_conv2.dwconv",
        "pointwise2": "point_conv2.conv",
    },
    "bottleneck": _BOTTLENECK,
    "bottleneck-se": _BOTTLENECK,
    "fused-mbconv": _FUSED,
    "fused-mbconv-se": _FUSED,
} | dict.fromkeys(("mbv2", "mbv3", "mbv2-k3", "mbv3-k3", "mbv2-identity"), _INVERTED_RESIDUAL)
_EVERYWHERE = {"shortcut": "downsample.conv", "se/reduce": "se.fc.reduce", "se/expand": "se.fc.expand"}
_HEAD = {"final_expand": "conv.conv", "feature_mix": "conv.conv", "logits": "linear"}


@dataclass(frozen=True, slots=True)
class ImportedSupernet:
    """A published supernet as ours, and what the import changed.

    Attributes:
        network: In evaluation mode, with the "published" placement: run `program_of(subnet, "published")`.
        unused: Keys of the checkpoint that no subnet of the space needs.
        shifts: Per quantizer, by how much of a step (at most 0.5) the offset moved to make the zero point an integer;
            empty in FP32 mode.
        num_clamped: Quantizers whose zero point lay outside of [0, 255] and was moved to its end.
        num_lowest_codes: Weights whose code is -128, which the symmetric range of an exported network lacks.
    """

    network: Network
    unused: tuple[str, ...]
    shifts: dict[str, float]
    num_clamped: int
    num_lowest_codes: int


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a published checkpoint: a `.pth` of tensors (read with `weights_only`) or safetensors.

    A state dict may lie under the key "state_dict" or "model", and its keys may start with "module.".

    Raises:
        ArtifactError: Missing, damaged, holding something else than tensors, or not a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} cannot be read as a checkpoint",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="Give a .pth file that holds only tensors, or a .safetensors file",
        ) from error
    if isinstance(state, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(state.get(key), Mapping):
                state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(
            f"{path} holds no state dict",
            found=f"an object of type {type(state).__name__}",
            remedy='Give a state dict, alone or under the key "state_dict" or "model"',
        )
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def num_classes_of(state: Mapping[str, Tensor]) -> int:
    """Classes of a checkpoint's logits.

    Raises:
        ArtifactError: It has no logits.
    """
    return int(_take(state, "stages.logits.blocks.0.linear.bias").numel())


def import_supernet(state: Mapping[str, Tensor], space: SearchSpace, quantized: bool) -> ImportedSupernet:
    """Load a checkpoint in the published key layout into a supernet of ours.

    Args:
        state: Keys such as "stages.stage1.blocks.0.point_conv1.conv.weight".
        space: The search space that it was trained for, of the hyperspace mobilew or onnxw.
        quantized: Whether to run it in LSQ+ mode, with its scales and offsets, or in FP32.

    Raises:
        ArtifactError: A key is missing, or a tensor is smaller than in this space.
    """
    network = Network(space.maximal_operators("published"), NUM_CODES // 2 - 1, torch.Generator())
    kinds = {stage.name: stage.choice.block_type.kind for stage in space.stages}
    used: set[str] = set()
    shifts: dict[str, float] = {}
    num_clamped = num_lowest_codes = 0

    def load(key: str, target: Tensor) -> None:
        used.add(key)
        value = _take(state, key).to(torch.float32)
        # Published supernets keep input channels of widths that the stage before never has.
        channels = tuple(slice(size) for size in target.shape[:2])
        if value[channels].shape != target.shape:
            raise ArtifactError(
                f"{key} of the checkpoint has the shape {list(value.shape)}",
                found=f"{space.encoding} has {list(target.shape)} there",
                remedy="Name the search space that the checkpoint was trained for",
            )
        target.copy_(value[channels])

    with torch.no_grad():
        for name, weighted in network.weighted.items():
            assert isinstance(weighted, WeightedOperator)
            module, norm = _modules(name, kinds)
            if hasattr(weighted, "weight"):
                load(f"{module}.weight", weighted.weight)
                if quantized:
                    used |= {f"{module}.sw", f"{module}.sa", f"{module}.beta"}
                    scale = _take(state, f"{module}.sw").abs().item()
                    weighted.weight_scale.fill_(scale)
                    num_lowest_codes += int(((weighted.weight / scale).round() < -network.w_qmax).sum())
                    quantizer = network.quantizers[f"{name}:input"]
                    assert isinstance(quantizer, ActivationQuantizer)
                    step, beta = (_take(state, f"{module}.{leaf}").item() for leaf in ("sa", "beta"))
                    quantizer.set_learned(abs(step), beta)
                    scale, zero_point = quantizer.quant_params()
                    num_clamped += not -0.5 <= -beta / scale <= NUM_CODES - 0.5
                    shifts[f"{name}:input"] = zero_point + beta / scale
            if hasattr(weighted, "gamma"):
                targets: dict[str, Tensor] = {"weight": weighted.gamma, "bias": weighted.bias}
                targets |= {"running_mean": weighted.running_mean, "running_var": weighted.running_var}
                for leaf, target in targets.items():
                    load(f"{norm}.{leaf}", target)
            elif hasattr(weighted, "bias"):
                load(f"{module}.bias", weighted.bias)
    network.quantized = quantized
    unused = tuple(key for key in state if key not in used and not _is_bookkeeping(key, quantized))
    return ImportedSupernet(network.eval(), unused, shifts, num_clamped, num_lowest_codes)


@torch.no_grad()
def zero_point_effect(imported: ImportedSupernet, space: SearchSpace, x_BCHW: Tensor) -> dict[str, float]:
    """How much the integer zero points change the logits, against the published float offsets.

    Args:
        imported: In LSQ+ mode.
        space: Its search space.
        x_BCHW: Preprocessed images, of any resolution of the space.

    Returns:
        Relative RMS difference of the logits, for the smallest and the largest subnet.
    """
    effects = {}
    for name, subnet in {"smallest": space.smallest(), "largest": space.largest()}.items():
        program = program_of(subnet, "published")
        ours = imported.network(x_BCHW, program)
        with _float_offsets(imported):
            published = imported.network(x_BCHW, program)
        effects[name] = ((ours - published).square().mean() / published.square().mean()).sqrt().item()
    return effects


@contextmanager
def _float_offsets(imported: ImportedSupernet) -> Iterator[None]:
    """Quantizing with a float offset is quantizing the shifted tensor, and shifting back."""
    hooks = []
    for name, shift in imported.shifts.items():
        quantizer = imported.network.quantizers[name]
        assert isinstance(quantizer, ActivationQuantizer)
        offset = shift * quantizer.quant_params()[0]
        hooks.append(quantizer.register_forward_pre_hook(lambda _, inputs, o=offset: (inputs[0] - o,)))
        hooks.append(quantizer.register_forward_hook(lambda _, inputs, output, o=offset: output + o))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _modules(name: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    """The reference's modules that hold the weights and the norm of an operator of ours."""
    name = name.removesuffix(":linear")
    if name.startswith("head/"):
        layer = name.removeprefix("head/")
        module = f"stages.{layer}.blocks.0.{_HEAD[layer]}"
    else:
        stage, index, layer = name.split("/", 2)
        module = f"stages.{stage}.blocks.{index}.{(_MODULES[kinds[stage]] | _EVERYWHERE)[layer]}"
    return module, f"{module.rsplit('.', 1)[0]}.norm"


def _take(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ArtifactError(
            f"The checkpoint has no {key}",
            found=f"{len(state)} other keys, for example {next(iter(state), 'none')!r}",
            remedy="Give a supernet checkpoint in the published key layout, and the search space that it is of",
        )
    return state[key]


def _is_bookkeeping(key: str, quantized: bool) -> bool:
    return bool(re.search(r"\.num_batches_tracked$" if quantized else r"\.(num_batches_tracked|sw|sa|beta)$", key))
