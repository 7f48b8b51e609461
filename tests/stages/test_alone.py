"""One network trained alone: how long, and with whose settings."""

from typing import Any

from spaceevo.config import TrainingSettings
from spaceevo.run.context import Context
from spaceevo.stages._alone import settings_alone


def test_a_share_is_of_all_epochs(tiny: Any) -> None:
    context = Context.of_folder(tiny.folder)
    supernet, tuned = context.recipe.supernet, context.recipe.finetune.epochs
    whole, half = settings_alone(context), settings_alone(context, 0.5)
    epochs = {"epochs_fp32": supernet.epochs_fp32, "epochs_int8": supernet.epochs_int8 + tuned}
    own = supernet.model_dump(include=set(TrainingSettings.model_fields))
    assert tuned
    assert whole.model_dump() == own | epochs
    assert half.model_dump() == own | {name: 0.5 * value for name, value in epochs.items()}
