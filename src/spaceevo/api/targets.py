"""A device and the runtime on it: what it is, what gains there, what networks take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from spaceevo.measure.campaign import Precision
from spaceevo.predict.lists import NamedNetwork
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import Measured, Predicted, PredictorAssessment, Study, TargetDescription
from spaceevo.report.notebook import framed
from spaceevo.spaces.subnet import Subnet
from spaceevo.tools import target_predictors as predictors, targets as tools
from spaceevo.tools.targets import About


@dataclass(frozen=True, eq=False)
class PredictedLatencies(Sequence[Predicted]):
    """Predictions, in the order of the networks; a notebook shows how they are distributed.

    Attributes:
        networks: One for each: name, latency_ms, num_outside (operators outside of what was measured).
    """

    networks: tuple[Predicted, ...]

    @property
    def latencies_ms(self) -> np.ndarray:
        """Of each network, float64 [N]."""
        return np.array([one.latency_ms for one in self.networks])

    @overload
    def __getitem__(self, index: int) -> Predicted: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Predicted, ...]: ...

    def __getitem__(self, index: int | slice) -> Predicted | tuple[Predicted, ...]:
        """The prediction of a number, or some."""
        return self.networks[index]

    def __len__(self) -> int:
        """How many."""
        return len(self.networks)

    def _repr_html_(self) -> str:
        from spaceevo.report import figures  # plotly takes long to import

        values = self.latencies_ms
        plot = figures.plot_latencies({"predicted": (values, values)}, ())
        title = f"{len(self):,} networks, {values.min():.4g} to {values.max():.4g} ms" if len(self) else "No networks"
        return framed(figures.page(title, {"Predicted latency": plot}), 520)


class Target:
    """A target, and the folder of what is known about it.

    Args:
        name: runtime@transport or runtime@transport:device, for example "onnxruntime@local".
        threads: That the runtime may use.
        cores: Logical cores that it is pinned to.
        folder: With measurements and predictors; without it, one under `targets/` named after all three.

    Raises:
        PluginError: There is no such runtime or transport.
        TargetError: The device cannot be reached.
    """

    def __init__(
        self,
        name: str = "onnxruntime@local",
        *,
        threads: int = 1,
        cores: Sequence[int] = (),
        folder: Path | str | None = None,
    ) -> None:
        self._device = tools.open_device(name, threads, tuple(cores), None if folder is None else Path(folder))

    @property
    def description(self) -> TargetDescription:
        """Device, runtime, processor flags, largest weight code."""
        return self._device.target

    @property
    def folder(self) -> Path:
        """Of what is known about it."""
        return self._device.folder

    def describe(self) -> About:
        """What it is, its state now, and how much was measured there.

        Raises:
            TargetError: It cannot be reached.
        """
        return tools.describe_device(self._device)

    def study(
        self,
        hyperspace: str = "micro",
        *,
        widths: Sequence[int] = (16, 48, 128),
        sizes: Sequence[int] = (6, 12, 24),
        progress: ProgressCallback = silent,
    ) -> Study:
        """Measure what gains from INT8: operators, widths and the block types of a hyperspace.

        Args:
            hyperspace: A preset.
            widths: Channels.
            sizes: Heights = widths of feature maps.
            progress: Called with work done and in all.

        Raises:
            TargetError: The device is lost, or too unstable.
        """
        return tools.study_device(self._device, hyperspace, widths, sizes, progress)

    def fit(
        self,
        hyperspaces: Sequence[str] = ("micro",),
        *,
        precision: Precision = "int8",
        num_fit: int = 120,
        num_classes: int = 1000,
        seed: int = 0,
        progress: ProgressCallback = silent,
    ) -> LatencyPredictor:
        """Measure random networks and fit a latency predictor, which `predict` uses from now on.

        Args:
            hyperspaces: Presets that the networks are drawn from.
            precision: Of the networks.
            num_fit: Networks in all.
            num_classes: Of their logits.
            seed: Decides which networks are drawn.
            progress: Called with work done and in all.

        Raises:
            TargetError: The device is lost, or too unstable.
        """
        predictors.fit_device(self._device, hyperspaces, precision, num_fit, seed, num_classes, progress)
        return predictors.load_predictor(self._device, precision)

    def assess(
        self,
        *,
        precision: Precision = "int8",
        num_unseen: int = 30,
        seed: int = 0,
        progress: ProgressCallback = silent,
    ) -> PredictorAssessment:
        """Measure networks that the predictor has not seen, and tell how well it predicts them.

        Args:
            precision: Of the predictor.
            num_unseen: Networks of every hyperspace that it was fitted on.
            seed: Decides which networks are drawn.
            progress: Called with work done and in all.

        Raises:
            TargetError: There is no predictor, it is of another state of the target, or the device is unstable.
        """
        return predictors.assess_device(self._device, precision, num_unseen, seed, progress)

    def measure(
        self,
        models: Sequence[str | Path] | str | Path,
        *,
        space: str = "",
        num_classes: int = 1000,
        precisions: Sequence[Precision] = ("int8",),
        metrics: Sequence[str] = (),
        progress: ProgressCallback = silent,
    ) -> list[Measured]:
        """Measure latencies, and other metrics if asked.

        Args:
            models: Model files, names of the zoo, or encodings.
            space: Search space of encodings.
            num_classes: Of the logits of networks that are named.
            precisions: Of networks that are named; a file is what it is.
            metrics: Names of further metrics, for example "size-mib".
            progress: Called with work done and in all.

        Raises:
            ArtifactError: A file is missing or damaged.
            EncodingError: An encoding is malformed, or not in the space.
            TargetError: The device is lost, or unstable.
        """
        given = [models] if isinstance(models, str | Path) else models
        words = [str(model) for model in given]
        return tools.measure_all(self._device, words, space, num_classes, precisions, metrics, progress)

    def predict(
        self,
        networks: Iterable[str | NamedNetwork | Subnet],
        *,
        space: str = "",
        num_classes: int = 1000,
        precision: Precision = "int8",
    ) -> PredictedLatencies:
        """Predict latencies, after `fit`; 500 encodings of one space and more are looked up in a table of its blocks.

        Args:
            networks: Names of the zoo, encodings, or subnets.
            space: Search space of encodings without one.
            num_classes: Of the logits of networks that are named.
            precision: Of the predictor.

        Raises:
            EncodingError: An encoding is malformed, or not in its space.
            PluginError: There is no such network or hyperspace.
            TargetError: There is no predictor, it is of another state of the target, or knows nothing of an operator.
        """
        found = self.predictions(networks, space=space, num_classes=num_classes, precision=precision)
        return PredictedLatencies(tuple(found))

    def predictions(
        self,
        networks: Iterable[str | NamedNetwork | Subnet],
        *,
        space: str = "",
        num_classes: int = 1000,
        precision: Precision = "int8",
    ) -> Iterator[Predicted]:
        """As `predict`, one by one, for more networks than memory holds."""
        for are_subnets, some in groupby(networks, lambda network: isinstance(network, Subnet)):
            if are_subnets:
                yield from predictors.predict_subnets(self._device, cast("Iterator[Subnet]", some), precision)
            else:
                named = (NamedNetwork(one) if isinstance(one, str) else one for one in cast("Iterator[Any]", some))
                yield from predictors.predict_all(self._device, named, space, num_classes, precision)

    def profile(
        self,
        model: str | Path,
        *,
        space: str = "",
        num_classes: int = 1000,
        precision: Precision = "int8",
        repeats: int = 50,
    ) -> dict[str, float]:
        """Milliseconds per operator, in the context of the whole network, as the runtime itself counts.

        Args:
            model: A model file, a name of the zoo, or an encoding.
            space: Search space of an encoding.
            num_classes: Of the logits of a network that is named.
            precision: Of a network that is named.
            repeats: Inferences that are counted.

        Raises:
            ArtifactError: The runtime refuses the file.
            EncodingError: An encoding is malformed, or not in the space.
            TargetError: The device is lost, or the runtime has no such counters there.
        """
        return tools.profile(self._device, str(model), space, num_classes, precision, repeats)

    def export_measurements(self, path: Path | str) -> None:
        """Write all that was measured there as a parquet table.

        Raises:
            NoSpaceError: The file cannot be written.
        """
        tools.export_measurements(self._device, Path(path))

    def command(self, verb: str, precision: Precision = "int8") -> str:
        """What one types to do something with it, for example `command("fit")`."""
        return self._device.command(verb, precision)

    def predictor_path(self, precision: Precision = "int8") -> Path:
        """The predictor's file."""
        return predictors.predictor_path(self._device, precision)

    @property
    def page(self) -> Path:
        """The page that shows the study and the assessment; there once one of them is."""
        return tools.page_of(self._device)

    def _repr_html_(self) -> str:
        if not self.page.exists():
            return f"<p>{escape(repr(self))} has not been studied yet, and no predictor assessed.</p>"
        return framed(self.page.read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        return f"Target({self.description.name!r})"
