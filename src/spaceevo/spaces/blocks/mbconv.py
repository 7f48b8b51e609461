"""MBConv as in EfficientNet: SE relative to the block's input width, gated by a sigmoid (ICML 2019, Section 4)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), SE on a quarter of the input width, 1x1 linear, plus the input."""
    reduced = max(1, spec.in_width // 4)
    return inverted_residual(
        spec, x, net, reduced=reduced, se_activation=spec.activation, se_gate="sigmoid", identity_only=True
    )
