"""One file per data set, each a `Dataset`. Here: what they share, from files to cached pixels."""

from __future__ import annotations

import hashlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import FileIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from pydantic import BaseModel

from spaceevo.errors import DataError, NoSpaceError
from spaceevo.machine import usable_cores
from spaceevo.plugins import Registry
from spaceevo.records import ImageData, PassedOver
from spaceevo.train.datasets._listing import FORMATS
from spaceevo.train.datasets._names import alike, difference, same_to_see, spelled, visible

_DIGEST_BYTES = 32
_CHUNK_BYTES = 1 << 20
_IMAGES_PER_PART = 256
_NUM_TOLD = 5  # names listed in an error; the rest is a count
_GROUND = (255, 255, 255, 255)  # what shows through transparent pixels: white, as on a page
# By EXIF orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow scales grey codes of two and four bits to eight, but not the one that is transparent
_GREY_STEPS = {"L;2": 85, "L;4": 17}


class Dataset(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.train.datasets`, without torch."""

    @property
    def Settings(self) -> type[BaseModel]:
        """A frozen pydantic model that forbids unknown keys; each field has a description and bounds."""
        ...

    @property
    def check(self) -> Callable[[Any], object] | None:
        """Looks whether it is there and complete without reading its images: `check(settings)` raises `DataError`.

        None where that cannot be told.
        """
        ...

    @property
    def load(self) -> Callable[[Any, int, Path], ImageData]:
        """Reads it: `load(settings, image_size, cache)`.

        Square uint8 RGB images of `image_size` pixels, int64 labels, every class in both splits. The same arguments
        give the same arrays, with or without a cache. `cache` is a folder, possibly missing, for rendered or decoded
        pixels (`cached`). `passed_over` accounts for what was not read: a line tells it to the user. A data set that
        cannot be used raises `DataError`; a cache that cannot be written, `NoSpaceError`.
        """
        ...


DATASETS = Registry("spaceevo.train.datasets", Dataset)


def cached(
    cache: Path, source: str, inputs: object, shape: tuple[int, ...], build: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """The uint8 array whose rows `build` makes, mapped from a file of `cache`: it may be larger than the memory.

    A cache file is a plain .npy followed by a SHA-256 over its key and content, so a damaged, truncated,
    renamed or foreign file is noticed, and built anew. It appears whole or not at all.

    Args:
        cache: Folder of the cache; made when it is missing.
        source: `__file__` of the data set; its text is part of the key, so a changed renderer never
            meets old pixels.
        inputs: All else that determines the array; its `repr` is part of the key.
        shape: Shape of the array.
        build: Makes the array as parts, each some of its rows, in order.

    Returns:
        Writing to the array changes neither the file nor what others see.

    Raises:
        NoSpaceError: The disk is full, or the folder cannot be written.
    """
    key = hashlib.sha256(Path(source).read_bytes() + Path(__file__).read_bytes() + repr(inputs).encode()).digest()
    path = cache / f"{Path(source).stem}-{key.hex()[:16]}.npy"
    if not _intact(path, key):
        _write(path, key, shape, build)
    # Copy on write: torch warns of arrays that cannot be written
    array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    assert array.shape == shape
    return np.asarray(array)


def decoded(files: Iterable[tuple[str, Path | bytes]], image_size: int) -> Iterator[np.ndarray]:
    """Decode image files, a part of them at a time.

    An image is turned upright (EXIF), composed on white where it is transparent, converted to RGB, resized with
    antialiasing so that its shorter side is `image_size`, and cropped to the square in its centre. Only the first
    frame of an animation counts.

    Args:
        files: Of each image its name, for errors, and its file or content, in one of `_listing.FORMATS`.
        image_size: Height = width in pixels, at least 1.

    Yields:
        uint8 [n, 3, image_size, image_size].

    Raises:
        DataError: Images that cannot be read, once all have been tried.
    """
    remaining = iter(files)
    num_files, unreadable = 0, []
    with ThreadPoolExecutor(usable_cores()) as pool:
        while part := list(islice(remaining, _IMAGES_PER_PART)):
            num_files += len(part)
            images = list(pool.map(partial(_decode, image_size=image_size), [source for _, source in part]))
            unreadable += [
                f"{visible(name)} ({image})"
                for (name, _), image in zip(part, images, strict=True)
                if isinstance(image, str)
            ]
            if not unreadable:
                yield np.stack(images).transpose(0, 3, 1, 2)
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {num_files} images cannot be read",
            found=some(unreadable),
            remedy="Replace them, make them readable, or take them out of the data set",
        )


def check_classes(labels: dict[str, np.ndarray], class_names: tuple[str, ...], source: str) -> None:
    """Make sure that labels are those of the classes, and every class has images in every part.

    Args:
        labels: Integers [N] by part.
        class_names: One name per class, in label order.
        source: The data set, for errors.

    Raises:
        DataError: What is wrong with which part.
    """
    if len(class_names) < 2:
        raise DataError(
            "The data set has only one class",
            found=f"{some(class_names)} in {source}",
            remedy="Give it images of at least two",
        )
    if len(set(class_names)) < len(class_names):
        raise DataError(
            "Two classes of the data set have the same name",
            found=f"{some(name for name in class_names if class_names.count(name) > 1)} in {source}",
            remedy="Give each a name of its own",
        )
    if pairs := same_to_see(class_names):
        raise DataError(
            "Two classes of the data set have names that look the same",
            found=f"{some(f'{spelled(one)} and {spelled(other)}' for one, other in pairs)} in {source}; "
            f"they differ in {difference(*pairs[0])}",
            remedy="Spell a class alike everywhere; give two classes names that can be told apart",
        )
    for part, found in labels.items():
        present = set(np.unique(found).tolist())
        if strange := sorted(present.difference(range(len(class_names)))):
            raise DataError(
                f"Labels of {part!r} are none of a class",
                found=f"{some(str(label) for label in strange)} in {source}, which has {len(class_names)} classes",
                remedy="Labels count from 0; -1 stands for a hidden one: choose another validation part",
            )
        missing = [name for number, name in enumerate(class_names) if number not in present]
        if missing:
            pairs = alike(missing, (class_names[number] for number in sorted(present)))
            hints = f"; {some(f'{spelled(one)} and {spelled(other)}' for one, other in pairs)} differ only in "
            raise DataError(
                f"Every class needs images in every part, {part!r} lacks some",
                found=f"No image of class {some(missing)} in {source}{hints + difference(*pairs[0]) if pairs else ''}",
                remedy="Spell a class alike in every part"
                if pairs
                else "Add such images, or number the classes without a gap from 0 on",
            )


def version(file: Path) -> tuple[int, int]:
    """(size, time of change); decoding tells of a file that is not there, such as a dangling link."""
    try:
        status = file.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def some(names: Iterable[str]) -> str:
    """The first few of the names and how many more there are.

    >>> some(["a", "b"]), some([])
    ('a, b', 'nothing')
    """
    names = [visible(name) for name in names]
    more = f" and {len(names) - _NUM_TOLD} more" if len(names) > _NUM_TOLD else ""
    return (", ".join(names[:_NUM_TOLD]) or "nothing") + more


def told(data: ImageData) -> str:
    """One line on how many images of how many classes were read in each part, and what was passed over, and why.

    >>> import numpy as np
    >>> images, labels = np.zeros((3, 3, 8, 8), np.uint8), np.array([0, 1, 1])
    >>> told(ImageData("pets", ("cat", "dog"), images, labels, images[:2], labels[:2]))
    'Data pets: 3 training images of 2 classes, 2 validation images of 2 classes; nothing passed over.'
    """
    parts = (("training", data.train_labels), ("validation", data.val_labels))
    read = ", ".join(f"{len(own):,} {name} images of {len(np.unique(own)):,} classes" for name, own in parts)
    return f"Data {visible(data.name)}: {read}; {told_passed_over(data.passed_over)}."


def told_passed_over(found: Sequence[PassedOver]) -> str:
    """What was passed over: how many, why, and where the first one lies.

    >>> told_passed_over([PassedOver("hidden files", 2, "train/.a"), PassedOver("links that lead nowhere", 1, "val/b")])
    'passed over: 2 hidden files (train/.a), 1 of links that lead nowhere (val/b)'
    """
    if not found:
        return "nothing passed over"
    reasons = [
        f"{one.count:,} {'of ' * (one.count == 1)}{one.reason} ({visible(one.example)})" for one in found[:_NUM_TOLD]
    ]
    if rest := found[_NUM_TOLD:]:
        reasons.append(f"{sum(one.count for one in rest):,} for other reasons ({some(one.reason for one in rest)})")
    return f"passed over: {', '.join(reasons)}"


def _decode(source: Path | bytes, image_size: int) -> np.ndarray | str:
    """One image, uint8 [H, W, 3], or why it cannot be read."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            return "it is no regular file"  # to open a pipe would wait for ever
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            image.draft(None, (2 * image_size, 2 * image_size))  # JPEG: skip the detail that resizing would drop
            return np.asarray(ImageOps.fit(_rgb(image), (image_size, image_size), Image.Resampling.BILINEAR))
    except UnidentifiedImageError:
        return f"its content is none of {', '.join(FORMATS)}"
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    """The image upright, on the ground, 8 bits per channel."""
    codec = image.tile[0].args if image.tile else ""
    stored = str(codec[0] if isinstance(codec, tuple) and codec else codec)  # such as "I;12": 12 bits of grey
    is_negative = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0
    scaled_by_pillow = image.format in ("PNG", "PPM")
    frame = image.tile[0].extents if image.format == "GIF" and image.tile else None
    if frame is not None and frame != (0, 0, *image.size):
        return _on_ground(_on_canvas(image, frame))
    upright = _upright(image)
    transparent = upright.info.get("transparency")
    if transparent is not None and stored in _GREY_STEPS:
        upright.info["transparency"] = transparent * _GREY_STEPS[stored]
    if transparent is not None and stored.startswith("RGB;16"):
        raise ValueError("its transparent colour has 16 bits per channel, of which Pillow keeps 8")
    if upright.mode.startswith("I;16") or (upright.mode == "I" and scaled_by_pillow):
        upright = _grey(np.asarray(upright), 4095 if stored == "I;12" else 65535, is_negative, transparent)
    elif upright.mode in ("I", "F", "LAB"):
        what = {"I": "signed or 32-bit integers", "F": "floating-point numbers", "LAB": "CIELAB colours"}[upright.mode]
        raise ValueError(f"its pixels are {what}, of which no file says how they are shown")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    if upright.mode == "La":  # for which Pillow has no direct way
        upright = upright.convert("LA")
    return _on_ground(upright.convert("RGBA"))


def _on_ground(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, _GROUND), rgba).convert("RGB")


def _on_canvas(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """RGBA of a frame that covers a part of its canvas: the rest, which Pillow fills with a colour, is transparent."""
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.convert("RGBA").crop(box), box)
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; an orientation that only XMP tells is passed over, as viewers do.

    `ImageOps.exif_transpose` also writes the EXIF anew, and fails where other tags of it are odd.
    """
    image.load()
    for xmp in ("XML:com.adobe.xmp", "xmp"):
        image.info.pop(xmp, None)
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF makes Pillow raise nearly anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _grey(codes_HW: np.ndarray, highest: int, is_negative: bool, transparent: int | None) -> Image.Image:
    """Grey of more than 8 bits as L, or LA where a code is transparent; Pillow would clip instead of scaling."""
    bytes_HW = (codes_HW / (highest / 255)).round().astype(np.uint8)
    grey = Image.fromarray(255 - bytes_HW if is_negative else bytes_HW)
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(codes_HW == transparent, 0, 255).astype(np.uint8)))
    return grey


def _intact(path: Path, key: bytes) -> bool:
    """Whether the file is there, whole, and made with this key."""
    try:
        with path.open("rb") as file:
            content_bytes = path.stat().st_size - _DIGEST_BYTES
            return content_bytes > 0 and _digest(file, key, content_bytes) == file.read()
    except OSError:
        return False


def _write(path: Path, key: bytes, shape: tuple[int, ...], build: Callable[[], Iterable[np.ndarray]]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    digest = hashlib.sha256(key)
    with _no_space(path, shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            # Errors of `build` are its own, so only the writing is inside `_no_space`
            for part in chain([np.frombuffer(header.getvalue(), np.uint8)], build()):
                content = np.ascontiguousarray(part).data.cast("B")
                digest.update(content)
                with _no_space(path, shape):
                    _append(file, content)
            with _no_space(path, shape):
                _append(file, memoryview(digest.digest()))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _append(file: FileIO, content: memoryview) -> None:
    while content:  # a nearly full disk takes a part of it, and refuses the next
        content = content[file.write(content) :]


@contextmanager
def _no_space(path: Path, shape: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoSpaceError(
            "The cache of a data set cannot be written",
            found=f"{path}: {error.strerror or error} ({math.prod(shape) / 2**20:.0f} MiB needed)",
            remedy="Free space there, or choose a folder that can be written",
        ) from error


def _digest(file: BinaryIO, key: bytes, num_bytes: int) -> bytes:
    """SHA-256 of the key and of the next `num_bytes` of the file, read in chunks to spare memory."""
    digest = hashlib.sha256(key)
    while num_bytes > 0 and (chunk := file.read(min(num_bytes, _CHUNK_BYTES))):
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.digest()
