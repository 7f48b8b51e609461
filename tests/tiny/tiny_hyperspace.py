"""The micro hyperspace at its least: two searched stages of two block types and two windows."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

BLOCKS = (
    BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (2.0, 3.0)),
    BlockChoice(BlockType("mbv3", "hard_swish"), (3,), (2.0,)),
)

HYPERSPACE = Hyperspace(
    name="tiny",
    stages=(
        HyperStage("stem", (BlockChoice(BlockType("conv", "relu"), (3,)),), (8,), 1, (1,), stride=2),
        HyperStage("stage1", BLOCKS, (8, 16, 24), 2, (1, 2), stride=1),
        HyperStage("stage2", BLOCKS, (16, 24, 32), 2, (1, 2), stride=2),
    ),
    head=Head(final_expand=32, feature_mix=48, activation="relu"),
    resolutions=(16, 24),
)
