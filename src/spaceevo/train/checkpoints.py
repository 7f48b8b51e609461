"""Weights and optimizer state on disk, as safetensors: nothing that is loaded can execute code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and JSON-serialisable notes to one file."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"spaceevo": json.dumps(notes)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        ArtifactError: The file is truncated or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["spaceevo"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a whole file of weights that spaceevo wrote",
            found=str(error).splitlines()[0],
            remedy=f"Delete it, or its folder {path.parent}, and run the same command again",
        ) from error


def load_weights(module: nn.Module, path: Path) -> dict[str, Any]:
    """Load a module's state from a file of `save_tensors`.

    Returns:
        The notes.

    Raises:
        ArtifactError: The file is damaged or belongs to another architecture.
    """
    tensors, notes = load_tensors(path)
    try:
        module.load_state_dict({name: tensors[name] for name in module.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} holds the weights of another network",
            found=str(error).strip().splitlines()[0],
            remedy=f"Delete the folder {path.parent} and run the same command again",
        ) from error
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
