"""A device and the runtime on it: what it is, what gains there, what networks take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from spaceevo.measure.campaign import Precision
from spaceevo.predict.lists import NamedNetwork
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import Measured, Predicted, PredictorAssessment, Study, TargetDescription
from spaceevo.spaces.subnet import Subnet, network_program
from spaceevo.tools import targets as tools
from spaceevo.tools.targets import About


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
        tools.fit_device(self._device, hyperspaces, precision, num_fit, seed, num_classes, progress)
        return tools.load_predictor(self._device, precision)

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
        return tools.assess_device(self._device, precision, num_unseen, seed, progress)

    def measure(
        self,
        models: Sequence[str | Path] | str | Path,
        *,
        space: str = "",
        num_classes: int = 1000,
        precisions: Sequence[Precision] = ("int8", "fp32"),
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
        networks: Iterable[str | Subnet],
        *,
        space: str = "",
        num_classes: int = 1000,
        precision: Precision = "int8",
    ) -> list[Predicted]:
        """Predict latencies, after `fit`.

        Args:
            networks: Names of the zoo, encodings, or subnets.
            space: Search space of encodings.
            num_classes: Of the logits of networks that are named.
            precision: Of the predictor.

        Returns:
            One for each, in order.

        Raises:
            EncodingError: An encoding is malformed, or not in the space.
            TargetError: There is no predictor, it is of another state of the target, or knows nothing of an operator.
        """
        given = list(networks)
        words = [NamedNetwork(word) for word in given if isinstance(word, str)]
        named = iter(tools.predict_all(self._device, words, space, num_classes, precision)) if words else iter(())
        predictor = tools.load_predictor(self._device, precision)
        return [next(named) if isinstance(one, str) else _predicted(predictor, one) for one in given]

    def _repr_html_(self) -> str:
        page = tools.page_of(self._device)
        if not page.exists():
            return f"<p>{self!r}: nothing is known about it yet; study it, or fit a predictor.</p>"
        return framed(page.read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        return f"Target({self.description.name!r})"


def _predicted(predictor: LatencyPredictor, subnet: Subnet) -> Predicted:
    program = network_program(subnet)
    predictor.prepare(program)
    return Predicted(
        name=str(subnet),
        latency_ms=predictor.program_ms(program),
        num_outside=predictor.num_extrapolated(program),
    )


def framed(page: str, height: int = 700) -> str:
    """A self-contained page within another one, for notebooks.

    Args:
        page: HTML.
        height: In pixels.
    """
    quoted = page.replace("&", "&amp;").replace('"', "&quot;")
    return f'<iframe srcdoc="{quoted}" width="100%" height="{height}" style="border: 0"></iframe>'
