"""Random numbers that depend only on a seed, a row, a position and a draw.

They come from Philox4x32 with 10 rounds, the counter-based generator of Random123 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3"). It has no state. So batches, processes and interruptions do not change the numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
ROUNDS = 10
BLOCKS = 1 << 20  # the most blocks, of two numbers each, for one draw at one position
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, Words, Words, Words]:
    """Four random words for each counter.

    Args:
        counter: four words, uint32 arrays of one shape.
        seed: 0 to 2^64 - 1, the key.
    """
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    for number in range(ROUNDS):
        first, second = (
            np.uint64((part + number * step) % 2**32)
            for part, step in zip((seed % 2**32, seed >> 32), WEYL, strict=True)
        )
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> HALF) ^ b ^ first, right & LOW, (left >> HALF) ^ d ^ second, left & LOW
    return a.astype(np.uint32), b.astype(np.uint32), c.astype(np.uint32), d.astype(np.uint32)


def uniforms(
    seed: int, rows: npt.ArrayLike, positions: npt.ArrayLike, draw: int = 0, count: int = 1
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits.

    Args:
        seed: 0 to 2^63 - 1.
        rows: row ids [n], 0 or more. positions: the positions in these rows, [n], below 2^32.
        draw: below 2^12. Different draws get independent numbers.
        count: how many numbers at each position, at most 2^21.

    Returns:
        float64 [n, count].
    """
    row, position = np.asarray(rows, np.uint64)[:, None], np.asarray(positions, np.uint64)[:, None]
    block = np.arange(draw * BLOCKS, draw * BLOCKS + (count + 1) // 2, dtype=np.uint64)[None]
    words = np.broadcast_arrays(row & LOW, row >> HALF, position, block)
    a, b, c, d = philox((words[0], words[1], words[2], words[3]), seed)
    pairs = np.stack([_double(a, b), _double(c, d)], axis=-1)
    return pairs.reshape(len(row), 2 * block.shape[1])[:, :count]


def _double(high: Words, low: Words) -> npt.NDArray[np.float64]:
    """A number in [0, 1) from 27 bits of one word and 26 of the other."""
    bits = (high >> np.uint32(5)).astype(np.float64) * 2.0**26 + (low >> np.uint32(6))
    return np.asarray(bits * 2.0**-53)
