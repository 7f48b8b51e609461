from spaceevo.api.models import Model as Model, Predictions as Predictions, load_model as load_model
from spaceevo.api.networks import (
    Exports as Exports,
    QuantizedFiles as QuantizedFiles,
    Verified as Verified,
    export as export,
    quantize as quantize,
    verify as verify,
)
from spaceevo.api.runs import Run as Run
from spaceevo.api.spaces import (
    FoundSpaces as FoundSpaces,
    SpaceScores as SpaceScores,
    TargetTable as TargetTable,
    score_spaces as score_spaces,
    search_spaces as search_spaces,
)
from spaceevo.api.targets import PredictedLatencies as PredictedLatencies, Target as Target
from spaceevo.config import Recipe as Recipe, load_recipe as load_recipe
from spaceevo.errors import SpaceEvoError as SpaceEvoError
from spaceevo.progress import Shown as Shown
from spaceevo.spaces.hyperspace import load_hyperspace as load_hyperspace
from spaceevo.spaces.subnet import Subnet as Subnet
from spaceevo.spaces.zoo import zoo as zoo
from spaceevo.tools.first_recipe import recipe_for as recipe_for

__version__: str
