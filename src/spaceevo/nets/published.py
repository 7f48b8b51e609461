"""Import of the reference implementation's supernet checkpoints (SpaceEvo, ICCV 2023) into ours.

The reference quantizes what each convolution and linear layer reads, each with its own scale and a float offset, and
weights per tensor. Imported networks run with the "published" placement; the offset becomes an integer zero point.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spaceevo.errors import ArtifactError
from spaceevo.graph.nodes import HEAD, Role
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.nets.fake_quant import ActivationQuantizer
from spaceevo.nets.network import Network, present, program_of
from spaceevo.nets.weights import check_plain, is_safetensors, read_safetensors, read_torch, weight
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet

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
#: What torch.compile, FSDP and checkpointing put into keys; all else that wraps a module puts its name before them.
_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_WRAPPERS = re.compile(r"^([^.]+\.)*?(?=stages\.)")
_LOGITS_BIAS = "stages.logits.blocks.0.linear.bias"
_NEVER_SET = (1.0, 1.0, 0.0)
_WHERE = "the checkpoint"
_DEEPEST = 3  # levels of dictionaries around a state dict
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
    """Read a published checkpoint: safetensors, or a file of `torch.save` that holds nothing but tensors.

    The state dict may lie deeper, beside numbers and an optimizer's state, and its keys may start with the names of
    what wrapped the network, such as "module." and "_orig_mod.".

    Raises:
        ArtifactError: Missing, damaged, holding something else than tensors, or not one state dict.
    """
    loaded = read_safetensors(path)[0] if is_safetensors(path) else read_torch(path)
    found = list(_state_dicts(loaded, ()))
    if not found:
        about = f"an object of type {type(loaded).__name__}"
        if isinstance(loaded, Mapping):
            about += f" with the keys {', '.join(map(str, list(loaded)[:5])) or 'none'}"
        raise ArtifactError(
            f"{path} holds no state dict",
            found=about,
            remedy='Give a state dict, alone or under a key such as "state_dict" or "model"',
        )
    if len(found) > 1:
        places = ["".join(f"[{key!r}]" for key in keys) for keys, _ in found]
        raise ArtifactError(
            f"{path} holds several state dicts",
            found=", ".join(places),
            remedy=f"Choose one and save it alone: torch.save(torch.load(FILE){places[0]}, 'one.pth')",
        )
    state: dict[str, Tensor] = {}
    for key, value in found[0][1].items():
        plain = _WRAPPERS.sub("", _INSERTED.sub("", key))
        if plain in state:
            raise ArtifactError(
                f"{path} holds two networks",
                found=f"{plain} is there twice, once as {key}",
                remedy="Save the state dict of one of them alone",
            )
        state[plain] = value
    return state


def _state_dicts(value: object, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """(where it lies, tensors) of every state dict in an object: those that are the object's own, or lie deeper."""
    if not isinstance(value, Mapping):
        return
    tensors = {str(key): one for key, one in value.items() if isinstance(one, Tensor)}
    deeper = [
        found
        for key, one in value.items()
        if len(keys) < _DEEPEST and isinstance(key, str)
        for found in _state_dicts(one, (*keys, key))
    ]
    yield from deeper
    # A random state or a loss is a tensor, too, but no weight
    is_whole = not keys and len(tensors) == len(value)
    if not deeper and tensors and (is_whole or any(one.dim() > 1 for one in tensors.values())):
        yield keys, tensors


def num_classes_of(state: Mapping[str, Tensor]) -> int:
    """Classes of a checkpoint's logits.

    Raises:
        ArtifactError: It has no logits, or none of any class.
    """
    bias = _take(state, _LOGITS_BIAS)
    if bias.dim() != 1 or not len(bias):
        raise ArtifactError(
            f"{_LOGITS_BIAS} of the checkpoint has the shape {list(bias.shape)}",
            found="It should hold one number per class",
            remedy="Give a supernet checkpoint in the published key layout",
        )
    return len(bias)


def import_supernet(state: Mapping[str, Tensor], space: SearchSpace, quantized: bool) -> ImportedSupernet:
    """Load a checkpoint in the published key layout into a supernet of ours.

    Args:
        state: Keys such as "stages.stage1.blocks.0.point_conv1.conv.weight".
        space: The search space that it was trained for, of the hyperspace mobilew or onnxw.
        quantized: Whether to run it in LSQ+ mode, with its scales and offsets, or in FP32.

    Raises:
        ArtifactError: A key is missing, a tensor is smaller than in this space, or numbers are none that a network can
            have: not finite, a negative variance, a scale that is not positive or was never set.
    """
    network = Network(space.largest_nodes("published"), NUM_CODES // 2 - 1, torch.Generator())
    kinds = {stage.name: stage.choice.block_type.kind for stage in space.stages}
    if unknown := sorted(set(kinds.values()) - _MODULES.keys()):
        raise ArtifactError(
            f"The search space {space.encoding} is none that a checkpoint was published for",
            found=f"The published key layout has no block type {', '.join(unknown)}",
            remedy="Name a search space of mobilew, onnxw or micro",
        )
    used: set[str] = set()
    shifts: dict[str, float] = {}
    num_clamped = num_lowest_codes = 0

    def load(key: str, target: Tensor) -> None:
        used.add(key)
        value = _take(state, key)
        check_plain(key, value, _WHERE)
        # Published supernets keep input channels of widths that the stage before never has.
        part = value[tuple(slice(size) for size in target.shape[: min(2, value.dim())])]
        if part.shape != target.shape:
            raise ArtifactError(
                f"{key} of the checkpoint has the shape {list(value.shape)}",
                found=f"{space.encoding} has {list(target.shape)} there",
                remedy="Name the search space that the checkpoint was trained for",
            )
        target.copy_(weight(key, part, _WHERE))

    def number(key: str) -> float:
        used.add(key)
        value = _take(state, key)
        if value.numel() != 1:
            raise ArtifactError(
                f"{key} of the checkpoint has the shape {list(value.shape)}",
                found="Published quantizers have one scale and one offset for a whole tensor, not one per channel",
                remedy="Import the weights without the quantization parameters, with `fp32`, and quantize them anew",
            )
        return weight(key, value, _WHERE).item()

    def scale_of(key: str) -> float:
        value = number(key)
        if not value >= torch.finfo(torch.float32).tiny:
            raise ArtifactError(
                f"{key} of the checkpoint is no scale",
                found=f"It is {value:g}; a scale is positive, and at least {torch.finfo(torch.float32).tiny:.3g}",
                remedy="Give a checkpoint of a training that went well, or leave its quantization parameters out with "
                "`fp32`",
            )
        return value

    with torch.no_grad():
        for weighted in network.weighted_operators():
            module, norm = _modules(weighted.node.role, kinds)
            if weighted.weight is not None:
                load(f"{module}.weight", weighted.weight)
                if quantized:
                    scale, step, beta = scale_of(f"{module}.sw"), scale_of(f"{module}.sa"), number(f"{module}.beta")
                    if (scale, step, beta) == _NEVER_SET:
                        raise ArtifactError(
                            f"The quantization parameters of {module} were never set",
                            found="Its scales are 1 and its offset is 0, as before any LSQ+ training",
                            remedy="Import the weights alone, with `fp32`",
                        )
                    present(weighted.weight_scale).fill_(scale)
                    num_lowest_codes += int(((weighted.weight / scale).round() < -network.w_qmax).sum())
                    name = f"{weighted.node.id}:input"
                    quantizer = network.quantizers[name]
                    assert isinstance(quantizer, ActivationQuantizer)
                    quantizer.set_learned(step, beta)
                    scale, zero_point = quantizer.quant_params()
                    num_clamped += not -0.5 <= -beta / scale <= NUM_CODES - 0.5
                    shifts[name] = zero_point + beta / scale
            if weighted.gamma is not None:
                targets = {
                    "weight": weighted.gamma,
                    "bias": present(weighted.bias),
                    "running_mean": present(weighted.running_mean),
                    "running_var": present(weighted.running_var),
                }
                for leaf, target in targets.items():
                    load(f"{norm}.{leaf}", target)
            elif weighted.bias is not None:
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

    Raises:
        ArtifactError: Logits that are not finite numbers, or all 0.
    """
    effects = {}
    for name, subnet in {"smallest": space.smallest(), "largest": space.largest()}.items():
        ours = logits_of(imported, subnet, x_BCHW)
        with _float_offsets(imported):
            published = logits_of(imported, subnet, x_BCHW)
        effects[name] = ((ours - published).square().mean() / published.square().mean()).sqrt().item()
    return effects


@torch.no_grad()
def logits_of(imported: ImportedSupernet, subnet: Subnet, x_BCHW: Tensor) -> Tensor:
    """Logits of a subnet.

    Args:
        imported: The supernet.
        subnet: Of its space.
        x_BCHW: Preprocessed images, of any resolution of the space.

    Raises:
        ArtifactError: They are not finite numbers, or all 0.
    """
    logits: Tensor = imported.network(x_BCHW, program_of(subnet, "published"))
    is_finite = bool(torch.isfinite(logits).all())
    if not is_finite or not logits.any():
        raise ArtifactError(
            "The network in the checkpoint computes nothing",
            found="Its logits of random images are "
            + ("all 0" if torch.isfinite(logits).all() else "no finite numbers"),
            remedy="Give a checkpoint of a training that went well, and the search space that it is of",
        )
    return logits


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


def _modules(role: Role, kinds: Mapping[str, str]) -> tuple[str, str]:
    """The reference's modules that hold the weights and the norm of a layer of ours."""
    if role.stage == HEAD:
        module = f"stages.{role.layer}.blocks.0.{_HEAD[role.layer]}"
    else:
        module = f"stages.{role.stage}.blocks.{role.block}.{(_MODULES[kinds[role.stage]] | _EVERYWHERE)[role.layer]}"
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
