"""The commands that know token caches."""

import json
import shutil

import numpy as np
import pytest

from kdcache.cli import main, tokens
from kdcache.logits import LogitWriter
from kdcache.logits.tokens import (
    RS,
    Full,
    Threshold,
    TokenBatch,
    TokenCache,
    TokenManifest,
    TopK,
    write_token_logits,
)
from kdcache.logits.tokens.format import TokenHeader
from kdcache.logits.tokens.rows import TokenRows
from kdcache.logits.tokens.writer import TokenWriter
from tests.logits.tokens.conftest import FINGERPRINTS, Table, sequences, write_cache

ESTIMATORS = [Threshold(1 / 12, draws=2), RS(40), TopK(8), Full()]


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


def refused(capsys, *arguments: str) -> str:
    """The message of a command that is refused."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (1, "")
    return captured.err


def write(path, rows, estimator=None, seed=0):
    how = estimator or Threshold(1 / 12)
    write_token_logits(Table(seed=seed), rows, path, how, fingerprints=FINGERPRINTS, rows_per_shard=4)
    return str(path)


def rewritten(source, path, ids, places):
    """A cache of the rows at some places of a cache's train split, with other ids, in shards of 4."""
    cache = TokenCache(source)
    rows = cache.split("train").part(np.array(places))
    rows = TokenRows(np.array(ids), rows.row_hashes, rows.shape, rows.columns)
    known = {name: getattr(cache.manifest, name) for name in TokenHeader.model_fields}
    header = TokenHeader(**{**known, "rows_per_shard": 4})
    with TokenWriter(path, TokenManifest, header, resume=False) as writer:
        writer.write("train", rows)
        writer.finish()
    return str(path)


def must_not_be_used(*arguments, **options):
    raise AssertionError("takes too much memory")


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


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda how: how.kind)
def test_the_most_probable_tokens_are_those_of_the_whole_distribution(tmp_path, capsys, estimator):
    rows = [*sequences(5), {"input_ids": [7, 8, 9, 10], "loss_mask": [0, 0, 1, 0]}, {"input_ids": [3]}]
    path = write(tmp_path / "cache", rows, estimator)
    shown = answer(capsys, "head", path)["splits"]["train"]
    assert [row["tokens"] for row in shown] == [row["input_ids"] for row in rows]
    for row in shown:
        dense = TokenCache(path).batch([row["id"]]).dense()[0].tolist()
        best = [sorted(enumerate(values), key=lambda pair: (-pair[1], pair[0]))[:5] for values in dense]
        expected = [[[token, value] for token, value in pairs if value > 0] for pairs in best]
        assert [[token for token, _ in top] for top in row["top"]] == [
            [token for token, _ in pairs] for pairs in expected
        ]
        for top, pairs in zip(row["top"], expected, strict=True):
            assert [value for _, value in top] == pytest.approx([value for _, value in pairs], abs=6e-5)
    assert [len(top) for top in shown[5]["top"]] == [0, 5, 0]
    assert shown[6]["top"] == []


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda how: how.kind)
def test_head_reads_only_the_first_row_groups(tmp_path, capsys, monkeypatch, estimator):
    path = write(tmp_path / "cache", sequences(25), estimator)
    read, read_group = set(), TokenCache.read_group
    monkeypatch.setattr(
        TokenCache, "read_group", lambda cache, group: (read.add(group.shard), read_group(cache, group))[1]
    )
    monkeypatch.setattr(TokenCache, "split", must_not_be_used)
    monkeypatch.setattr(TokenCache, "batch", must_not_be_used)
    monkeypatch.setattr(TokenBatch, "dense", must_not_be_used)
    rows = answer(capsys, "head", path, "-n", "6")["splits"]["train"]
    assert [row["id"] for row in rows] == list(range(6))
    assert read == {0, 1}
    assert len(answer(capsys, "head", path, "-n", "1000")["splits"]["train"]) == 25


def test_head_shows_the_lowest_ids_of_any_order(tmp_path, capsys):
    source = write_cache(tmp_path / "source")
    ids = [70, 9, 30, 12, 5, 80, 90, 11, 95, 7]
    path = rewritten(source, tmp_path / "cache", ids, range(10))
    rows = answer(capsys, "head", path, "-n", "4")["splits"]["train"]
    assert [row["id"] for row in rows] == [5, 7, 9, 11]
    assert [row["tokens"] for row in rows] == [
        sequences(25)[ids.index(k)]["input_ids"] for k in (5, 7, 9, 11)
    ]


def test_an_empty_split_is_said_to_be_empty(tmp_path, capsys):
    path = rewritten(write_cache(tmp_path / "source"), tmp_path / "cache", np.zeros(0, int), np.zeros(0, int))
    assert answer(capsys, "head", path)["splits"] == {"train": []}
    assert printed(capsys, "head", path) == "train: 0 rows\n"
    assert answer(capsys, "diff", path, path)["splits"]["train"]["rows_in_both"] == 0


@pytest.mark.parametrize("block", [1, 20, 1 << 24])
def test_diff_is_that_of_rows_one_by_one(tmp_path, capsys, monkeypatch, block):
    rows = [*sequences(20), {"input_ids": [7, 8, 9, 10], "loss_mask": [0, 0, 1, 1]}, {"input_ids": [3]}]
    a, b = (
        write(tmp_path / f"of-{seed}", rows, how, seed)
        for seed, how in enumerate((Threshold(1 / 12), TopK(8)))
    )
    a = rewritten(a, tmp_path / "a", range(15), [*range(9), 2, 20, 21, 9, 10, 11])
    b = rewritten(b, tmp_path / "b", range(50, 64), [21, 20, 17, 16, *range(9, -1, -1)])
    losses_a, losses_b = losses(a), losses(b)
    both = [key for key in losses_a if key in losses_b]
    assert len(both) == 12  # sequences 0 to 9, 20 and 21; number 2 is in a twice
    monkeypatch.setattr(tokens, "BLOCK", block)
    for name in ("split", "batch"):
        monkeypatch.setattr(TokenCache, name, must_not_be_used)
    found = answer(capsys, "diff", a, b)["splits"]["train"]
    assert (found["rows_a"], found["rows_b"], found["rows_in_both"]) == (15, 14, 12)
    expected = [row_difference(losses_a[key], losses_b[key]) for key in both]
    assert found["positions"] == sum(row["positions"] for row in expected)
    for name in set(expected[0]) - {"id_a", "id_b", "positions"}:
        mean = sum(row[name] * row["positions"] for row in expected) / found["positions"]
        assert found[name] == pytest.approx(mean, rel=1e-9)
    most = max(
        abs(one[0] - other[0])
        for key in both
        for one, other in zip(losses_a[key][1], losses_b[key][1], strict=True)
    )
    assert found["label_logprob_differs_most_by"] == pytest.approx(most, rel=1e-9)
    expected.sort(key=lambda row: -row["label_logprob_differs_by"])
    assert found["largest"] == [pytest.approx(row, rel=1e-9) for row in expected[:10]]


def losses(path: str) -> dict:
    """By its tokens, each sequence's first id and the predicted positions' (log-probability, entropy)."""
    cache, by_tokens = TokenCache(path), {}
    for row in cache.split("train").ids.tolist():
        batch = cache.batch([row])
        values = [
            (float(label), float(entropy))
            for label, entropy, loss in zip(
                batch.label_logprob[0], batch.entropy[0], batch.loss[0], strict=True
            )
            if loss
        ]
        by_tokens.setdefault(tuple(batch.tokens[0].tolist()), (row, values))
    return by_tokens


def row_difference(one: tuple, other: tuple) -> dict:
    (id_a, a), (id_b, b) = one, other
    count = max(len(a), 1)
    return {
        "id_a": id_a,
        "id_b": id_b,
        "positions": len(a),
        "teacher_nll_a": -sum(label for label, _ in a) / count,
        "teacher_nll_b": -sum(label for label, _ in b) / count,
        "entropy_a": sum(entropy for _, entropy in a) / count,
        "entropy_b": sum(entropy for _, entropy in b) / count,
        "label_logprob_differs_by": sum(abs(p[0] - q[0]) for p, q in zip(a, b, strict=True)) / count,
        "entropy_differs_by": sum(abs(p[1] - q[1]) for p, q in zip(a, b, strict=True)) / count,
    }


def test_diff_names_the_rows_that_differ_most(tmp_path, capsys):
    rows = sequences(5)
    a, b = (write(tmp_path / f"of-{seed}", rows, seed=seed) for seed in (0, 1))
    (first, *_) = answer(capsys, "diff", a, b)["splits"]["train"]["largest"]
    text = printed(capsys, "diff", a, b)
    assert "train: where they differ most" in text
    assert f"{first['label_logprob_differs_by']:.4g}" in text
    assert "where they differ most" not in printed(capsys, "diff", a, a)


@pytest.mark.parametrize(
    "rows", [[{"input_ids": [1]}, {"input_ids": [2]}], [{"input_ids": [1, 2], "loss_mask": [1, 0]}]]
)
def test_diff_of_rows_with_nothing_to_predict(tmp_path, capsys, rows):
    path = write(tmp_path / "cache", rows)
    assert answer(capsys, "diff", path, path)["splits"]["train"] == {
        "split": "train",
        "rows_a": len(rows),
        "rows_b": len(rows),
        "rows_in_both": len(rows),
        "positions": 0,
    }
    assert "rows in both" in printed(capsys, "diff", path, path)


def test_a_home_folder_is_written_as_a_tilde(tmp_path, capsys, monkeypatch):
    write_cache(tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(answer(capsys, "head", "~/cache", "-n", "2")["splits"]["train"]) == 2
    assert answer(capsys, "diff", "~/cache", "~/cache")["splits"]["train"]["rows_in_both"] == 25


def test_head_has_no_use_for_a_task(tmp_path, capsys):
    path = str(write_cache(tmp_path / "cache"))
    for task in (tmp_path, tmp_path / "none"):
        message = refused(capsys, "head", path, "--task", str(task))
        assert message == (
            f"kdcache: {path}: is a token cache, whose rows have their tokens in themselves; leave out --task\n"
        )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["stats", "CACHE"], "stats describes predicted classes, which its rows do not have"),
        (["export", "CACHE", "OUT.csv"], "export writes logits of classes; the cache's shards are Parquet"),
        (["ensemble", "OUT", "CACHE", "CACHE"], "ensemble cannot average distributions"),
        (["verify", "CACHE", "--against", "T", "--task", "T"], "--against cannot run its teacher again"),
    ],
)
def test_other_commands_say_what_they_cannot_do(tmp_path, capsys, monkeypatch, arguments, problem):
    write_cache(tmp_path / "CACHE")
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, *arguments)
    assert message.startswith(f"kdcache: CACHE: is a token cache, and {problem}")
    assert message.endswith("; info, head, diff and verify (without --against) take token caches\n")
    assert [path.name for path in tmp_path.iterdir()] == ["CACHE"]


def test_a_folder_without_a_whole_cache_is_refused_as_that(tmp_path, capsys):
    whole = str(write_cache(tmp_path / "whole"))
    unfinished = shutil.copytree(whole, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    for folder, problem in ((unfinished, "no manifest.json"), (tmp_path / "none", "no such folder")):
        for pair in ([whole, str(folder)], [str(folder), whole]):
            message = refused(capsys, "diff", *pair)
            assert message.startswith(f"kdcache: {folder}: ")
            assert problem in message


def test_what_is_refused(tmp_path, capsys):
    path = str(write_cache(tmp_path / "tokens"))
    with LogitWriter(tmp_path / "rows", classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0], [5], np.zeros((1, 2), np.float32))
        writer.finish()
    assert "compare two of a kind" in refused(capsys, "diff", path, str(tmp_path / "rows"))
    assert "no split 'test'" in refused(capsys, "head", path, "--split", "test")
