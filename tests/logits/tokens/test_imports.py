"""Top-k caches from the log-probabilities of other tools."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdcache.errors import CacheError
from kdcache.logits.tokens import TopK, import_topk, kd_token_loss, write_token_logits

from .conftest import FINGERPRINTS, VOCABULARY, Table, sequences

K = 6


def logprobs(row: dict) -> torch.Tensor:
    return Table()(torch.tensor([row["input_ids"]])).log_softmax(2)[0]


def vllm(row: dict) -> dict:
    """As vLLM gives them: about token j at item j, the k best and the actual one."""
    items: list = [None]
    for values, token in zip(logprobs(row)[:-1], row["input_ids"][1:], strict=True):
        best = values.topk(K).indices.tolist()
        items.append(
            {one: SimpleNamespace(logprob=float(values[one])) for one in dict.fromkeys([*best, token])}
        )
    return {**row, "prompt_logprobs": items}


def tables(row: dict) -> dict:
    values = logprobs(row).topk(K, dim=1)
    return {**row, "topk_ids": values.indices.numpy(), "topk_logprobs": values.values.numpy()}


@pytest.mark.parametrize("form", [vllm, tables])
def test_the_same_as_a_cache_of_the_teacher(tmp_path, form):
    rows = sequences(9)
    expected = write_token_logits(Table(), rows, tmp_path / "a", TopK(K), fingerprints=FINGERPRINTS)
    options = {"k": K, "vocabulary": VOCABULARY, "fingerprints": FINGERPRINTS}
    found = import_topk(map(form, rows), tmp_path / "b", **options)
    one, other = expected.batch(np.arange(9)), found.batch(np.arange(9))
    torch.testing.assert_close(other.dense(), one.dense())
    if form is vllm:
        torch.testing.assert_close(other.label_logprob, one.label_logprob)
    assert found.match(rows).ids.tolist() == list(range(9))
    logits = torch.zeros(*one.tokens.shape, VOCABULARY)
    torch.testing.assert_close(kd_token_loss(logits, other), kd_token_loss(logits, one))
    assert found.verify("full").rows == 9


def test_several_splits_are_imported_at_once(tmp_path):
    splits = {"train": sequences(5), "validation": sequences(3, seed=1)}
    options = {"k": K, "vocabulary": VOCABULARY, "fingerprints": FINGERPRINTS}
    expected = write_token_logits(Table(), splits, tmp_path / "a", TopK(K), fingerprints=FINGERPRINTS)
    given = {name: map(vllm, rows) for name, rows in splits.items()}
    found = import_topk(given, tmp_path / "b", **options)
    assert found.splits == ["train", "validation"]
    assert found.verify("full").rows == 8
    for name, rows in splits.items():
        torch.testing.assert_close(found.match(rows, name).dense(), expected.match(rows, name).dense())
    one = import_topk(map(vllm, splits["train"]), tmp_path / "c", split="test", **options)
    assert one.splits == ["test"]
    with pytest.raises(CacheError, match="c d: 'a/b' is no split name"):
        import_topk({"a/b": []}, tmp_path / "c d", **options)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (2**31, "expected a vocabulary of 1 to 2147483647 tokens, found 2147483648"),
        (0, "expected a vocabulary of 1 to 2147483647 tokens, found 0"),
        ("150", "vocabulary must be an integer, found '150'"),
    ],
)
def test_a_vocabulary_that_no_cache_has(tmp_path, vocabulary, message):
    with pytest.raises(CacheError, match=f"cache: {message}"):
        import_topk([], tmp_path / "cache", k=K, vocabulary=vocabulary, fingerprints=FINGERPRINTS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.update(prompt_logprobs=row["prompt_logprobs"][1:]),
            "expected 3 prompt_logprobs, None for",
        ),
        (lambda row: row["prompt_logprobs"][1].clear(), "row 0, position 0: expected 6 different tokens"),
        (
            lambda row: row["prompt_logprobs"][1].update({999: -1.0}),
            "expected tokens from 0 to 149|different tokens",
        ),
        (lambda row: row["prompt_logprobs"][1].update({5: float("nan")}), "expected 6 different tokens"),
        (lambda row: row.pop("prompt_logprobs"), "expected prompt_logprobs, or topk_ids and topk_logprobs"),
    ],
)
def test_what_cannot_be_imported(tmp_path, change, message):
    row = vllm({"input_ids": [1, 2, 3]})
    change(row)
    with pytest.raises(CacheError, match=message):
        import_topk([row], tmp_path, k=K, vocabulary=VOCABULARY, fingerprints=FINGERPRINTS)
    assert not (tmp_path / "manifest.json").exists()


def test_a_finished_cache_is_not_replaced(tmp_path):
    """Whether the rows can be imported or not: it may be a teacher's, which took hours."""
    rows, folder = sequences(9), tmp_path / "cache"
    cache = write_token_logits(Table(), rows, folder, TopK(K), fingerprints=FINGERPRINTS)
    options = {"k": K, "vocabulary": VOCABULARY, "fingerprints": FINGERPRINTS}
    for given in ([vllm(row) for row in rows], [{"input_ids": [1, 2, 3]}]):
        with pytest.raises(
            CacheError, match="cache: holds a finished cache, and nothing was removed; delete this f"
        ):
            import_topk(given, folder, **options)
        assert cache.verify("full").rows == 9
    (folder / "manifest.json").unlink()  # what is left of an interrupted run goes
    assert import_topk(map(vllm, rows[:4]), folder, **options).verify("full").rows == 4


def test_a_manifest_of_anybody_else_is_not_called_a_cache(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(CacheError, match="is no logit cache's manifest, and nothing was removed"):
        import_topk(
            [vllm({"input_ids": [1, 2]})], tmp_path, k=K, vocabulary=VOCABULARY, fingerprints=FINGERPRINTS
        )
    assert (tmp_path / "manifest.json").exists()
