"""What a run would take, before it is run: time of each stage on some machines, device time, disk."""

from __future__ import annotations

import json
from pathlib import Path

from spaceevo.config import Recipe
from spaceevo.pipeline import blocks, predict, space, study, subnets, supernet
from spaceevo.pipeline.work import AGAIN_SHARE, RunWork
from spaceevo.records import PlannedStage, Rates, RunPlan


def plan(recipe: Recipe, work: RunWork, rates: Rates, machines: int, efficiency: float) -> RunPlan:
    """Estimate every stage that can take long.

    Args:
        recipe: Its name is noted.
        work: Of the recipe.
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
    teacher = work.teacher / rates.supernet_fp32 + work.maps / rates.teacher
    network = work.supernet_fp32 / rates.supernet_fp32 + work.supernet_int8 / rates.supernet_int8
    evaluation = work.evaluation / rates.job_evaluate
    tuned = [macs / rates.job_int8 for macs in work.finetune]
    alone, trials = (
        [fp32 / rates.job_fp32 + int8 / rates.job_int8 for fp32, int8 in jobs] for jobs in (work.baselines, work.trials)
    )
    together = 1.0 if machines == 1 else machines * efficiency
    # (from start to end without measuring, on all machines together), each in seconds of one machine
    computed = {
        study.NAME: (0.0, 0.0),
        predict.NAME: (0.0, 0.0),
        blocks.NAME: (
            teacher + makespan(cells, workers) + makespan(again, workers),
            teacher + (sum(cells) + sum(again)) / rates.workers,
        ),
        **({space.NAME: (makespan(trials, workers), sum(trials) / rates.workers)} if trials else {}),
        supernet.NAME: (network / together, network * machines / together),
        subnets.NAME: (
            evaluation * sum(-(-count // workers) for count in work.generations),
            evaluation * sum(work.generations) / rates.workers,
        ),
        "finetune": (makespan(tuned, workers), sum(tuned) / rates.workers),
        "baselines": (makespan(alone, workers), sum(alone) / rates.workers),
        "export": (work.export / rates.job_evaluate / rates.workers,) * 2,
    }
    stages = []
    for name, (seconds, machine_seconds) in computed.items():
        device = 0.0
        if name in work.measured and rates.measure_s is not None:
            device = rates.measure_s * work.measured[name]
        stages.append(
            PlannedStage(
                name=name,
                seconds=seconds + device,
                machine_seconds=machine_seconds,
                device_seconds=None if name in work.measured and rates.measure_s is None else device,
                disk_mib=work.disk_mib.get(name, 0.0),
            )
        )
    return RunPlan(
        recipe=recipe.name,
        machines=machines,
        efficiency=efficiency,
        rates=rates,
        stages=tuple(stages),
        binding=max(stages, key=lambda stage: stage.seconds).name,
    )


def beside(planned: RunPlan, run: Path) -> RunPlan:
    """With what the finished stages of a run took.

    Args:
        planned: Of the same recipe.
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
    free = [0.0] * workers
    for own in seconds:
        first = free.index(min(free))
        free[first] += own
    return max(free)
