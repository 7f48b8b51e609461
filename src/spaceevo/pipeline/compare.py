"""Beside a run: its search space against others, trained with equal effort and searched under equal latency.

    FOLDER/NAME-SEED/    supernet, evaluated and fine-tuned subnets of one space and seed
    FOLDER/comparison.json, comparison.html

Compared are the space that the search found, hand-made spaces, random spaces of the hyperspace, and the hand-made
network of each budget, trained alone. What a space has found is fine-tuned if the recipe asks for it. Latencies are
measured on the target, all in one session where nothing interrupts it; accuracies are those of the fake-quantized
networks, rounded as the target rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from spaceevo.artifacts import write_atomically
from spaceevo.engines import in_order
from spaceevo.errors import RecipeError
from spaceevo.nets.network import Network, program_of
from spaceevo.pipeline import baselines, finetune, predict, space
from spaceevo.pipeline.alone import load_alone, settings_alone, train_alone
from spaceevo.pipeline.any_space import NOTES, load_network, train_and_search
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import measured_subnets, one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.pipeline.subnets import NUM_MEASURED, first_that_holds
from spaceevo.predict.fit import fit_networks, fit_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import ComparedNetwork, ComparedSpace, Comparison, FrontPoint, SpaceKind, read_record
from spaceevo.report.html import render_comparison
from spaceevo.search.pareto import hypervolume, pareto_front
from spaceevo.search.subnet_search import PredictedSubnet, RatedSubnet, best_within
from spaceevo.seeding import python_random
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1

NAME = "compare"
TITLE = "Compare the space with hand-made and random ones"
NEEDS = (predict.NAME, space.NAME)
COMPARISON, PAGE = "comparison.json", "comparison.html"
FILES = (
    *(COMPARISON, PAGE),
    *(f"*-[0-9]*/{name}" for name in ("supernet-*", "subnet[0-9]*", "baseline[0-9]*", NOTES, "tensorboard/*")),
)
# Of the time, for the progress only:
FIT_SHARE, TRAINED_SHARE, CHOSEN_SHARE, MEASURED_SHARE, JUDGED_SHARE = 0.05, 0.8, 0.82, 0.84, 0.92
#: The area under a front is taken up to this many times the largest budget.
REFERENCE_SHARE = 1.1
#: Of each front so many subnets are measured and judged: two networks say little about a curve.
NUM_FRONT = 6


@dataclass(frozen=True)
class _Entry:
    """Something that is compared: a space; or a network of each budget, trained alone."""

    name: str
    kind: SpaceKind
    space: SearchSpace | None = None


@dataclass(frozen=True)
class _Job:
    """What is trained at a time: a space for all budgets, or the network of one."""

    entry: _Entry
    seed: int
    number: int | None

    def __str__(self) -> str:
        return f"{self.entry.name}, seed {self.seed}"


@dataclass(frozen=True)
class _Result:
    """Of a job: what was found for budgets, and the front of a space."""

    found: list[_Found]
    front: list[RatedSubnet]


@dataclass(frozen=True)
class _Found:
    """The candidates of an entry, a seed and a budget, the most accurate first; one where it is trained alone."""

    entry: _Entry
    seed: int
    budget_ms: float
    candidates: tuple[PredictedSubnet, ...]
    folder: Path


def inputs(context: Context) -> dict[str, object]:
    """Data, target, and the settings of training, search and comparison."""
    recipe = context.recipe
    return {
        "data": context.data_hash,
        "target": context.target.model_dump(),
        "supernet": recipe.supernet.model_dump(),
        "subnets": recipe.subnets.model_dump(),
        "finetune": recipe.finetune.model_dump(),
        "compare": recipe.compare.model_dump(),
        "num_front": NUM_FRONT,
        "seed": recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train and search every space with every seed, then measure and judge what was found."""
    settings, budgets = context.recipe.compare, predict.load_budgets(context)
    entries = _entries(context)
    predictor = context.at_device(_predictor, part(progress, 0, FIT_SHARE))
    jobs = [
        _Job(entry, seed, number)
        for seed in settings.seeds
        for entry in entries
        for number in (range(len(budgets)) if entry.space is None else [None])
    ]
    find = partial(_find, context, folder.absolute(), predictor)
    trained = context.engine.map(find, jobs, part(progress, FIT_SHARE, TRAINED_SHARE), needs=context.training)
    results = in_order(trained, len(jobs))
    found = [one for result in results for one in result.found]
    # Nothing trains any more: now the device is quiet.
    subnets = _chosen(context, found, part(progress, TRAINED_SHARE, CHOSEN_SHARE))
    measured = measured_subnets(context, subnets, ("int8", "fp32"), part(progress, CHOSEN_SHARE, MEASURED_SHARE))
    latencies = [one.latency_ms for one in measured]
    judge, chosen = partial(_judge, context), list(zip(found, subnets, strict=True))
    judged = context.engine.map(judge, chosen, part(progress, MEASURED_SHARE, JUDGED_SHARE), needs=context.training)
    networks: dict[tuple[str, int], list[ComparedNetwork]] = {}
    for number, (top1_int8, top1_fp32) in enumerate(in_order(judged, len(chosen))):
        one, subnet = chosen[number]
        networks.setdefault((one.entry.name, one.seed), []).append(
            ComparedNetwork(
                budget_ms=one.budget_ms,
                encoding=encode(subnet),
                macs=subnet.macs,
                int8_ms=latencies[2 * number],
                fp32_ms=latencies[2 * number + 1],
                top1_int8=top1_int8,
                top1_fp32=top1_fp32,
            )
        )
    fronts = _fronts(context, folder.absolute(), jobs, results, part(progress, JUDGED_SHARE, 1))
    reference = REFERENCE_SHARE * budgets[-1], 1 / context.data.num_classes
    comparison = Comparison(
        target=context.target,
        data=context.data.name,
        num_val_images=len(context.data.val_labels),
        budgets_ms=budgets,
        reference_ms=reference[0],
        reference_top1=reference[1],
        seeds=settings.seeds,
        spaces=tuple(_compared(entry, settings.seeds, networks, fronts, reference) for entry in entries),
    )
    paths = [folder / COMPARISON, folder / PAGE]
    write_atomically(paths[0], comparison.model_dump_json(indent=1))
    write_atomically(paths[1], render_comparison(comparison))
    return paths


def _find(
    context: Context, folder: Path, predictor: LatencyPredictor, job: _Job, progress: ProgressCallback
) -> _Result:
    """Train and search a space, or train a network, with a seed."""
    own = _folder(folder, job.entry, job.seed)
    own.mkdir(exist_ok=True)
    budgets, front = predict.load_budgets(context), list[RatedSubnet]()
    with one_core():
        if job.entry.space is None:
            assert job.number is not None
            subnet = baselines.matching_subnets(context, predictor)[job.number]
            train_alone(context, subnet, job.number, own, job.seed, settings_alone(context), progress)
            best = {budgets[job.number]: [PredictedSubnet(subnet, predictor.network_ms(subnet))]}
        else:
            rated = train_and_search(context, job.entry.space, own, job.seed, predictor.network_ms, progress)
            ranked = {budget_ms: best_within(rated, budget_ms) for budget_ms in budgets}
            best = {ms: [PredictedSubnet(one.subnet, one.latency_ms) for one in own] for ms, own in ranked.items()}
            front = _front(ranked[budgets[-1]])
    return_free_memory()
    found = [_Found(job.entry, job.seed, ms, tuple(found[:NUM_MEASURED]), own) for ms, found in best.items() if found]
    return _Result(found, front)


def _front(rated: Sequence[RatedSubnet]) -> list[RatedSubnet]:
    """Subnets that none beats in latency and top-1, from the fastest to the most accurate, at most `NUM_FRONT`."""
    front = pareto_front([(one.latency_ms, one.top1) for one in rated])
    places = np.linspace(0, len(front) - 1, min(NUM_FRONT, len(front))).round().astype(int)
    return [rated[front[place]] for place in places]


def _fronts(
    context: Context, folder: Path, jobs: Sequence[_Job], results: Sequence[_Result], progress: ProgressCallback
) -> dict[tuple[str, int], list[FrontPoint]]:
    """By entry and seed, the fronts measured and judged."""
    both = zip(jobs, results, strict=True)
    fronts = [(job, [one.subnet for one in result.front]) for job, result in both if result.front]
    subnets = [subnet for _, front in fronts for subnet in front]
    measured = iter(measured_subnets(context, subnets, ("int8",), part(progress, 0, 0.5)))
    judge = partial(_inherited, context, folder)
    judged = context.engine.map(judge, fronts, part(progress, 0.5, 1), needs=context.training)
    return {
        (job.entry.name, job.seed): [
            FrontPoint(encoding=encode(subnet), int8_ms=next(measured).latency_ms, top1_int8=top1)
            for subnet, top1 in zip(front, top1s, strict=True)
        ]
        for (job, front), top1s in zip(fronts, in_order(judged, len(fronts)), strict=True)
    }


def _inherited(
    context: Context, folder: Path, front: tuple[_Job, list[Subnet]], progress: ProgressCallback
) -> list[float]:
    """INT8 top-1 on validation images of subnets as the supernet left them."""
    job, subnets = front
    assert job.entry.space is not None
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    network = load_network(context, job.entry.space, _folder(folder, job.entry, job.seed), "int8")
    top1s = []
    with one_core():
        for number, subnet in enumerate(subnets, 1):
            program = program_of(subnet)
            top1s.append(calibrated_top1(network, program, train_images, RECALIBRATION_BATCHES, val_images))
            progress(number, len(subnets))
    return_free_memory()
    return top1s


def _folder(folder: Path, entry: _Entry, seed: int) -> Path:
    return folder / f"{entry.name}-{seed}"


def load(context: Context) -> Comparison:
    """The comparison."""
    return read_record(Comparison, context.path(NAME, COMPARISON))


def _entries(context: Context) -> list[_Entry]:
    settings, hyperspace, num_classes = context.recipe.compare, context.hyperspace, context.data.num_classes
    entries = [_Entry("searched", "searched", space.load_space(context))]
    for name in settings.handmade:
        entries.append(_Entry(name, "hand-made", handmade_space(name).space(SpaceChoice((), ()), num_classes)))
    rng = python_random(context.recipe.seed, NAME, "random spaces")
    for number in range(settings.num_random):
        entries.append(_Entry(f"random{number}", "random", hyperspace.space(hyperspace.sample(rng), num_classes)))
    return [*entries, _Entry("mobilenetv3-alone", "network")]


def handmade_space(name: str) -> Hyperspace:
    """The preset of a hand-made space.

    Raises:
        PluginError: There is no such preset.
        RecipeError: It leaves a choice.
    """
    handmade = load_hyperspace(name)
    if handmade.searched:
        raise RecipeError(
            f"The recipe compares with {name!r} as a hand-made space",
            found="It is a hyperspace, which leaves a choice of spaces",
            remedy="Name presets of one space in compare.handmade, for example mobilenetv3micro",
        )
    return handmade


def _predictor(context: Context, progress: ProgressCallback) -> LatencyPredictor:
    """Fitted on networks of the hyperspace, as for the run, of every hand-made space, and hand-made ones."""
    recipe, num_classes = context.recipe, context.data.num_classes
    subnets = fit_subnets(context.hyperspace, recipe.predict.num_fit, recipe.seed, num_classes)
    for name in recipe.compare.handmade:
        subnets += fit_subnets(load_hyperspace(name), recipe.compare.num_fit, recipe.seed, num_classes)
    subnets += baselines.fit_subnets(context)
    with context.store() as store:
        return fit_networks(subnets, context.target, store, context.work_dir, progress)


def _chosen(context: Context, found: Sequence[_Found], progress: ProgressCallback) -> list[Subnet]:
    """Of each the first candidate whose measured latency holds; all candidates are measured together."""
    measured_subnets(context, [one.subnet for own in found for one in own.candidates], ("int8",), progress)
    return [first_that_holds(context, own.candidates, own.budget_ms).subnet for own in found]


def _judge(context: Context, job: tuple[_Found, Subnet], progress: ProgressCallback) -> tuple[float, float]:
    """INT8 and FP32 top-1 on validation images; what a space has found is fine-tuned first, if the recipe says so."""
    one, subnet = job
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    top1, program = {}, program_of(subnet)
    for precision in ("int8", "fp32"):
        network = _trained(context, one, subnet, precision, progress)
        with one_core():
            top1[precision] = calibrated_top1(network, program, train_images, RECALIBRATION_BATCHES, val_images)
    return top1["int8"], top1["fp32"]


def _trained(context: Context, found: _Found, subnet: Subnet, precision: str, progress: ProgressCallback) -> Network:
    """The network whose weights a subnet is judged with."""
    number = predict.load_budgets(context).index(found.budget_ms)
    if found.entry.space is None:
        return load_alone(context, subnet, number, found.folder, precision)
    network = load_network(context, found.entry.space, found.folder, precision)
    if precision == "fp32" or not finetune.is_wanted(context):
        return network
    program = program_of(subnet)
    finetune.tune_found(context, network, program, number, found.seed, found.folder, progress)
    return finetune.load_tuned(network, program, number, found.folder)


def _compared(
    entry: _Entry,
    seeds: Sequence[int],
    networks: dict[tuple[str, int], list[ComparedNetwork]],
    fronts: dict[tuple[str, int], list[FrontPoint]],
    reference: tuple[float, float],
) -> ComparedSpace:
    runs = [tuple(networks.get((entry.name, seed), ())) for seed in seeds]
    curves = [tuple(fronts.get((entry.name, seed), ())) for seed in seeds]
    both = (chain[ComparedNetwork | FrontPoint](own, curve) for own, curve in zip(runs, curves, strict=True))
    areas = [hypervolume([(one.int8_ms, one.top1_int8) for one in points], reference) for points in both]
    return ComparedSpace(
        name=entry.name,
        kind=entry.kind,
        encoding=entry.space.encoding if entry.space else "",
        networks=tuple(runs),
        fronts=tuple(curves),
        hypervolumes=tuple(areas),
        hypervolume_interval=confidence_interval(areas),
    )


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean (Student's t); None for a single value.

    >>> low, high = confidence_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return None
    half = float(student.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / count**0.5
    return mean - half, mean + half
