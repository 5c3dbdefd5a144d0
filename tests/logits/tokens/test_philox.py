"""Philox against Random123's known answers, and what its numbers depend on."""

import numpy as np
import pytest

from kdcache.logits.tokens.philox import philox, uniforms

KNOWN = [  # counter, key, words: Random123's kat_vectors for philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(tuple(np.array([word], np.uint32) for word in counter), key[0] | key[1] << 32)
    assert tuple(int(word[0]) for word in words) == expected


def test_a_number_is_its_address_alone():
    rows, positions = np.repeat([7, 2**40, 9], 5), np.tile(np.arange(5), 3)
    together = uniforms(3, rows, positions, draw=2, count=7)
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(uniforms(3, rows[order], positions[order], 2, 7), together[order])
    np.testing.assert_array_equal(uniforms(3, rows[4:5], positions[4:5], 2, 5), together[4:5, :5])
    assert len(np.unique(together)) == together.size
    for other in (uniforms(4, rows, positions, 2, 7), uniforms(3, rows, positions, 1, 7)):
        assert not np.isin(other, together).any()


def test_no_positions_need_no_numbers():
    assert uniforms(0, [], [], count=3).shape == (0, 3)


def test_numbers_are_uniform():
    numbers = uniforms(0, np.arange(20000), np.zeros(20000, int))[:, 0]
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 90  # chi-squared, 49 degrees of freedom: p = 0.0003
    assert numbers.min() >= 0
    assert numbers.max() < 1
