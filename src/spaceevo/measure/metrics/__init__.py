"""One file per metric: what an inference costs beside its latency. The file's name ends in the unit.

A metric is a module with

    ABOUT: str                                        for people, one sentence
    features(subnet)  -> tuple[float, ...]            a value is a sum of these, each times a coefficient >= 0

and either, where the architecture alone decides it (the coefficients are 1; FP32 takes four times as much),

    DEVICE = False

or, where the device does (the coefficients are fitted to what is measured there),

    DEVICE = True
    measure(transport, target, path, latency_ms) -> float   of a model file; raises TargetError where the device
                                                            cannot tell, never a number that was not measured
"""

from __future__ import annotations

METRICS = "spaceevo.measure.metrics"
