"""What stages hand to an engine, and what such jobs have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from spaceevo.measure.campaign import Precision, measure_programs
from spaceevo.measure.session import Plan
from spaceevo.nets.network import program_of
from spaceevo.progress import ProgressCallback
from spaceevo.records import Measurement
from spaceevo.run.context import Context
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.subnet import Subnet


@contextmanager
def one_core() -> Iterator[None]:
    """Compute on one core, which beats one job on all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measured_subnets(
    context: Context, subnets: Sequence[Subnet], precisions: Sequence[Precision], progress: ProgressCallback
) -> list[Measurement]:
    """Measured latency of each subnet in each precision, where the device is.

    Args:
        context: Target and store.
        subnets: All of them are measured in one session where nothing interrupts it.
        precisions: In which each subnet is measured.
        progress: To report to.
    """
    return context.at_device(partial(_measured, tuple(subnets), tuple(precisions)), progress)


def _measured(
    subnets: Sequence[Subnet], precisions: Sequence[Precision], context: Context, progress: ProgressCallback
) -> list[Measurement]:
    jobs = [(encode(subnet), program_of(subnet), precision) for subnet in subnets for precision in precisions]
    with context.store() as store:
        return measure_programs(context.target, jobs, store, context.work_dir, Plan(), progress)
