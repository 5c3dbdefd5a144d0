"""The commands that know token caches."""

import json

import numpy as np
import pytest

from kdcache.cli import main
from kdcache.logits import LogitWriter
from kdcache.logits.tokens import Threshold, TokenCache
from tests.logits.tokens.conftest import FINGERPRINTS, sequences, write_cache


def answer(capsys, *arguments: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return captured.out + captured.err if ended.value.code else captured.out


def test_info_head_verify(tmp_path, capsys):
    path = str(write_cache(tmp_path / "cache"))
    assert answer(capsys, "info", path) == TokenCache(path).info()
    assert "teacher entropy" in printed(capsys, "info", path)
    (row, _) = answer(capsys, "head", path, "-n", "2", "--split", "train")["splits"]["train"]
    assert row["tokens"] == sequences(25)[0]["input_ids"]
    batch = TokenCache(path).batch([0])
    assert [top[0][0] for top in row["top"]] == batch.dense()[0].argmax(1).tolist()
    assert "row 1, hash" in printed(capsys, "head", path, "-n", "2")
    assert answer(capsys, "verify", path)["rows"] == 32
    assert "whole (quick" in printed(capsys, "verify", path, "--quick")


def test_diff(tmp_path, capsys):
    one = str(write_cache(tmp_path / "one"))
    other = str(write_cache(tmp_path / "other", {"train": 25}, Threshold(1 / 5), temperature=2.0))
    found = answer(capsys, "diff", one, other)["splits"]["train"]
    assert (found["rows_a"], found["rows_b"], found["rows_in_both"]) == (25, 25, 25)
    assert found["entropy_b"] > found["entropy_a"]
    rows = TokenCache(one).batch(np.arange(25))
    assert found["teacher_nll_a"] == pytest.approx(-float(rows.label_logprob[rows.loss].mean()), rel=1e-5)
    assert "entropy" in printed(capsys, "diff", one, other)


def test_what_is_refused(tmp_path, capsys):
    tokens = str(write_cache(tmp_path / "tokens"))
    with LogitWriter(tmp_path / "rows", classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0], [5], np.zeros((1, 2), np.float32))
        writer.finish()
    assert "compare two of a kind" in printed(capsys, "diff", tokens, str(tmp_path / "rows"))
    assert "open it with kdcache.TokenCache" in printed(capsys, "stats", tokens)
    assert "no split 'test'" in printed(capsys, "head", tokens, "--split", "test")
