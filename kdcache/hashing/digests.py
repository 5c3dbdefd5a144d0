"""A row's hash, from the bytes that stand for its content and its label."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from kdcache.errors import CacheError

# A cache's manifest names the algorithm. kdcache 0.1 used XXH3. With XXH3 anybody can make up rows that share a hash.
Algorithm = Literal["blake2b", "xxh3"]
BLAKE2B: Algorithm = "blake2b"
XXH3: Algorithm = "xxh3"

BYTES = 16  # in a digest: 8 for the row's hash, and 8 more to tell rows apart that share a hash
Digests: TypeAlias = npt.NDArray[np.uint64]  # [N, 2]


def row_hash(parts: Sequence[bytes], label: int | float | None, algorithm: Algorithm = BLAKE2B) -> int:
    """Stable 64-bit hash of one row's content and label. It joins logits to the rows they belong to.

    It is the first 8 bytes, little-endian, of a 16-byte BLAKE2b. That covers, for each part, its length (8 bytes,
    little-endian) and its bytes; then the label as `i` and 8 bytes (signed, little-endian) or `f` and 8 bytes (IEEE 754
    double, little-endian; -0.0 counts as 0.0). With `xxh3` it is the XXH3-64 (seed 0) of the same bytes.

    Args:
        parts: text columns in UTF-8, or the image's bytes, in column order.
        label: the class index, or the target of a regression. None is for a row without a label. It counts as one more
            part `\\0unlabelled` and the label 0.

    Returns:
        An unsigned 64-bit integer.

    Raises:
        CacheError: an integer label does not fit 64 bits.
    """
    return short(digest(parts, label, algorithm))


def digest(parts: Sequence[bytes], label: int | float | None, algorithm: Algorithm = BLAKE2B) -> bytes:
    """The row's digest, 16 bytes. The first 8 are the row's hash."""
    if label is None:
        return digest([*parts, b"\0unlabelled"], 0, algorithm)
    return digest_of(with_lengths(parts) + label_bytes(label), algorithm)


def digest_of(content: bytes | memoryview, algorithm: Algorithm = BLAKE2B) -> bytes:
    """The digest of a row that is already encoded."""
    if algorithm == BLAKE2B:
        return hashlib.blake2b(content, digest_size=BYTES).digest()
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(content)) + xxhash.xxh3_128_digest(content)[:8]


def digests_of(contents: Iterable[bytes], algorithm: Algorithm = BLAKE2B) -> Digests:
    """The digests [n, 2] of rows that are already encoded."""
    digests = b"".join([digest_of(content, algorithm) for content in contents])
    return np.frombuffer(digests, "<u8").astype(np.uint64, copy=False).reshape(-1, 2)


def length_and(part: bytes) -> bytes:
    """A part as it is encoded: its length, then its bytes."""
    return struct.pack("<Q", len(part)) + part


def with_lengths(parts: Iterable[bytes]) -> bytes:
    """Parts as they are encoded. Two different lists of parts never have the same bytes."""
    return b"".join([length_and(part) for part in parts])


def label_bytes(label: int | float) -> bytes:
    """A label as it is encoded."""
    try:
        if isinstance(label, Integral):  # NumPy's integers too
            return b"i" + struct.pack("<q", label)
        return b"f" + struct.pack("<d", label + 0.0)
    except (struct.error, OverflowError):
        raise CacheError(
            f"the label {str(label)[:40]} does not fit 64 bits; labels are 0..K-1, or real numbers"
        ) from None


def short(digest_bytes: bytes) -> int:
    """The row's hash, from its digest."""
    return int.from_bytes(digest_bytes[:8], "little")


def checked_hashes(digests: Digests) -> npt.NDArray[np.uint64]:
    """The hashes uint64 [N] of digests [N, 2].

    Raises:
        CacheError: two different rows have the same hash.
    """
    hashes = np.ascontiguousarray(digests[:, 0])
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    clash = same & (digests[order, 1][1:] != digests[order, 1][:-1])
    if clash.any():
        at = int(np.argmax(clash))
        first, second = sorted((int(order[at]), int(order[at + 1])))
        raise CacheError(
            f"rows {first} and {second} are different but have the same hash {int(hashes[first]):016x}: one would get "
            "the other's logits; somebody made them so, remove one of them"
        )
    return hashes
