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


def test_every_estimator_is_given_the_same_made_up_distributions(monkeypatch):
    monkeypatch.setattr(token_cache, "VOCABULARY", 2000)
    rows = [{"input_ids": list(range(16))}]
    found = token_cache.sizes(token_cache.Peaked, rows, token_cache.NOT_FULL)
    assert len(found) == 5
    assert len({one["teacher_entropy"] for one in found}) == 1


def test_the_page_says_how_the_row_of_smollm2_was_measured():
    said = token_cache.page(json.loads(token_cache.JSON.read_text()))
    assert "32 MiB of new memory each time" in said  # 8 x 128 x 8,192 numbers of 4 bytes
    assert "2 sequences of 512 tokens, in one batch with 192 MiB of logits, the median of 3" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speed"], r"none.json: the file does not exist"),
        (["--smollm2-alone", "--smollm2", "folder"], r"none.json: the file does not exist"),
        (["--smollm2-alone"], "--smollm2-alone needs --smollm2 FOLDER"),
        (["--smollm2-alone", "--speed", "--smollm2", "folder"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(token_cache, "gpt2", None)
    monkeypatch.setattr(token_cache, "with_smollm2", None)
    with pytest.raises(SystemExit):
        token_cache.main(
            [*arguments, "--json", str(tmp_path / "none.json"), "--page", str(tmp_path / "page.md")]
        )
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
