"""What a run would take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spaceevo.records.base import Record

Speed = Annotated[float, Field(ge=1, allow_inf_nan=False)]  # MACs per second


Mebibytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rates(Record):
    """How fast a machine and a device do what a run consists of; MACs are those of forward passes.

    Attributes:
        machine: What they are of, for people.
        workers: Jobs at a time; what starts with `job` is of one of them while all are busy.
        gpus: That it has, on one of which the supernet was trained; None where that was not noted.
        supernet_fp32: MACs per second of the supernet's training in FP32, on all of the machine's cores, or on a GPU.
        supernet_int8: The same in its LSQ+ phase.
        teacher: MACs per second of the teacher's forward passes, with keeping its maps.
        job_fp32: MACs per second of a cell's training in FP32.
        job_int8: The same in LSQ+.
        job_score: MACs per second of scoring sub-stages.
        job_evaluate: MACs per second of evaluating INT8 subnets, recalibration included.
        measure_s: Seconds that the device takes per measured network; None where it was not measured.
        memory_mib: Largest resident memory of the process that trained the supernet.
        job_memory_mib: The same of a process that distilled cells.
        waited: How many times as long as they computed the jobs took; far above 1, other work kept the machine busy.
    """

    machine: str
    workers: Annotated[int, Field(ge=1, le=1_000_000)]
    gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    supernet_fp32: Speed
    supernet_int8: Speed
    teacher: Speed
    job_fp32: Speed
    job_int8: Speed
    job_score: Speed
    job_evaluate: Speed
    measure_s: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None
    memory_mib: Mebibytes
    job_memory_mib: Mebibytes
    waited: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def has_gpu(self) -> bool:
        """Whether the supernet was trained on a GPU; unless it was noted, whether no cores are as fast."""
        if self.gpus is None:
            return max(self.supernet_fp32 / self.job_fp32, self.supernet_int8 / self.job_int8) > 3 * self.workers
        return self.gpus > 0


class PlannedStage(Record):
    """What a stage is expected to take.

    Attributes:
        name: Name of the stage.
        seconds: From its start to its end.
        machine_seconds: Seconds that machines work on it, summed over all of them.
        device_seconds: That the device measures; None where its speed is not known.
        disk_mib: That its files take at most.
        computes_on: What most of its time is spent on.
        took_seconds: What it took in a finished run, where one is given.
    """

    name: str
    seconds: float
    machine_seconds: float
    device_seconds: float | None
    disk_mib: float
    computes_on: Literal["CPU", "GPU", "device"] = "CPU"
    took_seconds: float | None = None


class RunPlan(Record):
    """What a run is expected to take.

    Attributes:
        recipe: Name of the recipe.
        machines: How many work together.
        efficiency: Share of `machines` times the speed of one that the supernet's training reaches together.
        rates: Of one machine and of the device.
        stages: In order; those that take less than minutes anywhere are left out.
        binding: Name of the stage that takes longest.
        data_mib: That the decoded images take on the disk beside the stages.
    """

    recipe: str
    machines: int
    efficiency: float
    rates: Rates
    stages: tuple[PlannedStage, ...]
    binding: str
    data_mib: float = 0.0
