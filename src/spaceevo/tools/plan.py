"""What a run would take, before it is run: time of each stage on some machines, device time, disk."""

from __future__ import annotations

import json
from pathlib import Path

from spaceevo.records import PlannedStage, RunPlan
from spaceevo.run.planning import Planning
from spaceevo.run.stage import LAST, in_order


def plan(planning: Planning) -> RunPlan:
    """Estimate every stage of a whole run that can take long.

    Args:
        planning: The recipe's work, and what does it.
    """
    rates, stages = planning.rates, []
    for stage in in_order(LAST):
        if stage.work is None or (work := stage.work(planning)) is None:
            continue
        computed = work.computed
        is_unknown = work.measured > 0 and rates.measure_s is None
        device = work.measured * (rates.measure_s or 0.0)
        stages.append(
            PlannedStage(
                name=stage.name,
                seconds=computed.seconds + device,
                machine_seconds=computed.machine_seconds,
                device_seconds=None if is_unknown else device,
                disk_mib=work.disk_mib,
                computes_on="device" if work.measured and device >= computed.seconds else computed.on,
            )
        )
    return RunPlan(
        recipe=planning.recipe.name,
        machines=planning.machines,
        efficiency=planning.efficiency,
        rates=rates,
        stages=tuple(stages),
        binding=max(stages, key=lambda stage: stage.seconds).name,
        data_mib=planning.work.data_mib,
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
