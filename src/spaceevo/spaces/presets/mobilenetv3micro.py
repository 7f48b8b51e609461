"""MobileNetV3's space (see `mobilenetv3`) at the scale of the micro hyperspace: its stages, strides and resolutions."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.presets import micro
from spaceevo.spaces.presets.mobilenetv3 import PLAIN, SE_HARD_SWISH
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

DEPTHS = (1, 2, 3)

HYPERSPACE = Hyperspace(
    name="mobilenetv3micro",
    stages=(
        HyperStage("stem", (BlockChoice(BlockType("conv", "hard_swish"), (3,)),), (16,), 1, (1,), stride=2),
        HyperStage("stage1", (PLAIN,), (24,), 1, DEPTHS, stride=1),
        HyperStage("stage2", (SE_HARD_SWISH,), (40,), 1, DEPTHS, stride=2),
        HyperStage("stage3", (SE_HARD_SWISH,), (96,), 1, DEPTHS, stride=2),
    ),
    head=Head(final_expand=160, feature_mix=192, activation="hard_swish", feature_mix_norm="bias"),
    resolutions=micro.HYPERSPACE.resolutions,
)
