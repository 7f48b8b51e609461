from spaceevo.api.models import Model as Model
from spaceevo.api.models import Predictions as Predictions
from spaceevo.api.models import load_model as load_model
from spaceevo.api.networks import Exports as Exports
from spaceevo.api.networks import QuantizedFiles as QuantizedFiles
from spaceevo.api.networks import Verified as Verified
from spaceevo.api.networks import export as export
from spaceevo.api.networks import quantize as quantize
from spaceevo.api.networks import verify as verify
from spaceevo.api.runs import Run as Run
from spaceevo.api.spaces import FoundSpaces as FoundSpaces
from spaceevo.api.spaces import SpaceScores as SpaceScores
from spaceevo.api.spaces import TargetTable as TargetTable
from spaceevo.api.spaces import score_spaces as score_spaces
from spaceevo.api.spaces import search_spaces as search_spaces
from spaceevo.api.targets import PredictedLatencies as PredictedLatencies
from spaceevo.api.targets import Target as Target
from spaceevo.config import Recipe as Recipe
from spaceevo.config import load_recipe as load_recipe
from spaceevo.errors import SpaceEvoError as SpaceEvoError
from spaceevo.progress import Shown as Shown
from spaceevo.spaces.hyperspace import load_hyperspace as load_hyperspace
from spaceevo.spaces.subnet import Subnet as Subnet
from spaceevo.spaces.zoo import zoo as zoo
from spaceevo.tools.first_recipe import recipe_for as recipe_for

__version__: str
