"""Data sets of the Hugging Face hub by name, and their parquet files in a folder.

A folder is read with pyarrow; the hub needs the extra `huggingface` (the package `datasets`), which keeps what it
fetched in a cache of its own. Source of the layout: huggingface.co/docs/datasets, "Structure your repository" and
"Image". The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import _shards, _tables, cached, check_classes, decoded, some, version
from spaceevo.train.datasets._listing import Tally

_ROWS = 256  # read at once
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_NUM_LISTED = 10_000  # files of a folder that an error looks at
_NAME = r"^[^\x00]+$"


class Settings(BaseModel):
    """Which data set, and what in it is what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        min_length=1, description="Folder with parquet files, or else the name of a data set of the hub (user/name)."
    )
    config: str = Field(
        "",
        pattern=r"^[^\x00]*$",
        description="Configuration, where the data set has several; of a folder: a folder in it.",
    )
    revision: str = Field("", description="Commit or tag of a data set of the hub; none: the newest.")
    train: str = Field("train", pattern=_NAME, description="Name of the training split.")
    val: str = Field("validation", pattern=_NAME, description="Name of the validation split; often also test.")
    image: str = Field("image", min_length=1, description="Column of the images.")
    label: str = Field("label", min_length=1, description="Column of the labels: numbers or names.")


check = None  # nothing is looked at before it is read


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where the data set has not changed.

    Args:
        settings: Which data set.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: It cannot be found, fetched or read, lacks a split, a file of one or a column, has a label that is
            missing or none of a class or means another class elsewhere, or an image cannot be read.
        NoSpaceError: The cache cannot be written.
    """
    tally = Tally()
    folder = Path(os.path.expanduser(settings.path))
    is_folder = os.path.exists(folder)
    if not is_folder and not _HUB_NAME.fullmatch(settings.path):
        raise DataError(
            "The folder of the data set is missing",
            found=f"The path {settings.path} is not there",
            remedy="Correct `path`; a relative one starts at the current folder",
        )
    tables: list[_tables.Table] = []
    columns: dict[str, list[_tables.Labels]] = {}
    for part, found in (_from_folder if is_folder else _from_hub)(settings, tally).items():
        read = [table.labels(settings.label) for table in found]
        for empty in (column for column in read if not column.values):
            tally.add("tables without a row", empty.source)
        tables += [table for table, column in zip(found, read, strict=True) if column.values]
        columns[part] = [column for column in read if column.values]
        if not columns[part]:
            raise DataError(
                f"The split {getattr(settings, part)!r} has no rows",
                found=some(table.source for table in found),
                remedy=f"Name a split that has images with `{part}`",
            )
    class_names, labels = _tables.numbered(columns, settings.path)
    check_classes(labels, class_names, settings.path)
    named = [table.named_files(settings.image) for table in tables]
    versions = [table.version for table in tables] + _versions([file for files in named for file in files.values()])
    num_train, num_val = len(labels["train"]), len(labels["val"])
    nums_rows = [len(column.values) for column in (*columns["train"], *columns["val"])]
    images_NCHW = cached(
        cache,
        __file__,
        (versions, settings.model_dump(), image_size),
        (num_train + num_val, 3, image_size, image_size),
        lambda: decoded(
            chain.from_iterable(
                table.images(settings.image, files, num_rows)
                for table, files, num_rows in zip(tables, named, nums_rows, strict=True)
            ),
            image_size,
        ),
    )
    return ImageData(
        name=(folder.resolve() if is_folder else folder).name,
        class_names=class_names,
        train_images=images_NCHW[:num_train],
        train_labels=labels["train"],
        val_images=images_NCHW[num_train:],
        val_labels=labels["val"],
        passed_over=tally.passed_over(),
    )


def _from_folder(settings: Settings, tally: Tally) -> dict[str, list[_tables.Table]]:
    """The files of both splits, not yet read."""
    base = Path(os.path.expanduser(settings.path))
    if not base.is_dir():
        raise DataError(
            "The path of the data set is no folder",
            found=f"The path {base} is that of a file",
            remedy="Name the folder that it lies in with `path`",
        )
    root = base / settings.config
    files = {part: _files(root, name, tally) for part, name in (("train", settings.train), ("val", settings.val))}
    _shards.check_apart(files["train"], files["val"], "Name two splits with `train` and `val`")
    _tell_unread(root, settings, files["train"] + files["val"], tally)
    return {part: [_parquet(file, base) for file in found] for part, found in files.items()}


def _files(root: Path, name: str, tally: Tally) -> list[Path]:
    """The files of a split: `name.parquet`, `name-*.parquet` or `name/*.parquet`, there or in its folder `data`."""
    endings = (".parquet", "-*.parquet", "/*.parquet")
    forms = [
        sorted(map(Path, glob.glob(glob.escape(str(where / name)) + ending)))
        for where in (root, root / "data")
        for ending in endings
    ]
    files = next(filter(None, forms), [])
    if not files:
        raise _no_split(root, name, " or ".join(f"{name}{ending}" for ending in endings))
    if sum(map(bool, forms)) > 1:
        raise DataError(
            f"The split {name!r} is there more than once",
            found=some(str(found[0]) for found in forms if found),
            remedy=f"Keep one: {' or '.join(f'{name}{ending}' for ending in endings)}, in {root} or its folder data",
        )
    _shards.check_files(files)
    _shards.check_complete(files, "Fetch or write them again; without them, give the others names without `-of-`")
    _shards.tell_gaps(files, tally)
    return _shards.distinct(files, tally)


def _no_split(root: Path, name: str, names: str) -> DataError:
    """What is there instead, and what to do with it."""
    present = [file.relative_to(root) for file in islice(root.rglob("*"), _NUM_LISTED) if os.path.isfile(file)]
    tables = sorted(str(file) for file in present if file.suffix.lower() == ".parquet")
    kinds = Counter(file.suffix or file.name for file in present)
    listed = some(f"{count} {kind}" for kind, count in kinds.most_common())
    problem = f"The data set has no split {name!r}"
    remedy = f"Name its splits with `train` and `val`; this one would be {names}"
    if "[" in name:
        remedy += "; parts of a split, such as train[:90%], are of the hub only"
    if not tables and ".arrow" in kinds:
        problem += " in parquet files: it is a folder of `save_to_disk`, which is not read"
        data = f"load_from_disk({str(root)!r})" + f"[{name!r}]" * (root / name).is_dir()
        remedy = f"Write parquet files in Python: datasets.{data}.to_parquet({str(root / f'{name}.parquet')!r})"
    elif not tables and present:
        remedy = f"Only parquet files are read, {names}, with a column of image files and one of labels: convert it"
    found = (
        f"The folder {root} holds {some(tables) if tables else listed}"
        if root.exists()
        else f"The folder {root} is not there"
    )
    return DataError(problem, found=found, remedy=remedy)


def _tell_unread(root: Path, settings: Settings, read: list[Path], tally: Tally) -> None:
    """Count the parquet files that are neither split's, where the files of splits are looked for."""
    places = [where / name for where in (root, root / "data") for name in (settings.train, settings.val)]
    found = chain(root.glob("*"), root.glob("data/*"), *(place.rglob("*") for place in places))
    known = set(map(os.path.realpath, read))
    for file in sorted(file for file in set(found) if file.name.lower().endswith(".parquet")):
        if os.path.realpath(file) not in known:
            tally.add("parquet files of neither split", str(file))


def _parquet(file: Path, base: Path) -> _tables.Table:
    with _tables.explained(str(file)):
        schema = pq.read_schema(file)

    def batches(column: str, field: str = "") -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(_ROWS, columns=[f"{column}.{field}" if field else column])

    return _tables.Table(str(file), schema, _versions([file]), (base,), batches)


def _from_hub(settings: Settings, tally: Tally) -> dict[str, list[_tables.Table]]:
    """Both splits, fetched where they are not in the cache of the package."""
    for one, other in ((settings.train, settings.val), (settings.val, settings.train)):
        if one.strip() in (other.strip(), other.partition("[")[0].strip()):
            raise DataError(
                "The training and the validation part have images in common",
                found=f"The splits {settings.train} and {settings.val}",
                remedy="Name two splits with `train` and `val`, or parts of one, such as train[:90%] and train[90%:]",
            )
    return {"train": [_hub_split(settings, settings.train)], "val": [_hub_split(settings, settings.val)]}


def _hub_split(settings: Settings, name: str) -> _tables.Table:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"There is no folder {settings.path}, and the hub needs the package datasets",
            found=str(error),
            remedy="Correct `path`, or install it: pip install 'spaceevo[huggingface]'",
        ) from error
    try:
        data = datasets.load_dataset(
            settings.path,
            settings.config or None,
            split=name,
            revision=settings.revision or None,
            keep_in_memory=False,  # its files on disk tell whether it has changed
        )
    except Exception as error:  # of the network, of the hub and of the data set, without a common class
        raise DataError(
            f"The split {name!r} of {settings.path!r} cannot be loaded",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="Correct `path`, `config`, `train` or `val`; a path of your own must be a folder with parquet files",
        ) from error
    files = [Path(file["filename"]) for file in data.cache_files]
    source = f"{name!r} of {settings.path}"
    # Images may lie as files where the package keeps what it fetched, and nowhere else
    kept = [getattr(datasets.config, key, None) for key in ("HF_CACHE_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE")]
    folders = tuple(Path(folder) for folder in kept if folder)

    def batches(column: str, field: str = "") -> Iterator[pa.Table]:  # mapped: other fields cost nothing
        yield from data.select_columns([column]).with_format("arrow").iter(_ROWS)

    return _tables.Table(source, data.features.arrow_schema, _versions(files), folders, batches)


def _versions(files: list[Path]) -> list[tuple[str, int, int]]:
    return [(str(file.resolve()), *version(file)) for file in files]
