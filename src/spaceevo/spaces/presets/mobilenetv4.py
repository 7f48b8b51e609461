"""A convolutional space in the style of MobileNetV4 (ECCV 2024, Section 4): widths between its Conv-S and Conv-M.

The source searched with other tools and published networks, no space: the choices here are ours, around theirs. A
feed-forward block (no depthwise convolution) is left out, since the first block of a stage needs one for its stride.
"""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

#: Of the first and of the middle depthwise convolution
KERNEL_SIZES = ((0, 3), (0, 5), (3, 0), (3, 3), (3, 5), (5, 0), (5, 3), (5, 5))
UIB = BlockChoice(BlockType("uib", "relu"), KERNEL_SIZES, (2.0, 3.0, 4.0, 6.0))
FUSED = BlockChoice(BlockType("fused-ib", "relu"), (3,), (2.0, 3.0, 4.0))
STEM = BlockChoice(BlockType("conv", "relu"), (3,))

HYPERSPACE = Hyperspace(
    name="mobilenetv4",
    stages=(
        HyperStage("stem", (STEM,), (32,), 1, (1,), stride=2),
        HyperStage("stage1", (FUSED,), (32, 48), 2, (1, 2), stride=2),
        HyperStage("stage2", (UIB,), (64, 80), 2, (1, 2, 3), stride=2),
        HyperStage("stage3", (UIB,), (96, 128, 160), 3, tuple(range(3, 9)), stride=2),
        HyperStage("stage4", (UIB,), (128, 192, 256), 3, tuple(range(3, 12)), stride=2),
    ),
    head=Head(final_expand=960, feature_mix=1280, activation="relu"),
    resolutions=(192, 224, 256),
)
