"""Weights and optimizer state on disk, as safetensors: nothing that is loaded can execute code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError
from spaceevo.nets.weights import misfits, read_notes, read_safetensors, weight


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and JSON-serialisable notes to one file."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"spaceevo": json.dumps(notes)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        ArtifactError: The file is missing, truncated or not ours.
    """
    tensors, metadata = read_safetensors(path, "file of weights that spaceevo wrote")
    notes = read_notes(path, metadata)
    if notes is None:
        raise ArtifactError(
            f"{path} is not a whole file of weights that spaceevo wrote",
            found=f"It has no notes of spaceevo; its tensors are {', '.join(list(tensors)[:3]) or 'none'}",
            remedy="Give a file that spaceevo wrote",
        )
    return tensors, notes


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a module as its state, whatever numbers they are: a training that diverges goes back by itself.

    Args:
        module: Takes those of its state; all of them have to be there, in the same shapes.
        tensors: State by name; names that the module does not have are passed over.
        path: Where they are from, for errors.

    Raises:
        ArtifactError: They belong to another architecture.
    """
    state = module.state_dict()
    if problems := misfits(state, tensors):
        raise ArtifactError(
            f"{path} holds the weights of another network",
            found=problems[0],
            remedy="Give the file that belongs to this network; if a run made it, delete it and run the same command "
            "again",
        )
    module.load_state_dict({name: tensors[name] for name in state})


def load_weights(module: nn.Module, path: Path) -> dict[str, Any]:
    """Load a module's state from a file of `save_tensors`.

    Returns:
        The notes.

    Raises:
        ArtifactError: The file is damaged, belongs to another architecture, or holds numbers that are none of a
            network (see `nets.weights.weight`).
    """
    tensors, notes = load_tensors(path)
    state = module.state_dict()
    floats = {name: weight(name, tensors[name], path) for name, own in state.items()
              if name in tensors and own.is_floating_point() and tensors[name].shape == own.shape}  # fmt: skip
    put_weights(module, tensors | floats, path)
    return notes


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, named after the parameters."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"optimizer.{key}.{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(module.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, key, parameter = name.split(".", 2)
            optimizer.state[parameters[parameter]][key] = value
