"""The hand-made space of ProxylessNAS, of MBv2 blocks (ICLR 2019; Once-for-All, ICLR 2020, multiplier 1.3)."""

from spaceevo.spaces.choices import make_divisible
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

MULTIPLIER = 1.3
MBV2 = BlockChoice(BlockType("mbv2-identity", "relu6"), (3, 5, 7), (3.0, 4.0, 6.0))
FIRST = BlockChoice(BlockType("mbv2-identity", "relu6"), (3,), (1.0,))
STEM = BlockChoice(BlockType("conv", "relu6"), (3,))
#: Name, block, width before the multiplier, depths, stride.
STAGES = (
    ("stem", STEM, 32, (1,), 2),
    ("stage0", FIRST, 16, (1,), 1),
    ("stage1", MBV2, 24, (2, 3, 4), 2),
    ("stage2", MBV2, 40, (2, 3, 4), 2),
    ("stage3", MBV2, 80, (2, 3, 4), 2),
    ("stage4", MBV2, 96, (2, 3, 4), 1),
    ("stage5", MBV2, 192, (2, 3, 4), 2),
    ("stage6", MBV2, 320, (1,), 1),
)

HYPERSPACE = Hyperspace(
    name="proxyless",
    stages=tuple(
        HyperStage(name, (block,), (make_divisible(width * MULTIPLIER),), 1, depths, stride)
        for name, block, width, depths, stride in STAGES
    ),
    head=Head(final_expand=make_divisible(1280 * MULTIPLIER), feature_mix=0, activation="relu6"),
    resolutions=tuple(range(128, 225, 4)),
)
