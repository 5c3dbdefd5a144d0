"""Encoded images, decoded without loss: what 8-bit grey or RGB in sRGB cannot hold is refused, not dropped.

Pillow gives an 8-bit picture for almost any file. It cuts channels of 16 bits, takes the first of several frames, and
drops alpha, further channels and colour profiles. Images that differ only in these would then become the same row.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "GIF",
    "WEBP",
    "TIFF",
)  # the formats for which `_refuse_more` knows what Pillow drops
MAX_PIXELS = 1 << 26  # 8,192 x 8,192: 200 MB as RGB
PNG = b"\x89PNG\r\n\x1a\n"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
SRGB_GAMMA = 1 / 2.2  # what PNG writers give for sRGB
SRGB_CHROMATICITY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue: x and y
SAME_GAMMA, SAME_CHROMATICITY = 0.01, 0.01
SAME_LEVELS = 10  # of 255: a gamma of 2.2 instead of sRGB's curve moves no patch by more
SRGB_CICP = bytes([1, 13, 0, 1])  # BT.709 primaries, sRGB's transfer function, RGB, full range
ADOBE_RGB = "R03"  # the Exif interoperability index of cameras that are set to Adobe RGB


def decode(data: bytes) -> Pixels:
    """An encoded image as uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.

    Raises:
        ValueError: it cannot be decoded, or it holds more than the pixels would; the message says what.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            more = _more(image, data)
            if more is None:
                ImageOps.exif_transpose(image, in_place=True)
                more = _transparent_places(image, data)
            grey = image.mode in ("1", "L", "LA")
            if more is None:
                return np.asarray(
                    image if image.mode in ("L", "RGB") else image.convert("L" if grey else "RGB")
                )
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"cannot be decoded ({len(data)} bytes): is none of {known}; convert it to PNG"
        ) from None
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        reason = str(error)[:200] or type(error).__name__
        raise ValueError(f"cannot be decoded ({len(data)} bytes): {reason}") from None
    raise ValueError(more)


def _more(image: Any, data: bytes) -> str | None:
    """What an image's decoded pixels would lose, from its header; None if they lose nothing."""
    if image.width * image.height > MAX_PIXELS:
        return f"has {image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,}; make it smaller"
    if _depth(image, data) > 8:
        return "has more than 8 bits a channel; convert it to 8 bits"
    if image.mode not in MODES:
        return f"has colour space {image.mode}; convert it to RGB or grey"
    if _chunk(data, b"fdAT") is not None or getattr(image, "is_animated", False):
        return "has several frames or pages; keep one"
    if image.format == "TIFF" and image.tag_v2.get(277, 1) != len(image.getbands()):
        return f"has {image.tag_v2[277]} channels, of which {image.mode} has room for {len(image.getbands())}"
    if image.format == "BMP" and _has_fourth_byte(data):
        return "has a fourth byte a pixel, which may be alpha; save it with 24 bits a pixel"
    return _other_colours(image, data) or _missing_parts(image)


def _has_fourth_byte(bmp: bytes) -> bool:
    """Whether a fourth byte beside blue, green and red, which Pillow ignores, is more than padding."""
    start, header = struct.unpack_from("<II", bmp, 10)
    if header < 40 or struct.unpack_from("<HI", bmp, 28) != (
        32,
        0,
    ):  # bits a pixel; no masks that say what it is
        return False
    return len(set(bmp[start + 3 :: 4])) > 1 or bmp[start + 3 : start + 4] not in (b"", b"\0", b"\xff")


def _depth(image: Any, data: bytes) -> int:
    """Bits a channel in the file; 16 if the values are no unsigned integers."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return 16
    if data.startswith(PNG):
        return data[24]
    if image.format == "TIFF":
        bits, kinds = image.tag_v2.get(258, (1,)), image.tag_v2.get(339, (1,))
        palette = image.tag_v2.get(320, ())  # 16 bits a colour: 8 bits come twice, or with zeros
        fine = any(colour % 256 not in (0, colour // 256) for colour in palette)
        return 16 if set(kinds) != {1} or fine else max(bits)
    return 8


def _missing_parts(image: Any) -> str | None:
    """What Pillow would make up: what a GIF's only frame leaves out, colours that a palette lacks; None if nothing."""
    if image.format == "GIF" and image.tile[0][1] != (0, 0, *image.size):
        return f"has a frame that does not cover its {image.width} x {image.height} pixels; save it again"
    if image.mode not in ("P", "PA"):
        return None
    colours, last = len(image.getpalette() or []) // 3, image.getchannel(0).getextrema()[1]
    return (
        f"has pixels of colour {last}, but a palette of {colours}; save it again" if last >= colours else None
    )


def _transparent_places(image: Any, data: bytes) -> str | None:
    """What a decoded image loses with its alpha channel or its transparent colour; None if it is opaque."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return None
    if image.mode == "L" and data.startswith(PNG) and data[24] < 8:
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)  # Pillow scales the pixels alone
    alpha = (image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema()[0] == 255 else "is transparent in places; put it on a background"


def _other_colours(image: Any, data: bytes) -> str | None:
    """How an image declares other colours than sRGB (profile, PNG's gamma and primaries, Exif); None if it does not."""
    convert = "convert its pixels to sRGB"
    coding = _chunk(data, b"cICP")
    if coding is not None:
        return None if coding == SRGB_CICP else f"has colours by a cICP chunk that is not sRGB's; {convert}"
    profile = image.info.get("icc_profile")
    if not profile and _chunk(data, b"iCCP") is not None:
        return f"has a colour profile that cannot be read; {convert}"
    if profile:
        return None if _is_srgb(profile) else f"has a colour profile that is not sRGB's; {convert}"
    if image.getexif().get_ifd(0xA005).get(1) == ADOBE_RGB:
        return f"has the colours of Adobe RGB; {convert}"
    if "srgb" in image.info:
        return None
    gamma, chromaticity = image.info.get("gamma"), image.info.get("chromaticity")
    if gamma is not None and abs(gamma - SRGB_GAMMA) > SAME_GAMMA:
        return f"has a gamma of {gamma:g}, not sRGB's {SRGB_GAMMA:.4f}; {convert}"
    if chromaticity is not None and not np.allclose(chromaticity, SRGB_CHROMATICITY, atol=SAME_CHROMATICITY):
        return f"has other primary colours than sRGB; {convert}"
    return None


@lru_cache(maxsize=64)  # a data set has a few profiles, in many images
def _is_srgb(profile: bytes) -> bool:
    """Whether colours look the same with this ICC profile as without; False if the profile cannot be read."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L"}[given.profile.xcolor_space.strip()]
        patches = _patches(mode)
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
        shown = ImageCms.profileToProfile(patches, given, srgb, intent, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
        return False
    assert shown is not None
    apart = np.asarray(shown, dtype=np.int16) - np.asarray(patches.convert("RGB"), dtype=np.int16)
    return int(np.abs(apart).max()) <= SAME_LEVELS


def _patches(mode: str) -> Image.Image:
    """Colours all over the cube, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))


def _chunk(data: bytes, name: bytes) -> bytes | None:
    """The content of a PNG's first chunk of that name."""
    return next((content for other, content in _chunks(data) if other == name), None)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = len(PNG)
    while data.startswith(PNG) and start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, data[start + 8 : start + 8 + length]
        start += length + 12
