"""Metrics beside latency, predicted: non-negative least squares on a few features of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaceevo.errors import TargetError
from spaceevo.measure.metrics import METRICS
from spaceevo.predict.regression import non_negative
from spaceevo.records import MetricFit
from spaceevo.spaces.subnet import Subnet

HELD_OUT = 4  # one in so many networks judges the fit


def fit_metric(metric: str, subnets: Sequence[Subnet], values: Sequence[float]) -> MetricFit:
    """Fit a metric to measured networks, and judge it on some that are held out.

    Args:
        metric: Name of a metric that the device decides.
        subnets: Networks, at least 8.
        values: Measured, positive.

    Raises:
        PluginError: There is no such metric.
        TargetError: Too few networks, or a value that is not positive.
    """
    measured = np.asarray(values, np.float64)
    if len(subnets) < 2 * HELD_OUT or not (measured > 0).all():
        raise TargetError(
            f"{metric} cannot be predicted from what was measured",
            found=f"{len(subnets)} networks, least value {measured.min(initial=np.inf):g}",
        )
    room = METRICS.load(metric)
    work = np.array([room.features(subnet) for subnet in subnets])
    held_out = np.arange(len(subnets)) % HELD_OUT == HELD_OUT - 1
    relative = work / measured[:, None]
    judged = work[held_out] @ non_negative(relative[~held_out])
    return MetricFit(
        metric=metric,
        coefficients=tuple(non_negative(relative).tolist()),
        num_fit=len(subnets),
        mape=float(np.abs(judged / measured[held_out] - 1).mean()),
    )


def computed_metric(metric: str) -> MetricFit:
    """A metric that the architecture alone decides, in the same form.

    Raises:
        PluginError: There is no such metric.
    """
    METRICS.load(metric)
    return MetricFit(metric=metric, coefficients=(1.0,), num_fit=0, mape=0.0)


def metric_value(fit: MetricFit, subnet: Subnet) -> float:
    """The metric of an INT8 network, predicted or computed."""
    features = METRICS.load(fit.metric).features(subnet)
    return float(np.dot(features, fit.coefficients))
