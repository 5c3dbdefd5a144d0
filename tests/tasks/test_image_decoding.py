"""Decoding of images: what 8-bit grey or RGB in sRGB holds comes out as it went in; everything else is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import png
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from kdcache.tasks import image_decoding
from kdcache.tasks.image_decoding import decode

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 255, (6, 5, 4), dtype=np.uint8)
OPAQUE = np.concatenate([RGB, np.full((6, 5, 1), 255, np.uint8)], axis=2)


def saved(image: Any, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """The file that Pillow writes of pixels or an image."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def written(rows: Any, width: int, height: int, **options: Any) -> bytes:
    """The file that pypng writes of rows of samples."""
    buffer = io.BytesIO()
    png.Writer(width, height, **options).write(buffer, rows)
    return buffer.getvalue()


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with a chunk more, right after its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (saved(GREY), GREY),
        (saved(RGB), RGB),
        (saved(OPAQUE), RGB),
        (saved(GREY, mode="LA"), GREY),
        (saved(GREY > 99), np.where(GREY > 99, 255, 0)),
        (saved(GREY, "BMP"), GREY),
        (saved(RGB, "BMP"), RGB),
        (saved(OPAQUE, "BMP"), RGB),
        (saved(RGB, "TIFF"), RGB),
        (saved(RGB, "TIFF", compression="tiff_lzw"), RGB),
        (saved(OPAQUE, "TIFF"), RGB),
        (saved(RGB, "WEBP", lossless=True), RGB),
        (saved(GREY, "GIF"), np.stack([GREY] * 3, axis=2)),  # GIF has palettes only
        (saved(RGB, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), RGB),
        (with_chunk(saved(RGB), b"gAMA", struct.pack(">I", 45455)), RGB),
        (with_chunk(saved(RGB), b"cICP", bytes([1, 13, 0, 1])), RGB),
        (saved(Image.fromarray(RGB).quantize(256)), None),
        (saved(RGB, transparency=(1, 2, 3)), RGB),  # a transparent colour that no pixel has
    ],
)
def test_images_that_are_read(data: bytes, pixels: Any) -> None:
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) if pixels is None else pixels
    assert decode(data).dtype == np.uint8
    assert np.array_equal(decode(data), expected)


def tiff(pixels: Any, **tags: Any) -> bytes:
    """A TIFF by hand: unsigned or float samples of any depth and number, one strip, without compression."""
    height, width, channels = pixels.shape
    depth, kind = pixels.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    extra = max(0, channels - 3)
    tags = {
        256: [width],
        257: [height],
        258: [depth] * channels,
        259: [1],
        262: [1 if channels < 3 else 2],
        273: [8],
    }
    tags |= {277: [channels], 278: [height], 279: [pixels.nbytes], **({338: [0] * extra} if extra else {})}
    tags |= {339: [kind] * channels}
    body = b"II*\0" + struct.pack("<I", 8 + pixels.nbytes) + pixels.tobytes()
    entries, values, start = b"", b"", len(body) + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        content = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(content) > 4:
            values, content = values + content, struct.pack("<I", start + len(values))
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + content.ljust(4, b"\0")
    return body + struct.pack("<H", len(tags)) + entries + bytes(4) + values


def test_a_tiff_by_hand_is_read() -> None:
    assert np.array_equal(decode(tiff(RGB)), RGB)


TWO = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
SIXTEEN = RNG.integers(0, 65536, (6, 5, 4), dtype=np.uint16)


def exif(tags: dict[int, Any]) -> bytes:
    data = Image.Exif()
    for tag, value in tags.items():
        data[tag] = value
    return data.tobytes()


def icc_profile(gamma: float, *primaries: tuple[float, float, float]) -> bytes:
    """An ICC profile of the kind that monitors have: one gamma; XYZ of red, green and blue (none: a grey profile)."""
    s15 = lambda *values: b"".join(struct.pack(">i", round(value * 65536)) for value in values)  # noqa: E731
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + s15(0.9642, 1.0, 0.8249)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), b"wtpt": white}
    if primaries:
        tags |= {
            name: b"XYZ " + bytes(4) + s15(*xyz)
            for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
        }
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    else:
        tags |= {b"kTRC": curve}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(
        ">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB " if primaries else b"GRAY", b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


# Columns of the matrices to XYZ under D50, as ICC profiles have them.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            written([row.ravel() for row in SIXTEEN[..., :1]], 5, 6, greyscale=True, bitdepth=16),
            "8 bits a channel",
        ),
        (
            written([row.ravel() for row in SIXTEEN[..., :2]], 5, 6, greyscale=True, alpha=True, bitdepth=16),
            "8 bits a channel",
        ),
        (
            written([row.ravel() for row in SIXTEEN[..., :3]], 5, 6, greyscale=False, bitdepth=16),
            "8 bits a channel",
        ),
        (
            written([row.ravel() for row in SIXTEEN], 5, 6, greyscale=False, alpha=True, bitdepth=16),
            "8 bits a channel",
        ),
        (tiff(SIXTEEN[..., :1]), "8 bits a channel"),
        (tiff(SIXTEEN[..., :3]), "8 bits a channel"),
        (tiff(SIXTEEN), "8 bits a channel"),
        (tiff(GREY.astype(np.float32)[..., None]), "8 bits a channel"),
        (tiff(GREY.astype(np.int8)[..., None]), "8 bits a channel"),
        (tiff(GREY.astype(np.int32)[..., None]), "8 bits a channel"),
        (tiff(np.concatenate([RGB, RGB], axis=2)), "has 6 channels, of which RGB has room for 3"),
        (tiff(RGBA), "has 4 channels, of which RGB has room for 3"),  # the fourth is not said to be alpha
        (saved(RGB, **TWO), "several frames or pages"),
        (saved(RGB, default_image=True, **TWO), "several frames or pages"),
        (saved(RGB, "GIF", **TWO), "several frames or pages"),
        (saved(RGB, "TIFF", **TWO), "several frames or pages"),
        (saved(RGB, "WEBP", **TWO), "several frames or pages"),
        (saved(RGB, "MPO", **TWO), "several frames or pages"),
        (saved(RGBA), "is transparent in places"),
        (saved(RGBA, "TIFF"), "is transparent in places"),
        (saved(RGBA, "WEBP", lossless=True), "is transparent in places"),
        (saved(RGBA, "BMP"), "has a fourth byte a pixel"),
        (saved(RGBA, mode="LA"), "is transparent in places"),
        (saved(RGB, transparency=tuple(RGB[2, 3].tolist())), "is transparent in places"),
        (saved(GREY, transparency=int(GREY[2, 3])), "is transparent in places"),
        (saved(GREY > 99, transparency=1), "is transparent in places"),
        (saved(Image.fromarray(RGB).quantize(8), transparency=bytes([255, 128])), "is transparent in places"),
        (saved(Image.fromarray(RGB).quantize(8), "GIF", transparency=0), "is transparent in places"),
        (saved(RGB, "JPEG", mode="CMYK"), "has colour space CMYK; convert it to RGB or grey"),
        (saved(RGB, "TIFF", mode="CMYK"), "has colour space CMYK"),
        (saved(RGB, "TIFF", mode="LAB"), "has colour space LAB"),
        (saved(RGB, "TIFF", mode="YCbCr"), "has colour space YCbCr"),
        (saved(RGB, icc_profile=icc_profile(2.2, *P3)), "a colour profile that is not sRGB's"),
        (saved(RGB, "JPEG", icc_profile=icc_profile(2.2, *ADOBE)), "a colour profile that is not sRGB's"),
        (saved(RGB, "TIFF", icc_profile=icc_profile(1.0, *SRGB)), "a colour profile that is not sRGB's"),
        (saved(RGB, "WEBP", icc_profile=icc_profile(1.8, *SRGB)), "a colour profile that is not sRGB's"),
        (saved(GREY, icc_profile=icc_profile(1.0)), "a colour profile that is not sRGB's"),
        (saved(RGB, icc_profile=b"no profile"), "a colour profile that is not sRGB's"),
        (with_chunk(saved(RGB), b"gAMA", struct.pack(">I", 100000)), "has a gamma of 1, not sRGB's 0.4545"),
        (with_chunk(saved(RGB), b"cICP", bytes([9, 16, 0, 1])), "cICP chunk that is not sRGB's"),
        (
            with_chunk(
                saved(RGB), b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
            ),
            "other primary colours than sRGB",
        ),
        (saved(RGB, "JPEG", exif=exif({0x8769: {0xA005: {1: "R03"}}})), "colours of Adobe RGB"),
        (saved(RGB, "ICO"), "is none of PNG, JPEG, BMP, GIF, WEBP, TIFF"),
        (saved(RGB, "PPM"), "is none of PNG"),
        (saved(RGB, "JPEG2000"), "is none of PNG"),
        (saved(RGB, "EPS"), "is none of PNG"),
        (saved(RGB)[:-30], r"cannot be decoded \(\d+ bytes\): image file is truncated"),
        (saved(Image.new("1", (8192, 8193))), "has 8,192 x 8,193 pixels, more than 67,108,864"),
        (b"<html>404</html>", r"cannot be decoded \(16 bytes\)"),
        (b"", r"cannot be decoded \(0 bytes\)"),
    ],
)
def test_images_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data)


def png_by_hand(pixels: bytes, depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row of four pixels, with these chunks before its pixels."""
    header = struct.pack(">IIBBBBB", 4, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


@pytest.mark.parametrize(
    ("depth", "pixels", "colour", "expected"),
    [
        (2, b"\x1b", 1, None),  # 0, 1, 2, 3
        (2, b"\x3c", 1, [0, 255, 255, 0]),  # 0, 3, 3, 0
        (4, b"\x01\x5f", 5, None),  # 0, 1, 5, 15
        (4, b"\x01\x5f", 4, [0, 17, 85, 255]),
        (1, b"\x50", 1, None),
        (1, b"\x00", 1, [0, 0, 0, 0]),
    ],
)
def test_a_transparent_grey_of_few_bits(depth: int, pixels: bytes, colour: int, expected: Any) -> None:
    data = png_by_hand(pixels, depth, 0, (b"tRNS", struct.pack(">H", colour)))
    if expected is None:
        with pytest.raises(ValueError, match="is transparent in places"):
            decode(data)
    else:
        assert decode(data).tolist() == [expected]


def test_a_palette_that_lacks_colours() -> None:
    short = (b"PLTE", bytes(range(6)))
    assert decode(png_by_hand(b"\0\1\1\0", 8, 3, short)).tolist() == [
        [[0, 1, 2], [3, 4, 5], [3, 4, 5], [0, 1, 2]]
    ]
    with pytest.raises(ValueError, match="has pixels of colour 2, but a palette of 2; save it again"):
        decode(png_by_hand(b"\0\1\2\0", 8, 3, short))
    with pytest.raises(ValueError, match="has pixels of colour 0, but a palette of 0"):
        decode(png_by_hand(bytes(4), 8, 3))


def test_a_bmp_palette_that_lacks_colours() -> None:
    data = bytearray(saved(Image.fromarray(RGB).quantize(8), "BMP"))
    data[46:50] = struct.pack("<I", 3)  # the number of its colours
    with pytest.raises(ValueError, match=r"has pixels of colour \d, but a palette of 3"):
        decode(bytes(data))


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("colours", [2, 5, 16, 200])
def test_a_palette_of_any_length(form: str, colours: int) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).quantize(colours)
    assert np.array_equal(decode(saved(image, form)), np.asarray(image.convert("RGB")))


def test_a_gif_whose_frame_is_smaller_than_its_picture() -> None:
    data = bytearray(saved(RGB, "GIF"))
    data[6:8] = struct.pack("<H", 9)  # the picture's width; the frame's is 5
    with pytest.raises(ValueError, match="has a frame that does not cover its 9 x 6 pixels"):
        decode(bytes(data))


@pytest.mark.parametrize("profile", [b"x\0\0damaged", b"x\0\0" + zlib.compress(b"")])
def test_a_damaged_colour_profile(profile: bytes) -> None:
    with pytest.raises(ValueError, match="has a colour profile that cannot be read"):
        decode(with_chunk(saved(RGB), b"iCCP", profile))


@pytest.mark.parametrize(("more", "read"), [(0, True), (1, True), (2, False)])
def test_a_tiff_palette_of_16_bits(more: int, read: bool) -> None:
    """A colour c of 8 bits is 256c or 257c; 256c + 2 is none of them."""
    image = Image.fromarray(RGB).quantize(8)
    data = saved(image, "TIFF")
    palette = Image.open(io.BytesIO(data)).tag_v2[320]  # type: ignore[attr-defined]
    colours = [colour + (colour // 256 if more == 1 else more) for colour in palette]
    data = data.replace(struct.pack("<768H", *palette), struct.pack("<768H", *colours))
    if read:
        assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))
    else:
        with pytest.raises(ValueError, match="more than 8 bits a channel"):
            decode(data)


def test_many_pages_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)] * 50)
    looked_at: list[int] = []
    seek = TiffImagePlugin.TiffImageFile._seek
    monkeypatch.setattr(
        TiffImagePlugin.TiffImageFile,
        "_seek",
        lambda image, frame: (looked_at.append(frame), seek(image, frame)),
    )
    with pytest.raises(ValueError, match="several frames or pages"):
        decode(data)
    assert len(looked_at) < 4


@pytest.mark.parametrize("gamma", [2.2, 2.19921875])
def test_profiles_that_look_like_srgb(gamma: float) -> None:
    assert np.array_equal(decode(saved(RGB, icc_profile=icc_profile(gamma, *SRGB))), RGB)
    assert np.array_equal(decode(saved(GREY, icc_profile=icc_profile(gamma))), GREY)


TURNED = {  # Exif's names of the sides that row 0 and column 0 of the stored image are, as NumPy turns it upright
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_photos_are_turned_upright_once(orientation: int, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(RGB, form, exif=exif({0x0112: orientation}), **options)
    assert np.array_equal(decode(data), TURNED[orientation](RGB))


@settings(deadline=None)  # drawing takes long on a busy machine
@given(st.data())
def test_a_png_of_another_encoder_is_read_as_another_decoder_does(data: st.DataObject) -> None:
    """Against pypng: grey of 1, 2, 4 and 8 bits, RGB, palettes, opaque alpha; interlaced or not."""
    width, height = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    kind = data.draw(st.sampled_from(["grey", "rgb", "palette", "grey alpha", "rgb alpha"]))
    depth = data.draw(st.sampled_from([1, 2, 4, 8])) if kind in ("grey", "palette") else 8
    options: dict[str, Any] = {"bitdepth": depth, "interlace": data.draw(st.booleans())}
    planes = {"grey": 1, "palette": 1, "grey alpha": 2, "rgb": 3, "rgb alpha": 4}[kind]
    if kind == "palette":
        options["palette"] = [tuple(data.draw(st.binary(min_size=3, max_size=3))) for _ in range(2**depth)]
    else:
        options |= {"greyscale": "grey" in kind, "alpha": "alpha" in kind}
    raw = np.frombuffer(
        data.draw(st.binary(min_size=width * height * planes, max_size=width * height * planes)), "u1"
    )
    samples = (raw.reshape(height, width, planes) & (2**depth - 1)).astype(np.uint8)
    if "alpha" in kind:
        samples[..., -1] = 255
    encoded = written(samples.reshape(height, -1).tolist(), width, height, **options)
    _, _, rows, info = (
        png.Reader(bytes=encoded).asRGB8() if "alpha" not in kind else png.Reader(bytes=encoded).asRGBA8()
    )
    expected = np.array(list(rows), dtype=np.uint8).reshape(height, width, info["planes"])[..., :3]
    decoded = decode(encoded)
    assert np.array_equal(np.stack([decoded] * 3, axis=2) if decoded.ndim == 2 else decoded, expected)
    assert decoded.ndim == (2 if "grey" in kind else 3)


def test_real_images_are_read_as_another_decoder_does() -> None:
    path = Path(os.environ.get("KDCACHE_CIFAR10", "not-set")) / "train.parquet"
    if not path.is_file():
        pytest.skip(f"no {path} (KDCACHE_CIFAR10 names a folder that may hold CIFAR-10 as Parquet)")
    for image in pq.read_table(path, columns=["img"]).column("img").to_pylist()[:200]:
        _, _, rows, _ = png.Reader(bytes=image["bytes"]).asRGB8()
        assert np.array_equal(decode(image["bytes"]), np.array(list(rows), np.uint8).reshape(32, 32, 3))


def test_a_profile_is_looked_at_once() -> None:
    image_decoding._is_srgb.cache_clear()
    data = saved(RGB, icc_profile=icc_profile(2.2, *SRGB))
    for _ in range(3):
        decode(data)
    assert image_decoding._is_srgb.cache_info().misses == 1
