"""ProxylessNAS's space (see `proxyless`) at the scale of the micro hyperspace: its stages, strides and resolutions."""

from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.presets import micro
from spaceevo.spaces.presets.proxyless import MBV2, STEM
from spaceevo.spaces.subnet import Head

DEPTHS = (1, 2, 3)

HYPERSPACE = Hyperspace(
    name="proxylessmicro",
    stages=(
        HyperStage("stem", (STEM,), (16,), 1, (1,), stride=2),
        HyperStage("stage1", (MBV2,), (32,), 1, DEPTHS, stride=1),
        HyperStage("stage2", (MBV2,), (56,), 1, DEPTHS, stride=2),
        HyperStage("stage3", (MBV2,), (104,), 1, DEPTHS, stride=2),
    ),
    head=Head(final_expand=192, feature_mix=0, activation="relu6"),
    resolutions=micro.HYPERSPACE.resolutions,
)
