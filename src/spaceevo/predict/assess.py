"""Judge a latency predictor on whole networks that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from spaceevo.errors import TargetError
from spaceevo.graph.nodes import Program
from spaceevo.measure.campaign import Precision, measure_programs, reference_ms
from spaceevo.measure.session import Plan, Progress
from spaceevo.measure.store import Store
from spaceevo.predict.fit import PLAN, fit_subnets, random_pairs
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.records import AssessedNetwork, PredictorAssessment, TargetDescription
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet, network_program


def assess(
    predictor: LatencyPredictor,
    hyperspace: Hyperspace,
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    num_unseen: int,
    seed: int,
    progress: Progress,
    *,
    num_classes: int = 10,
    plan: Plan = PLAN,
    precision: Precision = "int8",
) -> PredictorAssessment:
    """Measure random subnets of fresh random spaces, and compare with what is predicted.

    Args:
        predictor: Fitted by `fit` with the same hyperspace, seed and number of classes.
        hyperspace: Where the networks come from.
        target: Where to measure.
        store: Of measurements; what it has is not measured again.
        work_dir: For model files, which are removed.
        num_unseen: How many networks; none of them is one that the predictor was fitted on.
        seed: Draws the networks.
        progress: Called with (steps done, steps).
        num_classes: Of the logits.
        plan: How to measure.
        precision: "int8" or "fp32", as the predictor was fitted.

    Raises:
        TargetError: The target cannot be reached, is too unstable, or there are no unseen networks.
    """
    seen = fit_subnets(hyperspace, predictor.num_fit, seed, num_classes)
    pairs = random_pairs(hyperspace, num_unseen, seed, "assess", num_classes, exclude=seen)
    return assess_networks(predictor, pairs, target, store, work_dir, progress, plan=plan, precision=precision)


def assess_networks(
    predictor: LatencyPredictor,
    pairs: Sequence[tuple[SearchSpace, Subnet]],
    target: TargetDescription,
    store: Store,
    work_dir: Path,
    progress: Progress,
    *,
    plan: Plan = PLAN,
    precision: Precision = "int8",
) -> PredictorAssessment:
    """Measure given networks, each with its space, and compare with what is predicted; see `assess`."""
    programs = [network_program(subnet) for _, subnet in pairs]
    jobs: list[tuple[str, Program, Precision]] = [
        (f"unseen {number}", program, precision) for number, program in enumerate(programs)
    ]
    fitted_beside_ms = reference_ms(store, target)  # measuring can begin a new scale
    measurements = measure_programs(target, jobs, store, work_dir, plan, progress)
    networks = [
        AssessedNetwork(
            encoding=f"{space.encoding} {encode(subnet)}",
            measured_ms=measurement.latency_ms,
            predicted_ms=predictor.program_ms(program),
        )
        for (space, subnet), program, measurement in zip(pairs, programs, measurements, strict=True)
    ]
    found = judge(predictor.num_fit, networks)
    return found.model_copy(update={"reference_ms": fitted_beside_ms})


def judge(num_fit: int, networks: Sequence[AssessedNetwork]) -> PredictorAssessment:
    """The assessment that follows from measured and predicted latencies.

    Raises:
        TargetError: There are no networks.
    """
    if not networks:
        raise TargetError("There are no unseen networks to judge a predictor on")
    measured = np.array([network.measured_ms for network in networks])
    predicted = np.array([network.predicted_ms for network in networks])
    errors = np.abs(predicted / measured - 1)
    return PredictorAssessment(
        num_fit=num_fit,
        num_unseen=len(networks),
        within_10_percent=float((errors <= 0.1).mean()),
        within_5_percent=float((errors <= 0.05).mean()),
        mape=float(errors.mean()),
        spearman=_rank_correlation(measured, predicted),
        networks=tuple(networks),
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None where it is not defined (equal values, or fewer than two)."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)
