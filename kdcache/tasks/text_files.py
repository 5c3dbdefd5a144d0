"""Open text files in UTF-8; for other files, say what they seem to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kdcache.errors import TaskError

SAVE = "save it as UTF-8"
UNPACK = "unpack it first"
SIGNATURES = {  # the first bytes of files that often have a wrong name
    b"\xff\xfe\0\0": f"is text in UTF-32; {SAVE}",
    b"\xff\xfe": f"is text in UTF-16; {SAVE}",
    b"\xfe\xff": f"is text in UTF-16; {SAVE}",
    b"\x1f\x8b": f"is compressed with gzip; {UNPACK}",
    b"BZh": f"is compressed with bzip2; {UNPACK}",
    b"\xfd7zXZ": f"is compressed with xz; {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"is compressed with zstd; {UNPACK}",
    b"PK\x03\x04": f"is a zip archive or an Excel workbook; {UNPACK}, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save it as CSV in UTF-8",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"ARROW1": "is an Arrow file; save it as Parquet",
}


@contextmanager
def open_text(origin: str, path: Path) -> Iterator[TextIO]:
    """A text file, with its line ends as they are and without a byte order mark.

    Args:
        origin: the split and the file, for messages.

    Raises:
        TaskError: it cannot be read, or is no text in UTF-8; the message says what it seems to be. Bytes are
            checked as they are read, so a bad one may be found late.
    """
    try:
        _refuse_zero_bytes(origin, path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise TaskError(f"{origin}: {_kind(path)}") from None
    except OSError as error:
        raise TaskError(f"{origin}: cannot be read: {error.strerror or error}") from None


def _refuse_zero_bytes(origin: str, path: Path) -> None:
    """Refuse UTF-16 and UTF-32 without a mark, which read as valid UTF-8 with zero bytes between the letters."""
    with path.open("rb") as file:
        head = file.read(4)
    if b"\0" in head and not head.startswith(tuple(SIGNATURES)):
        raise TaskError(f"{origin}: begins with zero bytes, as text in UTF-16 or UTF-32 does; {SAVE}")


def _kind(path: Path) -> str:
    """What a file that is not in UTF-8 seems to be."""
    with path.open("rb") as file:
        head = file.read(8)
        known = next((kind for start, kind in SIGNATURES.items() if head.startswith(start)), None)
        if known is not None:
            return known
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x} in line {number}"
                return f"is not in UTF-8 ({byte}); {SAVE} (from Latin-1: iconv -f latin1 -t utf-8)"
    return f"is not in UTF-8; {SAVE}"
