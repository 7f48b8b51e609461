"""Stage 2: a latency predictor for the hyperspace, judged on networks it has not seen; the latency budgets."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.pipeline.context import Context
from spaceevo.predict.assess import assess
from spaceevo.predict.fit import fit, random_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import PredictorAssessment, Record, read_record
from spaceevo.spaces.hyperspace import SpaceChoice

NAME = "predict"
TITLE = "Fit the INT8 latency predictor and judge it on unseen networks"
NEEDS: tuple[str, ...] = ()

NUM_RANDOM = 400
#: Where "auto" puts the budgets among random subnets of random spaces.
AUTO_QUANTILES = (0.35, 0.75)


class Budgets(Record):
    """The latency budgets of a run.

    Attributes:
        budgets_ms: Ascending.
        smallest_ms: Predicted latency of the fastest subnet of the hyperspace.
    """

    budgets_ms: tuple[float, ...]
    smallest_ms: float


def inputs(context: Context) -> dict[str, object]:
    """Target, hyperspace and how many networks."""
    recipe = context.recipe
    return {
        "target": context.target.model_dump(),
        "hyperspace": repr(context.hyperspace),
        "predict": recipe.predict.model_dump(),
        "budgets_ms": recipe.budgets_ms,
        "num_classes": context.data.num_classes,
        "seed": recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Measure, fit, assess; then check or choose the budgets."""
    predictor, assessment = context.at_device(_fit, progress)
    files = {
        "predictor.json": predictor.to_json(),
        "assessment.json": assessment.model_dump_json(indent=1),
        "budgets.json": _budgets(context, predictor).model_dump_json(indent=1),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _fit(context: Context, progress: ProgressCallback) -> tuple[LatencyPredictor, PredictorAssessment]:
    recipe, hyperspace = context.recipe, context.hyperspace
    settings, num_classes = recipe.predict, context.data.num_classes
    share = settings.num_fit / (settings.num_fit + settings.num_unseen)
    with context.store() as store:
        predictor = fit(
            hyperspace,
            context.target,
            store,
            context.work_dir,
            settings.num_fit,
            recipe.seed,
            part(progress, 0, share),
            num_classes=num_classes,
        )
        assessment = assess(
            predictor,
            hyperspace,
            context.target,
            store,
            context.work_dir,
            settings.num_unseen,
            recipe.seed,
            part(progress, share, 1),
            num_classes=num_classes,
        )
    return predictor, assessment


def load_predictor(context: Context) -> LatencyPredictor:
    """The fitted predictor."""
    return LatencyPredictor.from_json(context.path(NAME, "predictor.json").read_text(encoding="utf-8"))


def load_assessment(context: Context) -> PredictorAssessment:
    """How good it is."""
    return read_record(PredictorAssessment, context.path(NAME, "assessment.json"))


def load_budgets(context: Context) -> tuple[float, ...]:
    """The latency budgets in ms, ascending."""
    return read_record(Budgets, context.path(NAME, "budgets.json")).budgets_ms


def _budgets(context: Context, predictor: LatencyPredictor) -> Budgets:
    hyperspace, num_classes = context.hyperspace, context.data.num_classes
    no_windows = (0,) * len(hyperspace.searched)
    smallest_ms = min(
        predictor.network_ms(hyperspace.space(SpaceChoice(blocks, no_windows), num_classes).smallest())
        for blocks in product(*(range(len(stage.choices)) for stage in hyperspace.searched))
    )
    budgets = context.recipe.budgets_ms
    if budgets == "auto":
        subnets = random_subnets(hyperspace, NUM_RANDOM, context.recipe.seed, "budgets", num_classes)
        quantiles = np.quantile([predictor.network_ms(subnet) for subnet in subnets], AUTO_QUANTILES)
        budgets = tuple(sorted({float(f"{value:.2g}") for value in quantiles}))
    elif budgets[0] < smallest_ms:
        raise InfeasibleBudgetError(
            f"No subnet of {hyperspace.name} meets the budget of {budgets[0]:g} ms on {context.target.name}",
            found=f"The fastest one is predicted to take {smallest_ms:.3g} ms",
            remedy=f"Choose budgets_ms of at least {_closest_feasible(smallest_ms):g}",
        )
    return Budgets(budgets_ms=budgets, smallest_ms=smallest_ms)


def _closest_feasible(smallest_ms: float) -> float:
    """The latency, rounded up to two digits."""
    step = 10.0 ** (np.floor(np.log10(smallest_ms)) - 1)
    return float(f"{np.ceil(smallest_ms / step) * step:.2g}")
