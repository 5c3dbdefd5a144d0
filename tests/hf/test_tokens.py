"""`KDTrainer` with a token cache: documents, masks, mixtures of experts, other losses, and rows that are missing."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, default_data_collator

from kdcache import RS, Full, KdcacheError, TokenCache, TopK, write_token_logits
from kdcache.hf import KDTrainer, soft_labels
from kdcache.hf.soft_labels import collate_sequences, router_loss
from tests.hf.parts import arguments, first_labelled, language_model, sequences, token_cache
from tests.hf.test_trainer import assert_same, descend
from tests.logits.tokens.families import causal_model

PACKED = [
    {"input_ids": [5, 6, 7, 8, 9, 4], "document_starts": [0, 2]},
    {"input_ids": [9, 4, 3, 5], "document_starts": [0, 3]},
]


def with_starts(rows: list[Any]) -> dict[str, Any]:
    """A collator that gives document_starts, and no position_ids."""
    return {**first_labelled(rows), "document_starts": [row["document_starts"] for row in rows]}


def alone(model: Any, row: dict[str, Any]) -> Tensor:
    """The logits [L, V] of a row, each of its documents by itself."""
    starts = [*row["document_starts"], len(row["input_ids"])]
    documents = [row["input_ids"][starts[k] : starts[k + 1]] for k in range(len(starts) - 1)]
    return torch.cat([model(torch.tensor([document])).logits[0] for document in documents])


@pytest.mark.parametrize("collator", [None, with_starts, default_data_collator])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_documents_stay_apart_without_position_ids(family: str, collator: Any, tmp_path: Path) -> None:
    """The teacher is its own student: it has nothing to learn, if it sees what it saw."""

    def model() -> Any:
        return language_model(0) if family == "gpt2" else causal_model(family)

    rows = [{**row, "labels": row["input_ids"]} for row in PACKED]
    if collator is default_data_collator:  # it does not pad
        rows = [rows[0], {**rows[0], "input_ids": [3, 6, 7, 8, 1, 4], "labels": [3, 6, 7, 8, 1, 4]}]
    cache = write_token_logits(model(), rows, tmp_path / "cache", Full())
    run = arguments(tmp_path / "run", learning_rate=0.0)
    made = KDTrainer(model(), run, collator, rows, rows, cache=cache, alpha=1.0)
    assert abs(made.train().training_loss) < 1e-6
    pairs = [(alone(model(), row)[:-1], torch.tensor(row["input_ids"][1:])) for row in rows]
    expected = F.cross_entropy(torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs]))
    assert made.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_given_positions_begin_anew_where_documents_start_and_nowhere_else(tmp_path: Path) -> None:
    """Otherwise the student would see other documents than the teacher."""
    rows = [{"input_ids": [5, 6, 7, 8, 9, 4]}, {"input_ids": [9, 4, 3]}]
    starts = [[0, 3], [0]]
    packed = [{**row, "document_starts": first} for row, first in zip(rows, starts, strict=True)]
    caches = [
        write_token_logits(language_model(1), given, tmp_path / name, Full())
        for name, given in (("one", rows), ("several", packed))
    ]

    def run(positions: list[list[int]], starts: Any = None, evaluate: bool = False) -> None:
        batch = {**first_labelled(rows), "position_ids": torch.tensor(positions)}
        given = {**batch, "document_starts": starts} if starts else batch
        sets = {"train_dataset": rows, "eval_dataset": rows, "cache": caches[int(starts == [[0, 3], [0]])]}
        made = KDTrainer(language_model(0), arguments(tmp_path / "run"), lambda _: given, **sets)
        made.evaluate() if evaluate else made.train()

    run([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0]])  # the second row is padded
    run([[0, 1, 2, 3, 4, 5]])  # positions of every row
    run([[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0]], starts)
    for nowhere in (None, [[0], [0]]):
        with pytest.raises(KdcacheError, match="row 0: position_ids begin anew at position 4"):
            run([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]], nowhere)
    for evaluate in (False, True):
        with pytest.raises(KdcacheError, match="row 0: position_ids begin anew at position 4"):
            run([[0, 1, 2, 0, 0, 1], [0, 1, 2, 0, 0, 0]], starts, evaluate)  # of two places one is named
        with pytest.raises(KdcacheError, match=r"row 0: expected the position 0 at place 3 .*found 3"):
            run([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0]], starts, evaluate)


def test_rows_whose_positions_alone_begin_anew_are_refused_before_training(tmp_path: Path) -> None:
    """The default collator does not drop the column that says so."""
    rows = [{**row, "position_ids": list(range(len(row["input_ids"])))} for row in sequences()]
    run, cache = arguments(tmp_path / "run"), token_cache(tmp_path / "cache")
    made = KDTrainer(language_model(0), run, train_dataset=rows, cache=cache)
    rows[5]["position_ids"] = [0, 1, 2, 0, 1, 2, 3, 4]
    with pytest.raises(KdcacheError, match=r"^train_dataset, row 5: position_ids begin anew at position 3"):
        KDTrainer(language_model(0), run, train_dataset=rows, cache=cache)
    with pytest.raises(KdcacheError, match=r"^a batch, row 0: position_ids begin anew at position 3"):
        made.evaluate(Dataset.from_list(rows[5:]))


@pytest.mark.parametrize("name", ["loss_mask", "completion_mask"])
def test_masked_tokens_do_not_count_in_evaluation(name: str, tmp_path: Path) -> None:
    """A collator that gives labels of all tokens, and a mask beside them, as a tensor."""
    rows = [{**row, name: [at % 2 for at in range(len(row["input_ids"]))]} for row in sequences()]
    cache = write_token_logits(language_model(1), rows, tmp_path / "cache", Full())

    def collate(rows: list[Any]) -> dict[str, Any]:
        batch = first_labelled(rows)
        length = batch["input_ids"].shape[1]
        masks = [[*row[name], *[0] * (length - len(row[name]))] for row in rows]
        return {**batch, name: torch.tensor(masks)}

    losses = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        each = F.cross_entropy(language_model(0)(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        losses.append(each[torch.tensor(row[name][1:]) == 1])
    run = arguments(tmp_path / "run", per_device_eval_batch_size=3)
    for collator in (collate, None):
        made = KDTrainer(language_model(0), run, collator, rows, rows, cache=cache)
        parts = [made.evaluate(rows[k : k + 3])["eval_loss"] for k in (0, 3)]
        expected = [torch.cat(losses[k : k + 3]).mean().item() for k in (0, 3)]
        assert parts == pytest.approx(expected, rel=1e-5)
    unlabelled = KDTrainer(
        language_model(0), run, lambda rows: {k: v for k, v in collate(rows).items() if k != "labels"}, cache=cache
    )  # fmt: skip
    assert unlabelled.predict(rows[:2]).predictions.shape[0] == 2


def mixture(coefficient: float = 10.0) -> Any:
    return causal_model("mixtral", output_router_logits=True, router_aux_loss_coef=coefficient)


def test_a_mixture_of_experts_is_balanced_as_the_trainer_does_it(tmp_path: Path) -> None:
    cache = write_token_logits(causal_model("gpt2"), sequences(), tmp_path / "cache", TopK(4))
    run = arguments(tmp_path / "run", learning_rate=0.1)
    plain = Trainer(mixture(), run, collate_sequences, train_dataset=sequences())
    made = KDTrainer(
        mixture(), run, train_dataset=sequences(), eval_dataset=sequences(), cache=cache, alpha=0.0
    )
    ids, labels = (collate_sequences(sequences())[name] for name in ("input_ids", "labels"))
    logits = mixture()(ids).logits
    bare = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert made.evaluate()["eval_loss"] == pytest.approx(bare.item(), rel=1e-5)
    expected = plain.train().training_loss
    assert expected > bare.item() + 1  # the router's loss is large enough to be seen
    assert made.train().training_loss == pytest.approx(expected, rel=1e-5)
    assert_same(made.model, plain.model.state_dict())


def test_accumulated_batches_balance_experts_by_their_shares_of_the_tokens(tmp_path: Path) -> None:
    cache = write_token_logits(causal_model("gpt2"), sequences(), tmp_path / "cache", TopK(4))
    run = arguments(
        tmp_path / "run", learning_rate=0.1, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    made = KDTrainer(mixture(), run, train_dataset=sequences(), cache=cache, alpha=0.0)
    in_order = torch.utils.data.SequentialSampler(made.train_dataset)
    made._get_train_sampler = lambda *_: in_order  # which rows share a batch decides the router's loss
    made.train()
    expected, whole = mixture(), sum(len(row["input_ids"]) - 1 for row in sequences())
    loss = torch.zeros(())
    for rows in (sequences()[:4], sequences()[4:]):
        batch = collate_sequences(rows)
        outputs = expected(batch["input_ids"], batch.get("attention_mask"))
        targets = batch["labels"][:, 1:].flatten()
        summed = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), targets, reduction="sum")
        tokens = sum(len(row["input_ids"]) - 1 for row in rows)
        loss = loss + summed / whole + 10 * outputs.aux_loss * tokens / whole
    descend(expected, loss, 0.1)
    assert_same(made.model, expected.state_dict())


def test_the_weight_of_a_routers_loss_is_the_models_or_its_configs() -> None:
    outputs = {"logits": torch.zeros(1), "aux_loss": torch.tensor(3.0)}
    text = SimpleNamespace(router_aux_loss_coef=0.5)
    for model, expected in (
        (SimpleNamespace(router_aux_loss_coef=2.0, config=text), 6.0),
        (SimpleNamespace(aux_loss_coef=4.0), 12.0),
        (SimpleNamespace(config=text), 1.5),
        (SimpleNamespace(config=SimpleNamespace(text_config=text)), 1.5),
    ):
        assert router_loss(outputs, model) == expected
    assert router_loss({"logits": torch.zeros(1)}, SimpleNamespace()) == 0
    with pytest.raises(KdcacheError, match="gives an aux_loss, but neither it nor its config has a weight"):
        router_loss(outputs, SimpleNamespace())


def test_the_divergence_and_the_tail_reach_the_loss(tmp_path: Path) -> None:
    rows, teacher = sequences(1), language_model(1)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.mul_(4)  # far from the student, so that the losses differ
    ids = torch.tensor([rows[0]["input_ids"]])
    log_p, log_q = (model(ids).logits[0, :-1].log_softmax(1) for model in (teacher, language_model(0)))
    kept = log_p.topk(3)
    target = kept.values.log_softmax(1)
    reverse = (log_q.exp() * (log_q - log_p)).sum(1).mean().item()
    renormalised = (target.exp() * (target - log_q.gather(1, kept.indices))).sum(1).mean().item()
    for option, estimator, expected in (
        ({"divergence": "reverse_kl"}, Full(), reverse),
        ({"tail": "renormalise"}, TopK(3), renormalised),
    ):
        cache = write_token_logits(teacher, rows, tmp_path / estimator.kind, estimator)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            made = KDTrainer(
                language_model(0),
                arguments(tmp_path / "run"),
                train_dataset=rows,
                cache=cache,
                alpha=1.0,
                **option,
            )
        assert any("renormalised top-k" in str(one.message) for one in warned) == ("tail" in option)
        assert made.train().training_loss == pytest.approx(expected, rel=2e-3)


def test_a_loss_that_the_cache_does_not_serve_is_refused_before_training(tmp_path: Path) -> None:
    cache = token_cache(tmp_path / "cache", RS(4))
    for options, message in (
        ({"temperature": 2.0}, "this cache is of temperature 1"),
        ({"divergence": "reverse_kl"}, "reverse KL needs the teacher's log-probability of every token"),
        ({"tail": "cut"}, "there is no tail 'cut'"),
    ):
        with pytest.raises(KdcacheError, match=message):
            KDTrainer(language_model(0), arguments(tmp_path / "run"), cache=cache, **options)


def test_a_row_that_is_not_in_the_cache_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_labels, "PIECE", 3)
    cache = token_cache(tmp_path / "cache")
    rows = [*sequences(), {"input_ids": [7, 7, 7]}, {"input_ids": [8, 8]}]
    message = r"no sequence like row 8 of train_dataset \(\[7, 7, 7\] ...\) and 1 more of 10"
    for given in (rows, Dataset.from_list(rows), Dataset.from_list(rows).with_format("torch")):
        with pytest.raises(KdcacheError, match=message):
            KDTrainer(language_model(0), arguments(tmp_path / "run"), train_dataset=given, cache=cache)
    wrong = [*rows[:9], {"input_ids": [-1]}]
    with pytest.raises(KdcacheError, match=r"^train_dataset from row 9 on, row 0: expected token ids of 0"):
        KDTrainer(language_model(0), arguments(tmp_path / "run"), train_dataset=wrong, cache=cache)


def test_a_stream_and_the_rows_of_a_collator_of_ones_own_are_seen_in_training(tmp_path: Path) -> None:
    cache = token_cache(tmp_path / "cache")
    run = arguments(tmp_path / "run", per_device_train_batch_size=2, max_steps=5)
    rows = Dataset.from_list([*sequences(), {"input_ids": [7, 7, 7]}])
    for given, collator in ((rows.to_iterable_dataset(), None), (rows, first_labelled)):
        made = KDTrainer(language_model(0), run, collator, given, cache=TokenCache(cache.path))
        with pytest.raises(KdcacheError, match=r"has no sequence like row [01] "):
            made.train()
