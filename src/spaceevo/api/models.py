"""Exported models as people use them: pictures in, names of classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy, nn

from spaceevo.errors import ArtifactError, DataError
from spaceevo.nets.folded import FoldedNetwork
from spaceevo.records import Preprocessing
from spaceevo.runtimes import RUNTIMES
from spaceevo.tools.classes import class_names_in
from spaceevo.tools.file_metadata import find_network, preprocessing_in, read_metadata
from spaceevo.train.batches import to_input
from spaceevo.train.datasets import decoded

BATCH = 128  # pictures in memory at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some pictures.

    Attributes:
        class_names: Of the model, in the order of its logits.
        logits: float32 [N, classes].
        names: What the pictures are called: their files, or their numbers.
    """

    class_names: tuple[str, ...]
    logits: np.ndarray
    names: tuple[str, ...]

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float32 [N, classes]; rows add up to 1."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)

    @property
    def labels(self) -> np.ndarray:
        """Numbers of the most likely classes, int64 [N]."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the most likely classes."""
        return tuple(self.class_names[label] for label in self.labels)

    def __len__(self) -> int:
        return len(self.logits)

    def _repr_html_(self) -> str:
        rows = zip(self.names, self.classes, self.probabilities.max(axis=1), strict=True)
        cells = (f"<tr><td>{escape(n)}</td><td>{escape(c)}</td><td>{share:.1%}</td></tr>" for n, c, share in rows)
        return f"<table><tr><th>picture</th><th>class</th><th>probability</th></tr>{''.join(cells)}</table>"


class Model:
    """A file that spaceevo exported, INT8 or FP32, ready to run on this machine.

    Args:
        path: The file.
        threads: That the runtime may use.

    Attributes:
        path: The file.
        runtime: That it was written for, and runs it.
        class_names: In the order of the logits.
        preprocessing: How a picture becomes the input.

    Raises:
        ArtifactError: It is missing, damaged or foreign, or tells no classes or no preprocessing.
        TargetError: Its runtime is not installed.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        self.path = Path(path)
        self.runtime, self._stored = read_metadata(self.path)
        class_names, preprocessing = class_names_in(self._stored), preprocessing_in(self._stored)
        if class_names is None or preprocessing is None:
            raise ArtifactError(
                f"{self.path} does not tell how a picture becomes its input, or what its classes are",
                found="It was exported by a version of spaceevo that did not write both into a file",
                remedy="Export it again: spaceevo export NETWORK.safetensors --data DATA",
            )
        self.class_names: tuple[str, ...] = class_names
        self.preprocessing: Preprocessing = preprocessing
        self._session = RUNTIMES.load(self.runtime).Session(self.path, threads=threads)

    def predict(self, pictures: np.ndarray | Sequence[Path | str] | Path | str) -> Predictions:
        """Classify pictures.

        Args:
            pictures: Files of pictures, one or several; or an array of decoded ones, uint8 [N, 3, size, size], RGB,
                of the size that `preprocessing.image_size` tells.

        Returns:
            Classes and probabilities, in order.

        Raises:
            DataError: A file cannot be read, or an array has another type or shape.
        """
        size = self.preprocessing.image_size
        if isinstance(pictures, np.ndarray):
            names = tuple(map(str, range(len(pictures))))
            parts = [pictures]
        else:
            files = [pictures] if isinstance(pictures, Path | str) else list(pictures)
            names = tuple(map(str, files))
            parts = list(decoded(((str(file), Path(file)) for file in files), size))
        logits = [self._logits(part[start : start + BATCH]) for part in parts for start in range(0, len(part), BATCH)]
        empty = np.zeros((0, len(self.class_names)), np.float32)
        return Predictions(self.class_names, np.concatenate([empty, *logits]), names)

    def torch(self) -> nn.Module:
        """The float network that the file was exported from, its batch norm folded, to train it further.

        It reads what `torch_input` makes of pictures, and gives logits.

        Raises:
            ArtifactError: The extracted network (`.safetensors`) does not lie beside the file.
        """
        return FoldedNetwork(find_network(self.path, self._stored).floating)

    def torch_input(self, pixels: np.ndarray) -> Tensor:
        """What the network reads: float32 [N, 3, resolution, resolution].

        Args:
            pixels: Decoded pictures, as in `predict`.

        Raises:
            DataError: The array has another type or shape.
        """
        return to_input(from_numpy(self._checked(pixels)), self.preprocessing.resize)

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        return self._session.run(self.torch_input(pixels).numpy())

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        size = self.preprocessing.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size):
            raise DataError(
                f"{self.path} reads arrays uint8 [N, 3, {size}, {size}]",
                found=f"{pixels.dtype} {list(pixels.shape)}",
                remedy="Give values 0 to 255 of RGB pictures, colours first, each cut and resized as `preprocessing` "
                "says; or the files of the pictures",
            )
        return np.ascontiguousarray(pixels)

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}): {len(self.class_names)} classes, for {self.runtime}"


def load_model(path: Path | str, threads: int = 1) -> Model:
    """An exported model, INT8 or FP32, with its preprocessing and the names of its classes.

    Args:
        path: A file that `spaceevo export` or a run has written.
        threads: That the runtime may use.

    Raises:
        ArtifactError: It is missing, damaged or foreign.
        TargetError: Its runtime is not installed.
    """
    return Model(path, threads)
