"""The published hyperspace of server processors: Intel VNNI with ONNX Runtime (SpaceEvo, ICCV 2023, Section 4.1)."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

RATIOS = (4.0, 6.0, 8.0)
BOTTLENECK_RATIOS = (0.5, 1.0, 1.5)
BLOCKS = (
    BlockChoice(BlockType("mbv1-dual", "relu"), (3, 5)),
    BlockChoice(BlockType("mbv2", "relu6"), (3, 5), RATIOS),
    BlockChoice(BlockType("mbv3", "hard_swish"), (3, 5), RATIOS),
    BlockChoice(BlockType("bottleneck", "relu"), (3, 5, 7), BOTTLENECK_RATIOS),
    BlockChoice(BlockType("bottleneck-se", "relu"), (3, 5, 7), BOTTLENECK_RATIOS),
    BlockChoice(BlockType("fused-mbconv", "swish"), (3, 5, 7), (1.0, 2.0, 3.0, 4.0)),
)

HYPERSPACE = Hyperspace(
    name="onnxw",
    stages=(
        HyperStage("first_conv", (BlockChoice(BlockType("conv", "relu"), (3,)),), (16, 32), 2, (1,), stride=2),
        HyperStage(
            "stage0", (BlockChoice(BlockType("bottleneck", "relu"), (3,), (0.5,)),), (16, 32), 2, (1, 2), stride=1
        ),
        HyperStage("stage1", BLOCKS, tuple(range(32, 65, 16)), 2, (2, 3, 4), stride=2),
        HyperStage("stage2", BLOCKS, tuple(range(32, 97, 16)), 2, (2, 3, 4), stride=2),
        HyperStage("stage3", BLOCKS, tuple(range(64, 145, 16)), 3, tuple(range(2, 7)), stride=2),
        HyperStage("stage4", BLOCKS, tuple(range(112, 193, 16)), 3, tuple(range(2, 7)), stride=1),
        HyperStage("stage5", BLOCKS, tuple(range(192, 305, 16)), 5, tuple(range(2, 7)), stride=2),
        HyperStage("stage6", BLOCKS, tuple(range(304, 449, 16)), 7, (1, 2), stride=1),
    ),
    head=Head(final_expand=1280, feature_mix=1920, activation="hard_swish"),
    resolutions=(160, 176, 192, 208, 224),
)
