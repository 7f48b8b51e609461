"""The published hyperspace of mobile processors: Pixel 4 with TFLite (SpaceEvo, ICCV 2023, Section 4.1)."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

RATIOS = (3.0, 6.0, 8.0)
BLOCKS = (
    BlockChoice(BlockType("mbv1-dual", "relu"), (3, 5, 7)),
    BlockChoice(BlockType("mbv2", "relu6"), (3, 5, 7), RATIOS),
    BlockChoice(BlockType("mbv3", "swish"), (3, 5, 7), RATIOS),
    BlockChoice(BlockType("bottleneck", "relu"), (3, 5), (0.5, 1.0, 1.5)),
    BlockChoice(BlockType("fused-mbconv-se", "swish"), (3, 5, 7), (1.0, 2.0, 3.0, 4.0)),
    BlockChoice(BlockType("mbv3-k3", "swish"), (3, 5, 7), RATIOS),
    BlockChoice(BlockType("mbv2-k3", "relu6"), (3, 5, 7), RATIOS),
)

HYPERSPACE = Hyperspace(
    name="mobilew",
    stages=(
        HyperStage("first_conv", (BlockChoice(BlockType("conv", "relu"), (3,)),), (16, 24, 32), 3, (1,), stride=2),
        HyperStage(
            "stage0",
            (BlockChoice(BlockType("mbv2-identity", "relu"), (3,), (1.0,)),),
            (16, 24, 32),
            3,
            (1, 2),
            stride=1,
        ),
        HyperStage("stage1", BLOCKS, tuple(range(24, 41, 8)), 2, (2, 3, 4), stride=2),
        HyperStage("stage2", BLOCKS, tuple(range(24, 73, 8)), 2, (2, 3, 4), stride=2),
        HyperStage("stage3", BLOCKS, tuple(range(56, 113, 8)), 3, tuple(range(2, 7)), stride=2),
        HyperStage("stage4", BLOCKS, tuple(range(112, 177, 8)), 3, tuple(range(2, 9)), stride=1),
        HyperStage("stage5", BLOCKS, (192, 200, 208, 216, 224, 240, 256, 272, 288), 5, tuple(range(2, 9)), stride=2),
        HyperStage("stage6", BLOCKS, tuple(range(216, 361, 16)), 7, (1, 2), stride=1),
    ),
    head=Head(final_expand=1280, feature_mix=1920, activation="swish"),
    resolutions=(160, 176, 192, 208, 224),
)
