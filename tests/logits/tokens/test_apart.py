"""Models that let documents of a row see each other are refused, all others are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcache.errors import CacheError
from kdcache.logits.tokens import Full, TokenCache, write_token_logits
from kdcache.logits.tokens.apart import mixes
from kdcache.logits.tokens.inputs import Sequences, model_inputs

from .conftest import FINGERPRINTS, Table
from .families import APART, MIXING, causal_model

PACKED = {"input_ids": [3, 5, 7, 2, 4, 6, 8, 9, 1], "document_starts": [0, 4]}
HALF = torch.bfloat16


def write(teacher: Any, rows: Any, folder: Path, **options: Any) -> TokenCache:
    return write_token_logits(teacher, rows, folder, Full(), fingerprints=FINGERPRINTS, **options)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("family", APART)
def test_families_that_keep_documents_apart(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    assert write(causal_model(family, dtype), [PACKED] * 2, tmp_path).manifest.splits["train"].rows == 2


# A random LFM2's convolution mixes less than bfloat16 rounds.
@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, dtype) for family in MIXING for dtype in (torch.float32, HALF) if (family, dtype) != ("lfm2", HALF)],
    ids=str,
)  # fmt: skip
def test_families_that_do_not(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = causal_model(family, dtype)
    message = f"cache: a {family} model does not keep the documents of a row apart: .* change by .* %.* one document"
    with pytest.raises(CacheError, match=message):
        write(model, [PACKED] * 2, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    alone = write(
        model, [{"input_ids": PACKED["input_ids"]}], tmp_path / "cache"
    )  # rows of one document are fine
    assert alone.manifest.splits["train"].rows == 1


def test_a_complete_cache_of_mixed_documents_is_not_opened_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that an earlier version of kdcache wrote."""
    model, rows = causal_model("opt"), [PACKED]
    with monkeypatch.context() as earlier:
        earlier.setattr("kdcache.logits.tokens.inference.mixes", lambda *_: None)
        write(model, rows, tmp_path)
    with pytest.raises(CacheError, match="does not keep the documents"):
        write(model, rows, tmp_path)


@pytest.mark.parametrize(("family", "refused"), [("gpt2", False), ("opt", True)])
def test_offloaded_models(family: str, refused: bool, tmp_path: Path) -> None:
    model = accelerate.cpu_offload(causal_model(family))
    assert all(weight.is_meta for weight in model.parameters())
    if refused:
        with pytest.raises(CacheError, match="does not keep the documents"):
            write(model, [PACKED], tmp_path)
    else:
        assert write(model, [PACKED], tmp_path).manifest.splits["train"].rows == 1


def test_modes_and_random_state_stay(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        """Draws a number in evaluation too."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = causal_model("gpt2", resid_pdrop=0.5)  # dropout would look like mixing
            self.inner.transformer.h[0].eval()

        def forward(self, **inputs: Any) -> Tensor:
            torch.rand(1)
            assert not torch.is_grad_enabled()
            return self.inner(**inputs, use_cache=False).logits

    model = Noisy().train()
    model.inner.transformer.h[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    assert mixes(model, lambda rows: model(**tensors(rows)), 50, 9, 4) is None
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), state)


def tensors(sequences: Sequences) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in model_inputs(sequences).items()}


class Mean:
    """A teacher of V tokens that says the mean of its document's tokens, and `leak` times the mean of all before."""

    def __init__(self, leak: float = 0.0, vocabulary: int = 9, most_rows: int = 0) -> None:
        self.leak, self.rows = leak, most_rows  # in batches of more rows than that it leaks
        self.table = torch.randn(vocabulary, 9, generator=torch.Generator().manual_seed(0))
        self.longest, self.rows_of_batches = 0, set[int]()

    def __call__(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        count, length = input_ids.shape
        self.longest = max(self.longest, length)
        self.rows_of_batches.add(count)
        positions = torch.arange(length).expand(count, -1) if position_ids is None else position_ids
        document = (positions == 0).cumsum(1)
        seen = torch.ones(length, length).tril() * (document[:, :, None] == document[:, None])
        given = self.table[input_ids]
        own = seen @ given / seen.sum(2, keepdim=True)
        everything = torch.ones(length, length).tril() @ given / torch.arange(1, length + 1)[:, None]
        return own + self.leak * (count > self.rows) * everything


def tried(teacher: Any, vocabulary: int = 9, longest: int = 9, rows: int = 1) -> str | None:
    return mixes(teacher, lambda sequences: teacher(**tensors(sequences)), vocabulary, longest, rows)


def test_rounding_is_no_mixing_and_little_mixing_is() -> None:
    assert tried(Mean()) is None
    assert tried(Mean(leak=3e-6)) is None
    assert "a Mean model does not keep" in (tried(Mean(leak=1e-3)) or "")


@pytest.mark.parametrize("longest", [2, 3, 7, 1000])
@pytest.mark.parametrize("vocabulary", [2, 3, 9])
def test_small_vocabularies_and_short_rows(vocabulary: int, longest: int) -> None:
    for leak, found in ((0.0, False), (1.0, True)):
        teacher = Mean(leak, vocabulary)
        assert bool(tried(teacher, vocabulary, longest)) == found
        assert 2 <= teacher.longest <= min(longest, 16)


def test_one_token_has_nothing_to_tell() -> None:
    assert tried(Mean(1.0, vocabulary=1), vocabulary=1) is None


def test_several_rows_of_a_batch_are_tried_if_there_will_be_some(tmp_path: Path) -> None:
    """Flash attention keeps documents apart in a batch of one row alone."""
    rows = [PACKED] * 3
    given = [{**row, "input_ids": [token % 9 for token in row["input_ids"]]} for row in rows]
    with pytest.raises(
        CacheError, match=r"row apart \(of several rows in a batch; a batch size of 1 would do\)"
    ):
        write(Mean(1.0, most_rows=1), given, tmp_path / "two", batch_size=2)
    one = Mean(1.0, most_rows=1)
    assert write(one, given, tmp_path / "one", batch_size=1).manifest.splits["train"].rows == 3
    assert one.rows_of_batches == {1}


def test_tokens_that_a_model_rules_out_are_no_change() -> None:
    for leak, found in ((0.0, False), (1.0, True)):
        teacher = Mean(leak)
        teacher.table[:, 4] = -torch.inf
        masked = lambda rows, t=teacher: t(**tensors(rows)).nan_to_num(-torch.inf)  # noqa: E731
        assert bool(mixes(teacher, masked, 9, 9)) == found


def test_a_callable_is_tried_too_and_may_give_arrays(tmp_path: Path) -> None:
    rows = [{"input_ids": [1, 2, 3, 4, 5], "document_starts": [0, 2]}]
    for leak in (0.0, 1.0):
        teacher = Mean(leak)
        given = lambda t=teacher, **inputs: {"logits": np.asarray(t(**inputs))}  # noqa: E731
        if leak:
            with pytest.raises(CacheError, match="does not keep the documents"):
                write(given, rows, tmp_path / "mixed")
        else:
            np.testing.assert_allclose(
                write(given, rows, tmp_path / "apart").batch([0]).full[0].exp(),
                teacher(torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 1, 0, 1, 2]]))[0, :-1].softmax(1),
                rtol=2e-3,
            )


def test_a_teacher_that_takes_no_positions_says_so_itself(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="position_ids"):
        write(Table(10), [PACKED], tmp_path)
