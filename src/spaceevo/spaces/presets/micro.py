"""The micro hyperspace: small images, minutes on two processor cores, every mechanism of the large ones."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

BLOCKS = (
    BlockChoice(BlockType("mbv1-dual", "relu"), (3, 5)),
    BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (2.0, 3.0, 4.0)),
    BlockChoice(BlockType("mbv3", "hard_swish"), (3, 5), (2.0, 3.0, 4.0)),
    BlockChoice(BlockType("bottleneck", "relu"), (3,), (0.5, 1.0, 1.5)),
    BlockChoice(BlockType("fused-mbconv", "swish"), (3,), (1.0, 2.0, 3.0)),
)

HYPERSPACE = Hyperspace(
    name="micro",
    stages=(
        HyperStage("stem", (BlockChoice(BlockType("conv", "relu"), (3,)),), (16,), 1, (1,), stride=2),
        HyperStage("stage1", BLOCKS, (16, 24, 32, 40, 48), 2, (1, 2, 3), stride=1),
        HyperStage("stage2", BLOCKS, (24, 32, 40, 48, 56, 64, 72), 3, (1, 2, 3), stride=2),
        HyperStage("stage3", BLOCKS, (48, 56, 64, 80, 96, 112, 128), 3, (1, 2, 3), stride=2),
    ),
    head=Head(final_expand=160, feature_mix=192, activation="relu"),
    resolutions=(32, 36, 40),
)
