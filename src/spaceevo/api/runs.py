"""A run from Python: from a recipe, or from its folder, to its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spaceevo.config import Recipe, load_recipe
from spaceevo.progress import Display
from spaceevo.records import (
    FoundSubnet,
    ModelResult,
    PredictorAssessment,
    SpaceSearchResult,
    Study,
)
from spaceevo.run import run as runner
from spaceevo.settings import parse
from spaceevo.stages import export, predict, report, space, study, subnets
from spaceevo.stages.report import Report
from spaceevo.train.ranks import ALONE, Ranks


class Run(runner.Run):
    """A run: what a recipe asks for, in a folder.

    `until` does the work; the attributes are results of stages that are finished, and raise `ArtifactError` where one
    is not. `run[STAGE]` gives the result of any stage, `STAGE` of its file in `spaceevo.stages`.

    Args:
        recipe: The recipe, its file, or its keys as nested dictionaries.
        place: The run folder, made where absent, or the URL of one in an object store; runs/NAME without it.
        display: Where it tells how it goes, for example `spaceevo.Shown()`; without one, to the logger `spaceevo`.
        ranks: The processes that train the supernet together.

    Raises:
        RecipeError: An unknown key, or a value out of range.
        ArtifactError: The folder is somebody else's.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, object] | Path | str,
        place: Path | str | None = None,
        display: Display | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        match recipe:
            case Path() | str():
                recipe = load_recipe(Path(recipe))
            case Mapping():
                recipe = parse(Recipe, dict(recipe), "The recipe")
        super().__init__(recipe, place or Path("runs") / recipe.name, display, ranks)

    @property
    def study(self) -> Study:
        """What gains from INT8 on the target."""
        return self[study.STAGE]

    @property
    def assessment(self) -> PredictorAssessment:
        """How well the latency predictor does on networks that it has not seen."""
        return self[predict.STAGE].assessment

    @property
    def space(self) -> SpaceSearchResult:
        """The search space that was found, and those about as good."""
        return self[space.STAGE].result

    @property
    def subnets(self) -> tuple[FoundSubnet, ...]:
        """The best subnet under each budget, as found: before it is fine-tuned, exported and measured."""
        return tuple(self[subnets.STAGE].result.found)

    @property
    def models(self) -> tuple[ModelResult, ...]:
        """The exported subnets, measured, in the order of the budgets; their files are relative to `folder`."""
        return self[export.STAGE].models

    @property
    def baselines(self) -> tuple[ModelResult, ...]:
        """The hand-made networks of the same budgets, likewise."""
        return self[export.STAGE].baselines

    @property
    def report(self) -> Report:
        """The whole run: `report.summary` has the numbers, a notebook shows the page."""
        return self[report.STAGE]

    def _repr_html_(self) -> str | None:
        if not self.is_finished(report.STAGE):
            return None
        return self.report._repr_html_()

    def __repr__(self) -> str:
        return f"Run({self.context.recipe.name!r}, {str(self.folder)!r})"
