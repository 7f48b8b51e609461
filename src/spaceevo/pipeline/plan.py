"""What a run would take, before it is run: time of each stage on some machines, device time, disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from spaceevo.config import Recipe
from spaceevo.pipeline import baselines, blocks, export, finetune, predict, space, study, subnets, supernet
from spaceevo.pipeline.work import AGAIN_SHARE, RunWork
from spaceevo.records import PlannedStage, Rates, RunPlan

Place = Literal["CPU", "GPU"]


def plan(recipe: Recipe, work: RunWork, rates: Rates, machines: int, efficiency: float) -> RunPlan:
    """Estimate every stage that can take long.

    Whole networks train where their settings say, on the GPU if there is one; all else is computed by the CPU's cores.

    Args:
        recipe: Its name is noted.
        work: What the recipe asks for.
        rates: Of one machine, and of the device.
        machines: How many; those of the engine share cells, subnets and networks, and `torchrun` the supernet.
        efficiency: Share of `machines` times the speed of one that the supernet reaches, in (0, 1].
    """
    workers = machines * rates.workers
    cells = sorted(
        (cell.fp32 / rates.job_fp32 + cell.int8 / rates.job_int8 + cell.score / rates.job_score for cell in work.cells),
        reverse=True,
    )
    again = cells[: round(AGAIN_SHARE * len(cells))]
    teacher_fp32, _, teacher_on = _whole_machine(rates, recipe.blocks.teacher.device)
    taught, mapped = work.teacher / teacher_fp32, work.maps / rates.teacher
    supernet_fp32, supernet_int8, supernet_on = _whole_machine(rates, recipe.supernet.device)
    network = work.supernet_fp32 / supernet_fp32 + work.supernet_int8 / supernet_int8
    evaluation = work.evaluation / rates.job_evaluate
    places, job_fp32, job_int8, networks_on = _networks(recipe, rates)
    tuned = [macs / job_int8 for macs in work.finetune]
    alone, trials = (
        [fp32 / job_fp32 + int8 / job_int8 for fp32, int8 in jobs] for jobs in (work.baselines, work.trials)
    )
    together = 1.0 if machines == 1 else machines * efficiency
    distilled = makespan(cells, workers) + makespan(again, workers)

    def shared(jobs: list[float]) -> _Computed:
        return _Computed(makespan(jobs, machines * places), sum(jobs) / places, networks_on)

    # What is computed, beside what is measured
    computed = {
        study.NAME: _Computed(0.0, 0.0),
        predict.NAME: _Computed(0.0, 0.0),
        blocks.NAME: _Computed(
            taught + mapped + distilled,
            taught + mapped + (sum(cells) + sum(again)) / rates.workers,
            teacher_on if taught > mapped + distilled else "CPU",
        ),
        **({space.NAME: shared(trials)} if trials else {}),
        supernet.NAME: _Computed(network / together, network * machines / together, supernet_on),
        subnets.NAME: _Computed(
            evaluation * sum(-(-count // workers) for count in work.generations),
            evaluation * sum(work.generations) / rates.workers,
        ),
        finetune.NAME: shared(tuned),
        baselines.NAME: shared(alone),
        export.NAME: _Computed(*(work.export / rates.job_evaluate / rates.workers,) * 2),
    }
    stages = []
    for name, own in computed.items():
        device = 0.0
        if name in work.measured and rates.measure_s is not None:
            device = rates.measure_s * work.measured[name]
        stages.append(
            PlannedStage(
                name=name,
                seconds=own.seconds + device,
                machine_seconds=own.machine_seconds,
                device_seconds=None if name in work.measured and rates.measure_s is None else device,
                disk_mib=work.disk_mib.get(name, 0.0),
                computes_on="device" if device >= own.seconds and name in work.measured else own.on,
            )
        )
    return RunPlan(
        recipe=recipe.name,
        machines=machines,
        efficiency=efficiency,
        rates=rates,
        stages=tuple(stages),
        binding=max(stages, key=lambda stage: stage.seconds).name,
        data_mib=work.data_mib,
    )


class _Computed(NamedTuple):
    """What a stage computes: seconds from start to end, those of all machines together, and where."""

    seconds: float
    machine_seconds: float
    on: Place = "CPU"


def _whole_machine(rates: Rates, device: str) -> tuple[float, float, Place]:
    """MACs per second (FP32, LSQ+) of one training that has a machine to itself, and where it is."""
    if rates.has_gpu and device == "cpu":  # not what was timed: the cores together are about as fast as their jobs
        return rates.workers * rates.job_fp32, rates.workers * rates.job_int8, "CPU"
    return rates.supernet_fp32, rates.supernet_int8, "GPU" if rates.has_gpu else "CPU"


def _networks(recipe: Recipe, rates: Rates) -> tuple[int, float, float, Place]:
    """How many networks a machine trains at a time, MACs per second (FP32, LSQ+) of each, and where.

    The jobs of a machine share its first GPU; only Ray deals out GPUs, and none unless it is asked to.
    """
    wanted = recipe.engine.gpus if recipe.engine.name == "ray" else 1.0
    if recipe.supernet.device == "cpu" or not (rates.has_gpu and wanted):
        return rates.workers, rates.job_fp32, rates.job_int8, "CPU"
    places, share = 1, 1.0
    if recipe.engine.name == "ray":
        places, share = min(rates.workers, max(1, int((rates.gpus or 1) / wanted))), min(1.0, wanted)
    return places, share * rates.supernet_fp32, share * rates.supernet_int8, "GPU"


def beside(planned: RunPlan, run: Path) -> RunPlan:
    """With what the finished stages of a run took.

    Args:
        planned: Plan of the same recipe.
        run: The run folder.
    """
    stages = []
    for stage in planned.stages:
        manifest = run / stage.name / "stage.json"
        took = float(json.loads(manifest.read_text(encoding="utf-8"))["seconds"]) if manifest.exists() else None
        stages.append(stage.model_copy(update={"took_seconds": took}))
    return planned.model_copy(update={"stages": tuple(stages)})


def makespan(seconds: list[float], workers: int) -> float:
    """When the last of some jobs ends, of which each free worker takes the next.

    >>> makespan([3.0, 2.0, 2.0], 2)
    4.0
    """
    free = [0.0] * max(1, min(workers, len(seconds)))
    for own in seconds:
        first = free.index(min(free))
        free[first] += own
    return max(free)
