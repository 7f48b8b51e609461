"""The hand-made space of ResNet-50 (Once-for-All, ICLR 2020, extended to ResNet-50 by its authors).

Differences from the source: widths are elastic per block, not one multiplier per stage; the stem is ResNet's 7x7
convolution, not three 3x3 of elastic depth; shortcuts that halve the size are strided 1x1 convolutions, without an
average pool before them.
"""

from spaceevo.spaces.choices import make_divisible
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

MULTIPLIERS = (0.65, 0.8, 1.0)
BOTTLENECK = BlockChoice(BlockType("bottleneck", "relu"), (3,), (0.2, 0.25, 0.35))
STEM = BlockChoice(BlockType("conv-pool", "relu"), (7,))


def elastic_widths(name: str, block: BlockChoice, width: int, depths: tuple[int, ...], stride: int) -> HyperStage:
    """A stage of one block type at three widths."""
    widths = tuple(make_divisible(width * multiplier) for multiplier in MULTIPLIERS)
    return HyperStage(name, (block,), widths, len(widths), depths, stride)


HYPERSPACE = Hyperspace(
    name="resnet50",
    stages=(
        elastic_widths("stem", STEM, 64, (1,), stride=4),
        elastic_widths("stage1", BOTTLENECK, 256, (2, 3, 4), stride=1),
        elastic_widths("stage2", BOTTLENECK, 512, (2, 3, 4), stride=2),
        elastic_widths("stage3", BOTTLENECK, 1024, (4, 5, 6), stride=2),
        elastic_widths("stage4", BOTTLENECK, 2048, (2, 3, 4), stride=2),
    ),
    head=Head(final_expand=0, feature_mix=0, activation="relu"),
    resolutions=tuple(range(128, 225, 4)),
)
