"""Fit the INT8 latency predictor and judge it on unseen networks.

Then the latency budgets are checked, or chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.graph.identity import identity
from spaceevo.predict.assess import assess
from spaceevo.predict.extremes import fastest, slowest
from spaceevo.predict.fit import fit, random_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import PredictorAssessment, Record, read_record
from spaceevo.run.context import Context
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Given, Stage
from spaceevo.search.budgets import AUTO_QUANTILES, rounded_up

NUM_RANDOM = 400
PREDICTOR, ASSESSMENT, BUDGETS = "predictor.json", "assessment.json", "budgets.json"


class Budgets(Record):
    """The latency budgets of a run.

    Attributes:
        budgets_ms: Latency budgets, ascending.
        smallest_ms: Predicted latency of the fastest subnet of the hyperspace.
        largest_ms: The same of the slowest; only where a budget is no lower, and so binds nothing.
        repeated_ms: Further budgets of the recipe, whose search would be that of one of these.
    """

    budgets_ms: tuple[float, ...]
    smallest_ms: float
    largest_ms: float | None = None
    repeated_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Predicted:
    """What latencies follow from.

    Attributes:
        predictor: Of subnets of the hyperspace.
        assessment: How good it is.
        budgets: The latency budgets.
    """

    predictor: LatencyPredictor
    assessment: PredictorAssessment
    budgets: Budgets

    @property
    def budgets_ms(self) -> tuple[float, ...]:
        """The latency budgets in ms, ascending."""
        return self.budgets.budgets_ms


class _Files:
    def save(self, value: Predicted, folder: Path) -> list[Path]:
        contents = {
            PREDICTOR: value.predictor.to_json(),
            ASSESSMENT: value.assessment.model_dump_json(indent=1),
            BUDGETS: value.budgets.model_dump_json(indent=1, exclude_defaults=True),
        }
        for name, content in contents.items():
            write_atomically(folder / name, content)
        return [folder / name for name in contents]

    def load(self, folder: Path, context: Context, given: Given) -> Predicted:
        return Predicted(
            LatencyPredictor.from_json((folder / PREDICTOR).read_text(encoding="utf-8")),
            read_record(PredictorAssessment, folder / ASSESSMENT),
            read_record(Budgets, folder / BUDGETS),
        )


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Target, hyperspace and how many networks."""
    recipe = context.recipe
    return {
        "target": context.target.model_dump(),
        "hyperspace": identity(context.hyperspace),
        "predict": recipe.predict.model_dump(),
        "budgets_ms": recipe.budgets_ms,
        "num_classes": context.data.num_classes,
        "seed": recipe.seed,
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> Predicted:
    """Measure, fit, assess; then check or choose the budgets."""
    predictor, assessment = context.at_device(_fit, progress)
    return Predicted(predictor, assessment, _budgets(context, predictor))


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


def _notes(context: Context, given: Given) -> list[str]:
    """What people should know of the budgets: which bind nothing, which are not searched."""
    found = given[STAGE].budgets
    sentences = []
    if found.largest_ms is not None:
        sentences.append(
            f"A budget of {found.budgets_ms[-1]:g} ms binds nothing: the networks of {context.hyperspace.name} are "
            f"predicted to take {found.smallest_ms:.3g} to {found.largest_ms:.3g} ms. Choose budgets in between."
        )
    if found.repeated_ms:
        words = " and ".join(f"{budget:g}" for budget in found.repeated_ms)
        both = "is not searched: it" if len(found.repeated_ms) == 1 else "are not searched: they"
        sentences.append(f"{words} ms {both} would find the same.")
    return sentences


def _budgets(context: Context, predictor: LatencyPredictor) -> Budgets:
    hyperspace, num_classes = context.hyperspace, context.data.num_classes
    smallest_ms = fastest(predictor, hyperspace, num_classes).latency_ms
    wanted = context.recipe.budgets_ms
    if wanted == "auto":
        subnets = random_subnets(hyperspace, NUM_RANDOM, context.recipe.seed, "budgets", num_classes)
        quantiles = np.quantile([predictor.network_ms(subnet) for subnet in subnets], AUTO_QUANTILES)
        wanted = tuple(sorted({float(f"{value:.2g}") for value in quantiles}))
    elif wanted[0] < smallest_ms:
        raise InfeasibleBudgetError(
            f"No subnet of {hyperspace.name} meets the budget of {wanted[0]:g} ms on {context.target.name}",
            found=f"The fastest one is predicted to take {smallest_ms:.3g} ms",
            remedy=f"Choose budgets_ms of at least {rounded_up(smallest_ms, 2):g}",
        )
    largest_ms = slowest(predictor, hyperspace, num_classes).latency_ms
    budgets = [wanted[0]]
    for budget in wanted[1:]:
        # Above one that binds nothing all find the same; and files are named by the digits that are written
        if budgets[-1] < largest_ms and f"{budget:g}" != f"{budgets[-1]:g}":
            budgets.append(budget)
    return Budgets(
        budgets_ms=tuple(budgets),
        smallest_ms=smallest_ms,
        largest_ms=largest_ms if budgets[-1] >= largest_ms else None,
        repeated_ms=tuple(budget for budget in wanted if budget not in budgets),
    )


def _work(planning: Planning) -> StageWork:
    settings = planning.recipe.predict
    return StageWork(measured=settings.num_fit + settings.num_unseen)


STAGE: Stage[Predicted] = Stage(
    name="predict",
    title="Fit the INT8 latency predictor and judge it on unseen networks",
    needs=(),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(PREDICTOR, ASSESSMENT, BUDGETS),
    notes=_notes,
    work=_work,
)
