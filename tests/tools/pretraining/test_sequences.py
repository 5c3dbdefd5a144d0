"""Packing texts into full sequences."""

from __future__ import annotations

import pytest

from tests.tools.pretraining.samples import FAMILIES, TEXTS, recipe
from tools.pretraining import PretrainingError, Trainer, pack_sequences
from tools.pretraining.sequences import digest


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_are_full_and_delimited(family, tokenizers):
    tokenizer = tokenizers[family]
    rows = pack_sequences(family, tokenizer, TEXTS, 16)
    assert rows.shape[1] == 16
    assert tokenizer.pad_token_id not in rows
    if family == "gpt2":
        assert tokenizer.decode(rows.ravel()).split("<|endoftext|>")[0].strip() == TEXTS[0].lower()
        assert (rows == tokenizer.eos_token_id).sum() == pytest.approx(len(TEXTS), abs=1)
    else:
        assert (rows[:, 0] == tokenizer.cls_token_id).all()
        assert (rows[:, -1] == tokenizer.sep_token_id).all()
        inner = tokenizer.decode(rows[:, 1:-1].ravel()).split(tokenizer.sep_token)[0]
        assert inner.replace(" ", "") == TEXTS[0].lower().replace(" ", "")


def test_digest_tells_strings_and_their_borders_apart():
    assert len({digest(parts) for parts in (["ab"], ["a", "b"], ["b", "a"], ["\ud800"], [])}) == 5


def test_too_little_text_is_refused(tokenizers):
    rows = pack_sequences("bert", tokenizers["bert"], TEXTS[:4], 16)
    with pytest.raises(PretrainingError, match="expected at least batch_size = 4"):
        Trainer(recipe("bert"), tokenizers["bert"], rows[:3])
