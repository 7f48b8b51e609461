"""What a run would take: counted work against what a run did, laws of scaling, the verb."""

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from made_rates import RATES
from spaceevo import plugins
from spaceevo.config import Recipe, load_recipe
from spaceevo.errors import ArtifactError
from spaceevo.records import PlannedStage, Rates, RunPlan
from spaceevo.run.planning import Planning, makespan
from spaceevo.run.run import result_of
from spaceevo.run.stage import LAST, in_order
from spaceevo.run.work import RunWork, cell_macs, work_of
from spaceevo.spaces.encoding import decode
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.tools.plan import plan
from spaceevo.tools.rates import load_rates
from spaceevo.train.teachers import builtin_teacher


def measured_of(recipe: Recipe, work: RunWork) -> dict[str, int]:
    """Networks that every stage measures."""
    stages, planning = in_order(LAST), Planning(recipe, work, RATES)
    return {stage.name: found.measured for stage in stages if stage.work and (found := stage.work(planning))}


@cache
def micro_work():
    return work_of(Recipe(), load_hyperspace("micro"), 1000, 200, 10)


@pytest.fixture
def hyperspace(tiny_plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    yield load_hyperspace("tiny")
    plugins._locations.cache_clear()


def test_what_is_measured_is_what_a_run_measures(tiny, hyperspace):
    from spaceevo.run.context import Context
    from spaceevo.stages import predict
    from spaceevo.stages.baselines import fit_subnets

    context = Context.of_folder(tiny.folder)
    data = context.data
    work = work_of(context.recipe, hyperspace, len(data.train_labels), len(data.val_labels), data.num_classes)
    study = json.loads((tiny.folder / "study" / "study.json").read_text())
    chains = sum(2 * (2 if row["operator"] == "conv1x1" else 1) for row in study["rows"])
    measured = measured_of(context.recipe, work)
    assert measured["study"] == chains
    assert measured["predict"] == 24 + 5
    assert measured["baselines"] == len(set(fit_subnets(context, result_of(context, predict.STAGE))))
    models = json.loads((tiny.folder / "export" / "models.json").read_text())
    assert measured["export"] == 2 * len(models["models"] + models["baselines"])
    evaluated = len((tiny.folder / "subnets" / "evaluated.jsonl").read_text().splitlines())
    assert evaluated <= sum(work.generations) == 2 * (4 + 2 + 1)
    assert len(work.cells) == len(json.loads((tiny.folder / "blocks" / "cells.json").read_text()))


def test_macs_of_a_cell_are_those_of_its_rows(tiny, hyperspace):
    """The expected MACs of scoring against the table's own."""
    import pyarrow.parquet as pq

    table = pq.read_table(tiny.folder / "blocks" / "table.parquet").to_pydict()
    settings = load_recipe(tiny.recipe).blocks
    for index, block in {(s, b) for s, b in zip(table["stage"], table["block"], strict=True)}:
        own = [macs for s, b, macs in zip(table["stage"], table["block"], table["macs"], strict=True)
               if (s, b) == (index, block)]  # fmt: skip
        expected = cell_macs(hyperspace, index, block, settings).score / settings.score_images
        assert sum(own) < expected < 4 * sum(own), "sub-stages, and two projections"


def test_a_subnet_alone_is_less_work_than_three():
    hyperspace, supernet = load_hyperspace("micro"), Recipe().supernet
    found = {}
    for share in (0.0, 0.5):
        own = Recipe(supernet=supernet.model_copy(update={"large_first": share, "subnets": "all"}))
        found[share] = work_of(own, hyperspace, 1000, 200, 10)
    together = found[0.0]
    assert together.supernet_fp32 / supernet.epochs_fp32 == pytest.approx(together.supernet_int8 / supernet.epochs_int8)
    assert found[0.5].supernet_int8 == together.supernet_int8
    assert 0.6 < found[0.5].supernet_fp32 / together.supernet_fp32 < 0.9, "the largest is most of a step"


def test_short_trainings_of_spaces_are_a_share_of_a_supernets():
    hyperspace, recipe = load_hyperspace("micro"), Recipe()
    settings = recipe.space.model_copy(update={"num_tried": 3, "tried_share": 0.25})
    one, other = (
        work_of(own, hyperspace, 1000, 200, 10) for own in (recipe, recipe.model_copy(update={"space": settings}))
    )
    assert one.trials == ()
    of_types, of_widths = 3, 2
    alone = tuple((0.25 * fp32, 0.25 * int8) for fp32, int8 in one.baselines)
    assert other.trials == alone * (of_types + of_widths)
    plans = [plan(Planning(recipe, work, RATES, 1, 1.0)) for work in (one, other)]
    assert [stage.name for stage in plans[1].stages if stage not in plans[0].stages] == ["space"]


def test_work_grows_with_what_is_asked_for():
    hyperspace = load_hyperspace("micro")
    small = Recipe()
    more = small.supernet.model_copy(update={"epochs_fp32": 2 * small.supernet.epochs_fp32, "num_random": 4})
    large = small.model_copy(update={"supernet": more, "budgets_ms": (0.1, 0.2, 0.3)})
    one, other = (work_of(recipe, hyperspace, 1000, 200, 10) for recipe in (small, large))
    assert other.supernet_fp32 > 2 * one.supernet_fp32
    assert one.supernet_int8 < other.supernet_int8 < 2 * one.supernet_int8
    assert sum(other.generations) == 1.5 * sum(one.generations)
    assert measured_of(large, other)["export"] == 1.5 * measured_of(small, one)["export"]
    teacher = small.blocks.model_copy(update={"teacher_network": "timm:resnet18"})
    assert work_of(small.model_copy(update={"blocks": teacher}), hyperspace, 1000, 200, 10).teacher == 0


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=30).map(lambda own: sorted(own, reverse=True)),
    st.integers(1, 9),
)
def test_makespan(seconds, workers):
    found, share = makespan(seconds, workers), sum(seconds) / workers
    assert max(seconds[0], share) <= found * (1 + 1e-9)
    assert found <= (share + (1 - 1 / workers) * seconds[0]) * (1 + 1e-9)  # Graham, 1966


@given(st.integers(2, 100), st.floats(0.5, 1))
def test_more_machines_take_less_time_and_more_machine_time(machines, efficiency):
    recipe, work = Recipe(), micro_work()
    one, many = (plan(Planning(recipe, work, RATES, count, efficiency)) for count in (1, machines))
    for few, more in zip(one.stages, many.stages, strict=True):
        assert more.seconds <= few.seconds + 1e-9
        assert more.machine_seconds >= few.machine_seconds - 1e-9
        assert more.device_seconds == few.device_seconds
    assert many.stages[3].name == "supernet"
    assert many.stages[3].seconds == pytest.approx(one.stages[3].seconds / (machines * efficiency))


def test_twice_as_fast_takes_half_the_time():
    recipe, work = Recipe(), micro_work()
    speeds = [
        name for name, value in RATES if isinstance(value, float) and name not in ("memory_mib", "job_memory_mib")
    ]
    fast = RATES.model_copy(update={name: 2 * getattr(RATES, name) for name in speeds} | {"measure_s": 0.25})
    both = (plan(Planning(recipe, work, rates)).stages for rates in (RATES, fast))
    for slow, quick in zip(*both, strict=True):
        assert quick.seconds == pytest.approx(slow.seconds / 2)


def test_fine_tuning_takes_as_long_as_lsq_of_a_network_alone():
    recipe = Recipe.model_validate({"supernet": {"epochs_int8": 3}, "finetune": {"epochs": 1.5}})
    hyperspace = load_hyperspace("micro")
    work, none = (work_of(one, hyperspace, 5000, 2000, 10) for one in (recipe, Recipe()))
    # Which get these epochs, too: 1.5 of 3 + 1.5
    assert work.finetune == pytest.approx([own_int8 / 3 for _, own_int8 in work.baselines])
    tuned, no_time = (
        next(stage for stage in plan(Planning(recipe, own, RATES, 1, 1)).stages if stage.name == "finetune")
        for own in (work, none)
    )
    assert tuned.seconds > no_time.seconds == 0
    assert tuned.disk_mib > no_time.disk_mib == 0


def test_a_device_that_cannot_be_measured_has_no_time():
    recipe, work = Recipe(), micro_work()
    found = plan(Planning(recipe, work, RATES.model_copy(update={"measure_s": None}), 1, 1))
    unknown = {stage.name for stage in found.stages if stage.device_seconds is None}
    assert unknown == {"study", "predict", "subnets", "baselines", "export"}


def test_the_verb_measures_saves_and_compares(tiny: Any, tmp_path: Any, cli: Any) -> None:
    rates = tmp_path / "rates.json"
    done = cli("plan", tiny.recipe, "--out", tiny.copy(tmp_path / "run"), "--save-rates", rates, "--json")
    assert done.returncode == 0, done.stderr
    found = RunPlan.model_validate_json(done.stdout)
    assert found.rates == Rates.model_validate_json(rates.read_bytes())
    assert found.rates.measure_s
    assert all(stage.took_seconds for stage in found.stages)
    assert found.binding == max(found.stages, key=lambda stage: stage.seconds).name
    again = cli("plan", tiny.recipe, "--out", tmp_path / "none", "--rates", rates, "--machines", 2,
                "--num-train", 10**6, "--num-classes", 10)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "tiny on 2 machines" in again.stdout
    assert " takes longest, on " in again.stdout
    assert "Memory: about" in again.stdout
    assert found.rates.gpus == torch.cuda.device_count()
    assert not (tmp_path / "none").exists(), "nothing is read or written"


def test_what_is_wrong_is_told(tiny: Any, tmp_path: Any, cli: Any) -> None:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"machine": "here"}))
    done = cli("plan", tiny.recipe, "--out", tmp_path / "run", "--rates", path, "--num-train", 100)
    assert done.returncode == 1
    assert "holds no speeds of a machine" in " ".join(done.stderr.split())
    assert "--save-rates" in done.stderr
    assert cli("plan", tiny.recipe, "--num-train", 100).returncode == 2
    words = ("plan", tiny.recipe, "--rates", path, "--num-train")
    for wrong in ((10**30,), (100, "--efficiency", "nan"), (100, "--machines", 10**9), (1,)):
        assert cli(*words, *wrong).returncode == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (speed, value)
            for speed in ("supernet_fp32", "job_evaluate")
            for value in ("NaN", "Infinity", "-1", "0", '"a"')
        ),
        *(("measure_s", value) for value in ("NaN", "Infinity", "0", "-2")),
        *(("workers", value) for value in ("0", "-1", "2.5", "NaN")),
        *(("memory_mib", value) for value in ("NaN", "-1")),
        ("gpus", "-1"),
        ("teacher", None),
        ("of_another_version", "1"),
    ],
)
def test_speeds_that_are_none_are_refused(tmp_path: Path, key: str, value: str | None) -> None:
    content = {name: json.dumps(own) for name, own in RATES.model_dump().items()} | {key: value}
    path = tmp_path / "rates.json"
    path.write_text("{" + ", ".join(f'"{name}": {own}' for name, own in content.items() if own is not None) + "}")
    with pytest.raises(ArtifactError, match=f"holds no speeds of a machine. {key}: "):
        load_rates(path)


def seconds_of(recipe: Recipe, work: RunWork, rates: Rates, machines: int = 1) -> dict[str, PlannedStage]:
    return {stage.name: stage for stage in plan(Planning(recipe, work, rates, machines, 1.0)).stages}


def test_networks_train_on_the_gpu_if_there_is_one() -> None:
    """ImageNet on a GPU a hundred times as fast as all 16 cores: two networks at the supernet's rate, one by one."""
    recipe = Recipe.model_validate(
        {"hyperspace": "onnxw", "data": {"image_size": 224}, "supernet": {"epochs_fp32": 360, "epochs_int8": 50},
         "finetune": {"epochs": 10}, "space": {"num_tried": 2}}
    )  # fmt: skip
    speeds = {"supernet_fp32": 1e13, "supernet_int8": 7e12, "job_fp32": 5e9, "job_int8": 3.5e9, "workers": 16}
    rates = RATES.model_copy(update=speeds | {"measure_s": None})
    work = work_of(recipe, load_hyperspace("onnxw"), 1_281_167, 50_000, 1000)
    # What a subnet within automatic budgets takes, times 85 % of the images, times 360 and 60 epochs, times two
    assert 1.0e18 < sum(fp32 + int8 for fp32, int8 in work.baselines) < 2.2e18
    assert work.data_mib == pytest.approx(1_331_167 * 3 * 224**2 / 2**20)
    found = seconds_of(recipe, work, rates)
    alone = sum(fp32 / 1e13 + int8 / 7e12 for fp32, int8 in work.baselines)
    assert found["baselines"].seconds == pytest.approx(alone)
    assert 30 < alone / 3600 < 70
    assert found["finetune"].seconds == pytest.approx(sum(work.finetune) / 7e12)
    assert found["space"].seconds == pytest.approx(sum(a / 1e13 + b / 7e12 for a, b in work.trials))
    places = {name: stage.computes_on for name, stage in found.items()}
    assert places == {
        "study": "device", "predict": "device", "blocks": "CPU", "space": "GPU", "supernet": "GPU", "subnets": "CPU",
        "finetune": "GPU", "baselines": "GPU", "export": "CPU",
    }  # fmt: skip
    told = seconds_of(recipe, work, rates.model_copy(update={"gpus": 1}))
    assert told == found, "what is not noted follows from the speeds"
    assert seconds_of(recipe, work, rates, 2)["baselines"].seconds == pytest.approx(alone / 2)
    by_jobs = sum(fp32 / 5e9 + int8 / 3.5e9 for fp32, int8 in work.baselines) / 2
    cpu = Recipe.model_validate(recipe.model_dump() | {"supernet": recipe.supernet.model_dump() | {"device": "cpu"}})
    ray = Recipe.model_validate(recipe.model_dump() | {"engine": {"name": "ray"}})
    for own in (cpu, ray):
        on_cpu = seconds_of(own, work, rates)["baselines"]
        assert (on_cpu.seconds, on_cpu.computes_on) == (pytest.approx(by_jobs), "CPU")
    assert seconds_of(cpu, work, rates)["supernet"].seconds == pytest.approx(
        work.supernet_fp32 / (16 * 5e9) + work.supernet_int8 / (16 * 3.5e9)
    )
    assert seconds_of(ray, work, rates)["supernet"] == found["supernet"]
    shared = Recipe.model_validate(recipe.model_dump() | {"engine": {"name": "ray", "gpus": 0.5}})
    assert seconds_of(shared, work, rates)["baselines"].seconds == pytest.approx(alone), "two at half the speed"
    many = rates.model_copy(update={"gpus": 2})
    dealt = Recipe.model_validate(recipe.model_dump() | {"engine": {"name": "ray", "gpus": 1}})
    assert seconds_of(dealt, work, many)["baselines"].seconds == pytest.approx(alone / 2)


def test_no_stage_is_off_by_more_than_twice(tiny: Any, hyperspace: Any) -> None:
    """Every stage's work, counted by hand from what a run has trained and evaluated."""
    from spaceevo.run.context import Context
    from spaceevo.stages import baselines, export, predict, space
    from spaceevo.stages._any_space import trained_subnets
    from spaceevo.train.batches import split

    context = Context.of_folder(tiny.folder)
    recipe, data, own = context.recipe, context.data, result_of(context, space.STAGE).space
    counts = len(data.train_labels), len(data.val_labels), data.num_classes
    work = work_of(recipe, hyperspace, *counts, own)
    images, held_out, _ = split(data, recipe.data.search_share, recipe.seed)

    def half_to_twice(planned: float, counted: float) -> bool:
        return counted / 2 < planned < 2 * counted

    rng = random.Random(0)
    predicted = result_of(context, predict.STAGE)
    sandwich = trained_subnets(context, own, predicted.predictor.network_ms, predicted.budgets_ms, recipe.seed)
    steps = [sum(one.macs for one in sandwich.draw(recipe.supernet.num_random, rng)) for _ in range(50)]
    share = recipe.supernet.large_first
    per_image = share * sandwich.large.macs + (1 - share) * sum(steps) / 50
    assert half_to_twice(work.supernet_fp32, recipe.supernet.epochs_fp32 * len(images) * per_image)
    assert half_to_twice(work.supernet_int8, recipe.supernet.epochs_int8 * len(images) * sum(steps) / 50)
    handmade = result_of(context, baselines.STAGE).subnets
    epochs = recipe.supernet.epochs_fp32, recipe.supernet.epochs_int8 + recipe.finetune.epochs
    counted = sum(epochs) * len(images) * sum(one.macs for one in handmade)
    assert half_to_twice(sum(map(sum, work.baselines)), counted)
    exported = result_of(context, export.STAGE)
    models, others = exported.models, exported.baselines
    found = sum(model.macs for model in models)
    assert half_to_twice(sum(work.finetune), recipe.finetune.epochs * len(images) * found)
    lines = (tiny.folder / "subnets" / "evaluated.jsonl").read_text().splitlines()
    evaluated = sum(decode(json.loads(line)[0], own).macs for line in lines) / len(lines)
    recalibrated, judged = 128 * recipe.subnets.recalibration_batches, recipe.subnets.num_images
    assert half_to_twice(work.evaluation, (recalibrated + min(judged, len(held_out))) * evaluated)
    # Recalibrated in FP32 and INT8; judged fake-quantized, as integers, and by two files that are several times faster
    passes = 2 * min(len(images), 16 * 128) + 3 * len(data.val_labels)
    tuned = min(len(images), 16 * 128) + len(data.val_labels)
    judged_macs = passes * (found + sum(model.macs for model in others)) + tuned * found
    assert half_to_twice(work.export, judged_macs)
    teacher = builtin_teacher(hyperspace, data.num_classes)
    at_each = [replace(teacher, resolution=resolution).macs for resolution in hyperspace.resolutions]
    assert half_to_twice(work.teacher, len(images) * sum(at_each) / len(at_each))
    assert half_to_twice(work.maps, (128 + 16) * sum(at_each))
