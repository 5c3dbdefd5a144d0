"""Two hundred odd and damaged inputs of every reader; `make fuzz` tries a hundred thousand."""

from __future__ import annotations

import pytest

from tests.fuzz import beside, caches, folders, readers, token_caches
from tests.fuzz.harness import Reader, fuzz

CASES = 200
READERS = [reader for module in (readers, folders, beside, caches, token_caches) for reader in module.READERS]


@pytest.mark.filterwarnings("ignore")  # Pillow tells of damage that it reads past
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_answer_or_one_error(reader: Reader) -> None:
    outcome = fuzz(reader, range(CASES))
    assert outcome.faults == []
    assert outcome.cases == CASES
    assert outcome.answers > CASES // 50, "hardly a case is read: the inputs are too odd to find faults"
    assert outcome.refusals > CASES // 50, "hardly a case is refused: the inputs are not odd enough"
