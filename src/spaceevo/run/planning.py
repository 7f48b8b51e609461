"""What a run would take, stage by stage: work of a recipe, speeds of a machine, and how jobs share machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spaceevo.config import Recipe
from spaceevo.records import Rates
from spaceevo.run.work import CellMacs, RunWork

Place = Literal["CPU", "GPU"]
#: Cells that are trained a second time, as a share; a guess.
AGAIN_SHARE = 0.1


@dataclass(frozen=True)
class Computed:
    """What is computed, one thing after the other.

    Attributes:
        seconds: From start to end.
        machine_seconds: Of all machines together.
        on: What most of it is spent on.
    """

    seconds: float = 0.0
    machine_seconds: float = 0.0
    on: Place = "CPU"

    def __add__(self, other: Computed) -> Computed:
        longer = self if self.seconds > other.seconds else other
        return Computed(self.seconds + other.seconds, self.machine_seconds + other.machine_seconds, longer.on)


@dataclass(frozen=True)
class StageWork:
    """What a stage is expected to take, beside what the device measures.

    Attributes:
        computed: Training and evaluation.
        measured: Networks that are measured on the device.
        disk_mib: That its files take at most.
    """

    computed: Computed = Computed()
    measured: int = 0
    disk_mib: float = 0.0


@dataclass(frozen=True)
class Planning:
    """A recipe's work on some machines.

    Whole networks train where their settings say, on the GPU if there is one; all else is computed by the CPU's cores.

    Attributes:
        recipe: What is asked for.
        work: That it asks for.
        rates: Of one machine, and of the device.
        machines: How many; those of the engine share cells, subnets and networks, and `torchrun` the supernet.
        efficiency: Share of `machines` times the speed of one that the supernet reaches, in (0, 1].
    """

    recipe: Recipe
    work: RunWork
    rates: Rates
    machines: int = 1
    efficiency: float = 1.0

    def training(self, fp32: float, int8: float, device: str) -> Computed:
        """One training that has a machine to itself, from MACs of both phases.

        Args:
            fp32: MACs of the FP32 phase.
            int8: MACs of the LSQ+ phase.
            device: As in the settings of a training.
        """
        rate_fp32, rate_int8, place = self._whole_machine(device)
        return Computed(*(fp32 / rate_fp32 + int8 / rate_int8,) * 2, place)

    def supernet(self, fp32: float, int8: float) -> Computed:
        """The training of the supernet, which machines share."""
        seconds = self.training(fp32, int8, self.recipe.supernet.device)
        together = 1.0 if self.machines == 1 else self.machines * self.efficiency
        return Computed(seconds.seconds / together, seconds.seconds * self.machines / together, seconds.on)

    def networks(self, jobs: Sequence[tuple[float, float]]) -> Computed:
        """Trainings of networks, each a job: MACs of the FP32 and the LSQ+ phase of each."""
        places, rate_fp32, rate_int8, on = self._places()
        seconds = [fp32 / rate_fp32 + int8 / rate_int8 for fp32, int8 in jobs]
        return Computed(makespan(seconds, self.machines * places), sum(seconds) / places, on)

    def maps(self, macs: float) -> Computed:
        """The teacher's feature maps."""
        return Computed(*(macs / self.rates.teacher,) * 2)

    def cells(self, cells: Sequence[CellMacs]) -> Computed:
        """Block-wise distillation: each cell a job on a core, and the largest of them once more."""
        rates = self.rates
        seconds = sorted(
            (cell.fp32 / rates.job_fp32 + cell.int8 / rates.job_int8 + cell.score / rates.job_score for cell in cells),
            reverse=True,
        )
        again, workers = seconds[: round(AGAIN_SHARE * len(seconds))], self.machines * rates.workers
        return Computed(
            makespan(seconds, workers) + makespan(again, workers), (sum(seconds) + sum(again)) / rates.workers
        )

    def evaluations(self, macs: float, at_a_time: Sequence[int]) -> Computed:
        """Evaluations of so many MACs each on a core, those of a generation side by side."""
        seconds, workers = macs / self.rates.job_evaluate, self.machines * self.rates.workers
        return Computed(
            seconds * sum(-(-count // workers) for count in at_a_time), seconds * sum(at_a_time) / self.rates.workers
        )

    def evaluated(self, macs: float) -> Computed:
        """An evaluation that has all cores of a machine."""
        return Computed(*(macs / self.rates.job_evaluate / self.rates.workers,) * 2)

    def _whole_machine(self, device: str) -> tuple[float, float, Place]:
        """MACs per second (FP32, LSQ+) of one training that has a machine to itself, and where it is."""
        rates = self.rates
        if rates.has_gpu and device == "cpu":  # not what was timed: the cores together are about as fast as their jobs
            return rates.workers * rates.job_fp32, rates.workers * rates.job_int8, "CPU"
        return rates.supernet_fp32, rates.supernet_int8, "GPU" if rates.has_gpu else "CPU"

    def _places(self) -> tuple[int, float, float, Place]:
        """How many networks a machine trains at a time, MACs per second (FP32, LSQ+) of each, and where.

        The jobs of a machine share its first GPU; only Ray deals out GPUs, and none unless it is asked to.
        """
        rates, engine = self.rates, self.recipe.engine
        wanted = engine.gpus if engine.name == "ray" else 1.0
        if self.recipe.supernet.device == "cpu" or not (rates.has_gpu and wanted):
            return rates.workers, rates.job_fp32, rates.job_int8, "CPU"
        places, share = 1, 1.0
        if engine.name == "ray":
            places, share = min(rates.workers, max(1, int((rates.gpus or 1) / wanted))), min(1.0, wanted)
        return places, share * rates.supernet_fp32, share * rates.supernet_int8, "GPU"


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of some jobs ends, of which each free worker takes the next.

    >>> makespan([3.0, 2.0, 2.0], 2)
    4.0
    """
    free = [0.0] * max(1, min(workers, len(seconds)))
    for duration in seconds:
        first = free.index(min(free))
        free[first] += duration
    return max(free)
