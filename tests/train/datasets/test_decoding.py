"""From encoded images to pixels: what every viewer shows alike gives the same pixels, and no range is guessed."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo

from spaceevo.errors import DataError
from spaceevo.train.datasets import _decode, decoded

SIZE = 16
#: A dark disc: True where it is.
DISC = np.hypot(*(np.indices((SIZE, SIZE)) - 7.5)) < 5


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pixels(content: bytes) -> np.ndarray:
    pixels = _decode(content, SIZE)
    assert isinstance(pixels, np.ndarray), pixels
    return pixels


def _png(bits: int, kind: int, rows: list[bytes], transparent: bytes) -> bytes:
    """What Pillow does not write: a PNG of any depth with a transparent colour, SIZE pixels wide."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", SIZE, len(rows), bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _tiff(bits: tuple[int, ...], rows: bytes, extra: int | None = None) -> bytes:
    """What Pillow does not write: a little-endian TIFF of grey with any bits per sample, SIZE pixels wide and high."""
    start = 200
    tags = {256: SIZE, 257: SIZE, 258: sum(bit << 16 * n for n, bit in enumerate(bits)), 259: 1, 262: 1, 273: start,
            277: len(bits), 278: SIZE, 279: len(rows)} | ({338: extra} if extra else {})  # fmt: skip
    shorts, counts = (258,), {258: len(bits)}
    entries = [
        struct.pack("<HHII", tag, 3 if tag in shorts else 4, counts.get(tag, 1), value) for tag, value in tags.items()
    ]
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return header.ljust(start, b"\0") + rows


def _grey_codes(bits: int) -> bytes:
    """The disc in the darkest grey but one of so many bits, on the darkest, which is transparent."""
    rows = []
    for row in DISC:
        digits = "".join(f"{int(is_disc):0{bits}b}" for is_disc in row)
        rows.append(int(digits, 2).to_bytes(len(digits) // 8, "big"))
    return _png(bits, 0, rows, b"\0\0")


def _rgba(ground: int) -> Image.Image:
    pixels = np.where(DISC[..., None], np.array([20, 20, 20, 255]), np.array([ground, ground, ground, 0]))
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _palette() -> Image.Image:
    image = Image.fromarray(DISC.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 20, 20, 20])
    return image


def _lists() -> dict[str, bytes]:
    grey = Image.fromarray((20 * DISC).astype(np.uint8))
    multiplied = np.stack([20 * DISC, 255 * DISC], -1).astype(np.uint8).tobytes()
    return {
        "RGBA, black under": _encoded(_rgba(0)),
        "RGBA, white under": _encoded(_rgba(255)),
        "LA": _encoded(_rgba(0).convert("LA")),
        "grey and a transparent one": _encoded(grey, transparency=0),
        "RGB and a transparent colour": _encoded(grey.convert("RGB"), transparency=(0, 0, 0)),
        "palette": _encoded(_palette(), transparency=0),
        "palette, alpha for each colour": _encoded(_palette(), transparency=bytes([0, 255])),
        "16 bits of grey": _encoded(Image.fromarray((20 * 257 * DISC).astype(np.uint16)), transparency=0),
        "GIF": _encoded(_palette(), "GIF", transparency=0),
        "animated GIF": _encoded(_palette(), "GIF", transparency=0, save_all=True, append_images=[_rgba(100)]),
        "WebP": _encoded(_rgba(0), "WEBP", lossless=True, exact=True),
        "animated WebP": _encoded(
            _rgba(0), "WEBP", lossless=True, exact=True, save_all=True, append_images=[_rgba(255).rotate(90)]
        ),
        "animated PNG": _encoded(_rgba(0), save_all=True, append_images=[Image.new("RGBA", (SIZE, SIZE), "red")]),
        "TIFF": _encoded(_rgba(0), "TIFF"),
        "TIFF, LA": _encoded(_rgba(0).convert("LA"), "TIFF"),
        "TIFF, PA": _encoded(_rgba(0).convert("PA"), "TIFF"),
        "JPEG 2000": _encoded(_rgba(0), "JPEG2000"),
        "QOI": _encoded(_rgba(0), "QOI"),
        "TIFF, alpha multiplied into the grey": _tiff((8, 8), multiplied, extra=1),
    }


ENCODED = _lists()
ON_WHITE = np.where(DISC[..., None], 20, 255).repeat(3, 2)


@pytest.mark.parametrize("name", ENCODED)
def test_transparent_is_white(name: str) -> None:
    np.testing.assert_array_equal(_pixels(ENCODED[name]), ON_WHITE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(bits: int) -> None:
    """Pillow scales the codes of the pixels to eight bits, not the transparent one."""
    darkest = 255 // (2**bits - 1)
    np.testing.assert_array_equal(_pixels(_grey_codes(bits)), np.where(DISC[..., None], darkest, 255).repeat(3, 2))


def test_a_transparent_grey_that_is_not_black() -> None:
    codes = [0x1B] * (SIZE // 4)  # 0, 1, 2, 3, 0, ...
    row = _pixels(_png(2, 0, [bytes(codes)] * SIZE, b"\0\2"))[0, :4, 0]
    assert row.tolist() == [0, 85, 255, 255]


def test_half_transparent_is_composed_before_resizing() -> None:
    sheer = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 51))
    assert (_pixels(_encoded(sheer)) == 204).all()
    stripes = np.zeros((4 * SIZE, 4 * SIZE, 4), np.uint8)
    stripes[:, ::2] = (100, 100, 100, 255)  # between them black that nobody sees
    inner = _pixels(_encoded(Image.fromarray(stripes)))[4:-4, 4:-4]
    np.testing.assert_allclose(inner.mean(), (100 + 255) / 2, atol=1)


def test_opaque_images_are_as_ever() -> None:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    plain = _pixels(_encoded(rgb))
    np.testing.assert_array_equal(_pixels(_encoded(rgb.convert("RGBA"))), plain)
    for kind in ("BMP", "TIFF", "PPM", "QOI"):
        np.testing.assert_array_equal(_pixels(_encoded(rgb, kind)), plain)


GREY16 = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_scaled(kind: str) -> None:
    expected = np.round(GREY16 / 257)
    image = Image.fromarray(GREY16)
    np.testing.assert_array_equal(_pixels(_encoded(image, kind))[..., 0], expected)


def test_16_bits_of_either_order_and_sign() -> None:
    expected = np.round(GREY16 / 257)
    big = Image.frombytes("I;16B", (SIZE, SIZE), GREY16.astype(">u2").tobytes())
    np.testing.assert_array_equal(_pixels(_encoded(big, "TIFF"))[..., 0], expected)
    negative = _encoded(Image.fromarray(GREY16), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(_pixels(negative)[..., 0], 255 - expected)


def test_12_bits_are_scaled() -> None:
    codes = np.linspace(0, 4095, SIZE).astype(int)
    row = int("".join(f"{code:012b}" for code in codes), 2).to_bytes(SIZE * 12 // 8, "big")
    np.testing.assert_allclose(_pixels(_tiff((12,), row * SIZE))[0, :, 0], codes * 255 / 4095, atol=0.51)


REFUSED = {
    "floating-point numbers": _encoded(Image.new("F", (SIZE, SIZE), 0.5), "TIFF"),
    "integers": _encoded(Image.new("I", (SIZE, SIZE), 70000), "TIFF"),
    "CIELAB": _encoded(Image.new("LAB", (SIZE, SIZE)), "TIFF"),
    "16 bits per channel": _png(16, 2, [bytes(6 * SIZE)] * SIZE, bytes(6)),
    "none of PNG, JPEG": b"<html>404</html>",
    "truncated": _encoded(Image.effect_noise((64, 64), 50))[:900],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_be_a_guess_is_refused(reason: str) -> None:
    told = _decode(REFUSED[reason], SIZE)
    assert isinstance(told, str)
    assert reason in told
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read.*'a\\nb\.tif' \(") as caught:
        list(decoded([("fine.png", ENCODED["QOI"]), ("a\nb.tif", REFUSED[reason])], SIZE))
    assert "\n" not in str(caught.value)


def test_colours_of_other_models() -> None:
    for mode, colour in (("CMYK", (0, 255, 255, 0)), ("YCbCr", (76, 85, 255))):
        for kind in ("TIFF", "JPEG"):
            pixels = _pixels(_encoded(Image.new(mode, (SIZE, SIZE), colour), kind))
            np.testing.assert_allclose(pixels, np.broadcast_to((255, 0, 0), pixels.shape), atol=4)


def test_an_image_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = tmp_path / "huge.png"
    file.write_bytes(ENCODED["QOI"])
    with pytest.raises(DataError, match=r"huge\.png \(Image size \(256 pixels\) exceeds"):
        list(decoded([(str(file), file)], SIZE))


def test_one_pixel_and_one_line() -> None:
    assert (_pixels(_encoded(Image.new("RGB", (1, 1), (9, 8, 7)))) == (9, 8, 7)).all()
    assert (_pixels(_encoded(Image.new("RGBA", (3000, 1), (0, 0, 0, 0)))) == 255).all()


def test_a_turned_transparent_image_is_turned() -> None:
    image = Image.new("LA", (SIZE, SIZE), (0, 0))
    ImageDraw.Draw(image).rectangle((0, SIZE // 2, SIZE, SIZE), fill=(40, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the lower half is then on the left
    pixels = _pixels(_encoded(image, exif=exif))
    assert (pixels[:, : SIZE // 2] == 40).all()
    assert (pixels[:, SIZE // 2 :] == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    content = _encoded(Image.fromarray(np.arange(SIZE**2, dtype=np.uint8).reshape(SIZE, SIZE)), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert (_pixels(content)[..., 0] == np.asarray(upright)).all()


def test_odd_exif_keeps_no_image_from_being_read() -> None:
    image = Image.fromarray(np.where(DISC & (np.indices((SIZE, SIZE))[0] < 8), 0, 255).astype(np.uint8))
    for kind in ("PNG", "WEBP"):
        damaged = _encoded(
            image, kind, exif=b"Exif\0\0no TIFF at all", **({"lossless": True} if kind == "WEBP" else {})
        )
        assert (_pixels(damaged)[..., 0] == np.asarray(image)).all()
    # A resolution that is a text, beside the orientation: Pillow reads, but does not write it
    tags = struct.pack(">HHIHHHHI4s", 0x0112, 3, 1, 6, 0, 0x011A, 2, 4, b"72\0\0")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags + bytes(4)
    assert (_pixels(_encoded(image, exif=exif))[..., 0] == np.rot90(np.asarray(image), -1)).all()


def test_an_orientation_in_xmp_alone_turns_nothing() -> None:
    image = Image.fromarray(np.where(np.indices((SIZE, SIZE))[0] < 8, 0, 255).astype(np.uint8))
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert (_pixels(_encoded(image, pnginfo=about))[..., 0] == np.asarray(image)).all()


def test_what_the_first_frame_of_a_gif_leaves_free_is_white() -> None:
    content = bytearray(_encoded(Image.new("P", (SIZE, SIZE // 2)), "GIF"))
    content[8:10] = struct.pack("<H", SIZE)  # the height of the canvas, of which the frame is the upper half
    pixels = _pixels(bytes(content))
    assert (pixels[: SIZE // 2] == 0).all()
    assert (pixels[SIZE // 2 :] == 255).all()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert _decode(tmp_path / "pipe.png", SIZE) == "it is no regular file"
    assert _decode(tmp_path, SIZE) == "it is no regular file"
    assert _decode(Path("/dev/zero"), SIZE) == "it is no regular file"
    assert _decode(tmp_path / "gone.png", SIZE) == "No such file or directory"
