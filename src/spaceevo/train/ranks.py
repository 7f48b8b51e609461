"""The processes of one training under `torchrun`: which one this is, what it computes, and sums over all of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from spaceevo.errors import TrainingError
from spaceevo.launch import this_launch

_PATIENCE = timedelta(days=30)  # the others wait while the first one does all that is no training
_TIME_TO_MEET = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a training.

    Attributes:
        rank: Number of this one, from 0; the first one alone writes files and shows progress.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the processes, the same bits in all of them.

        Raises:
            TrainingError: Another process is gone; likewise in what follows.
        """
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        for tensor, own in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(own.view_as(tensor))

    def agree(self, value: bool) -> bool:
        """What the first process says; all must ask."""
        if self.count == 1:
            return value
        told = torch.tensor(float(value), device="cpu")
        with _together():
            dist.broadcast(told, 0)
        return bool(told)


ALONE = Ranks()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of which torch.distributed's own errors are
        raise TrainingError(
            "Another process of the training is gone",
            found=str(error).strip().splitlines()[0],
            remedy="Start it again, with as many processes as you like: it goes on from its last checkpoint",
        ) from error


@dataclass(frozen=True, slots=True)
class Share:
    """What a process computes of every batch.

    A batch is computed in parts, one after the other or in different processes. Batch norm sees a part at a time, so
    N processes compute what one process does in N times as many parts.

    Attributes:
        rows: Which of the batch this process trains on.
        sizes: Images of each part.
        batch_size: Images of the batch, over all processes.
    """

    rows: slice
    sizes: tuple[int, ...]
    batch_size: int


def share_of(batch_size: int, accumulation: int, ranks: Ranks = ALONE) -> Share:
    """The share of a process.

    Args:
        batch_size: Images per step, over all processes.
        accumulation: Parts per process; fewer where a part would have a single image, which batch norm cannot use.
        ranks: Processes that share the batch.

    Raises:
        TrainingError: There are too few images for so many processes.

    >>> share_of(32, 2, Ranks(1, 2))
    Share(rows=slice(16, 32, None), sizes=(8, 8), batch_size=32)
    """
    num_parts = min(accumulation * ranks.count, max(1, batch_size // 2))
    if num_parts < ranks.count:
        raise TrainingError(
            f"A batch of {batch_size} images cannot be shared by {ranks.count} processes",
            found="Each of them needs two images",
            remedy="Raise batch_size in the recipe, or start fewer processes",
        )
    sizes = [len(part) for part in np.array_split(np.arange(batch_size), num_parts)]
    own = np.array_split(np.arange(num_parts), ranks.count)[ranks.rank]
    start = sum(sizes[: own[0]])
    mine = tuple(sizes[part] for part in own)
    return Share(slice(start, start + sum(mine)), mine, batch_size)


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that `torchrun`, or a cluster, started this one with; it alone where none did.

    Raises:
        TrainingError: The environment contradicts itself, or the processes do not meet.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    launch = this_launch()
    if launch.count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        _take_gpu(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Imported while there is a group, its functions keep that group for ever as a default argument, and gloo's threads,
    # which may then end the process at its exit (findings/default-group-kept.sh)
    importlib.import_module("torch.distributed.nn.functional")
    try:
        store, rank, count = next(rendezvous("env://", timeout=_TIME_TO_MEET))
        store.set_timeout(_PATIENCE)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
    except (OSError, RuntimeError, ValueError) as error:  # of which torch.distributed's own errors are
        raise TrainingError(
            f"The {launch.count} processes of the training do not meet at {launch.address}",
            found=str(error).strip().splitlines()[0],
            remedy="Start all of them, with the MASTER_ADDR and MASTER_PORT of the first one, as torchrun does",
        ) from error
    try:
        yield Ranks(rank, count)
    finally:
        dist.destroy_process_group()


def _take_gpu(number: int) -> None:
    if not 0 <= number < torch.cuda.device_count():
        raise TrainingError(
            f"This machine has no GPU for the process with LOCAL_RANK={number}",
            found=f"It has {torch.cuda.device_count()}",
            remedy="Start as many processes on a machine as it has GPUs",
        )
    torch.cuda.set_device(number)
