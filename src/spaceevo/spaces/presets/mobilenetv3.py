"""The hand-made space of MobileNetV3 (Once-for-All, ICLR 2020, Section 4.1, width multiplier 1)."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

KERNEL_SIZES = (3, 5, 7)
RATIOS = (3.0, 4.0, 6.0)
PLAIN = BlockChoice(BlockType("mbv2-identity", "relu"), KERNEL_SIZES, RATIOS)
SE = BlockChoice(BlockType("mbv3-identity", "relu"), KERNEL_SIZES, RATIOS)
PLAIN_HARD_SWISH = BlockChoice(BlockType("mbv2-identity", "hard_swish"), KERNEL_SIZES, RATIOS)
SE_HARD_SWISH = BlockChoice(BlockType("mbv3-identity", "hard_swish"), KERNEL_SIZES, RATIOS)
DEPTHS = (2, 3, 4)

HYPERSPACE = Hyperspace(
    name="mobilenetv3",
    stages=(
        HyperStage("stem", (BlockChoice(BlockType("conv", "hard_swish"), (3,)),), (16,), 1, (1,), stride=2),
        HyperStage(
            "stage0", (BlockChoice(BlockType("mbv2-identity", "relu"), (3,), (1.0,)),), (16,), 1, (1,), stride=1
        ),
        HyperStage("stage1", (PLAIN,), (24,), 1, DEPTHS, stride=2),
        HyperStage("stage2", (SE,), (40,), 1, DEPTHS, stride=2),
        HyperStage("stage3", (PLAIN_HARD_SWISH,), (80,), 1, DEPTHS, stride=2),
        HyperStage("stage4", (SE_HARD_SWISH,), (112,), 1, DEPTHS, stride=1),
        HyperStage("stage5", (SE_HARD_SWISH,), (160,), 1, DEPTHS, stride=2),
    ),
    head=Head(final_expand=960, feature_mix=1280, activation="hard_swish", feature_mix_norm="bias"),
    resolutions=tuple(range(128, 225, 4)),
)
