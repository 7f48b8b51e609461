"""Fit a latency predictor on networks that are measured whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from spaceevo import seeding
from spaceevo.errors import TargetError
from spaceevo.graph.nodes import Node, Program
from spaceevo.measure.campaign import Precision, measure_programs
from spaceevo.measure.session import Plan, Progress
from spaceevo.measure.store import Store
from spaceevo.predict.predictor import LatencyPredictor, work_of
from spaceevo.predict.regression import Settings, choose_settings
from spaceevo.records import TargetDescription
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet, network_program

PLAN = Plan()
_CORNER_EVERY = 6


def fit(
    hyperspace: Hyperspace,
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    num_fit: int,
    seed: int,
    progress: Progress,
    *,
    num_classes: int = 10,
    plan: Plan = PLAN,
    precision: Precision = "int8",
) -> LatencyPredictor:
    """Measure random subnets of random spaces and fit a predictor on their latencies.

    Whole networks are measured, because operators of a few microseconds cannot be measured in context: with
    the profiler on, micro networks took 1.1 to 5.5 times as long.

    Args:
        hyperspace: Whose subnets are to be predicted.
        target: Where to measure.
        store: Of measurements; what it has is not measured again.
        work_dir: For model files, which are removed.
        num_fit: How many networks; at least two for every block type are taken.
        seed: Draws the networks.
        progress: Called with (steps done, steps).
        num_classes: Of the logits.
        plan: How to measure.
        precision: "int8" or "fp32".

    Raises:
        TargetError: The target cannot be reached, or is too unstable.
    """
    subnets = fit_subnets(hyperspace, num_fit, seed, num_classes)
    return fit_networks(subnets, target, store, work_dir, progress, plan=plan, precision=precision)


def fit_networks(
    subnets: Sequence[Subnet],
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    progress: Progress,
    *,
    plan: Plan = PLAN,
    precision: Precision = "int8",
) -> LatencyPredictor:
    """Measure given networks and fit a predictor on their latencies; see `fit`."""
    programs = [network_program(subnet) for subnet in subnets]
    jobs: list[tuple[str, Program, Precision]] = [
        (f"fit {number}", program, precision) for number, program in enumerate(programs)
    ]
    measurements = measure_programs(target, jobs, store, work_dir, plan, progress)
    return fit_measured(target, programs, [measurement.latency_ms for measurement in measurements])


def fit_subnets(hyperspace: Hyperspace, num_fit: int, seed: int, num_classes: int) -> list[Subnet]:
    """The distinct networks that a predictor is fitted on.

    The first are the smallest and the largest one of a space of each block type, so that every kind of
    operator is there; of the others, one in six is the smallest or largest of a random space, and the rest is
    random.
    """
    rng = seeding.python_random(seed, "fit")
    corners: list[Subnet] = []
    for block in range(max(len(stage.choices) for stage in hyperspace.stages)):
        windows = hyperspace.sample(rng).windows
        blocks = tuple(min(block, len(stage.choices) - 1) for stage in hyperspace.searched)
        space = hyperspace.space(SpaceChoice(blocks, windows), num_classes)
        corners += [space.smallest(), space.largest()]
    num_random = max(0, num_fit - len(corners))
    num_more = num_random // _CORNER_EVERY
    spaces = [hyperspace.space(hyperspace.sample(rng), num_classes) for _ in range(num_more)]
    corners += [space.largest() if number % 2 else space.smallest() for number, space in enumerate(spaces)]
    corners = list(dict.fromkeys(corners))
    count = max(num_fit, len(corners)) - len(corners)
    return corners + random_subnets(hyperspace, count, seed, "fit", num_classes, exclude=corners)


def random_subnets(
    hyperspace: Hyperspace,
    count: int,
    seed: int,
    purpose: str,
    num_classes: int,
    exclude: Collection[Subnet] = (),
) -> list[Subnet]:
    """Distinct random subnets of random spaces, none of them in `exclude`; fewer where there are no more."""
    return [subnet for _, subnet in random_pairs(hyperspace, count, seed, purpose, num_classes, exclude)]


def random_pairs(
    hyperspace: Hyperspace,
    count: int,
    seed: int,
    purpose: str,
    num_classes: int,
    exclude: Collection[Subnet] = (),
) -> list[tuple[SearchSpace, Subnet]]:
    """As `random_subnets`, each with its space."""
    rng = seeding.python_random(seed, purpose, "random subnets")
    seen = set(exclude)
    drawn: list[tuple[SearchSpace, Subnet]] = []
    for _ in range(20 * count):  # bounded: a small hyperspace may have no more
        if len(drawn) == count:
            break
        space = hyperspace.space(hyperspace.sample(rng), num_classes)
        subnet = space.sample(rng)
        if subnet not in seen:
            seen.add(subnet)
            drawn.append((space, subnet))
    return drawn


def fit_measured(
    target: TargetDescription,
    programs: Sequence[Sequence[Node]],
    latencies_ms: Sequence[float],
    *,
    settings: Settings | None = None,
    use_blocks: bool = False,
) -> LatencyPredictor:
    """Fit a predictor to measured programs (`regression.py`).

    Args:
        target: Where they were measured.
        programs: Of whole networks or of stages.
        latencies_ms: Of each, positive.
        settings: Of the regression; None chooses those under which the measurements are likeliest.
        use_blocks: Whether a block may have an error of its own, beside its kernels'; the latencies are then
            taken for sums of blocks with hardly any noise.

    Raises:
        TargetError: There is nothing to fit on, or a latency is not positive.
    """
    latencies = np.asarray(latencies_ms, np.float64)
    if len(programs) == 0 or not ((latencies > 0) & np.isfinite(latencies)).all():
        raise TargetError(
            "A latency predictor needs measured networks with positive latencies",
            found=f"{len(programs)} networks, fastest {latencies.min(initial=np.inf):g} ms",
        )
    work = work_of(programs, latencies)
    return LatencyPredictor(target, work, settings or choose_settings(work, use_blocks=use_blocks))
