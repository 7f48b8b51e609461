"""The space of ResNet-50 (see `resnet50`) at the scale of the micro hyperspace: its stages, strides and resolutions."""

from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.presets import micro
from spaceevo.spaces.presets.resnet50 import BOTTLENECK, elastic_widths
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

HYPERSPACE = Hyperspace(
    name="resnetmicro",
    stages=(
        elastic_widths("stem", BlockChoice(BlockType("conv", "relu"), (3,)), 40, (1,), stride=2),
        elastic_widths("stage1", BOTTLENECK, 64, (1, 2, 3), stride=1),
        elastic_widths("stage2", BOTTLENECK, 128, (1, 2, 3), stride=2),
        elastic_widths("stage3", BOTTLENECK, 256, (1, 2, 3), stride=2),
    ),
    head=Head(final_expand=0, feature_mix=0, activation="relu"),
    resolutions=micro.HYPERSPACE.resolutions,
)
