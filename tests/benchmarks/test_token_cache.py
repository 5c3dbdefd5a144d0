"""The page of the token caches' measurements, and the number of draws that it compares with."""

import json

import numpy as np
import pytest

from benchmarks import token_cache
from kdcache.logits.tokens import RS, Full, Threshold


def test_the_committed_page_is_that_of_the_committed_numbers():
    run = json.loads(token_cache.JSON.read_text())
    assert token_cache.PAGE.read_text() == token_cache.page(run)


def test_how_many_draws_give_so_many_different_tokens():
    p = np.full((3, 10), 0.1)
    assert token_cache._search(p, 1.0) == 1
    assert token_cache._search(p, 10 * (1 - 0.9**7)) == 7


@pytest.mark.parametrize(
    ("how", "name"), [(Threshold(1 / 50), "threshold 1/50"), (RS(9), "rs 9"), (Full(), "full")]
)
def test_names(how, name):
    assert token_cache.name_of(how) == name
