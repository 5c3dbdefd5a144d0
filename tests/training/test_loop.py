"""The training loop against a hand-written one, and everything that must not change its numbers."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, PartialState
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import TrialError
from kdcache.modelling.batches import epoch_batches
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.predicting import autocast, predict
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Regularizer, Student
from kdcache.system.devices import has_bfloat16
from kdcache.training.loop import _optimizer, _share, fine_tune
from kdcache.training.regularizers import make_loss
from tests import tiny_models as tiny
from tests.launching import run_side_by_side
from tests.tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES, card, random_split, same_weights, student

CPU = torch.device("cpu")
LENGTHS = [3, 9, 4, 12, 5, 3, 7, 10, 6, 8]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, as real checkpoints have it."""
    return tiny.save_checkpoint(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def still_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout."""
    return tiny.save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", **tiny.STILL["bert"])


def build(model: Student, seed: int = 0, **task: Any) -> Any:
    return build_model(
        find_checkpoint(model), card(**task), seed, load_preprocessor(find_checkpoint(model), card(**task))
    )


def train(model: Student, split: EncodedSplit, method: Regularizer | None = None, seed: int = 0) -> Any:
    """A student trained with a regularizer; distillers learn from fixed soft logits."""
    method = method or Regularizer()
    soft = np.linspace(-1, 1, 3 * len(split)).reshape(-1, 3).astype(np.float32)
    cached = soft if method.soft_labels == "teacher" else None
    return fine_tune(build(model, seed), split, make_loss(method, 3), model, seed, cached)


# ---- the loop against a slow one ----


def plainly_trained(
    model: Any, split: EncodedSplit, params: Student, seed: int, soft: Any = None, labelled: int | None = None
) -> tuple[Any, list[float]]:
    """The same steps written out, row by row, without Accelerate, Batcher, schedule object or fused optimizer.

    Rows from `labelled` on have no label.
    """
    assert split.input_ids is not None
    decay = [p for name, p in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    rest = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": params.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=params.learning_rate,
        fused=False,
        foreach=False,
    )
    per_epoch = -(-len(split) // params.batch_size)
    steps, step, losses = per_epoch * params.epochs, 0, []
    warmup = round(params.warmup * steps)
    torch.manual_seed(seed)
    model.train()
    for epoch in range(params.epochs):
        row_losses: list[float] = []
        for rows in epoch_batches(
            np.array([len(r) for r in split.input_ids]), params.batch_size, seed, epoch
        ):
            factor = (step + 1) / warmup if step < warmup else (steps - step) / (steps - warmup)
            for group in optimizer.param_groups:
                group["lr"] = params.learning_rate * factor
            optimizer.zero_grad()
            longest = max(len(split.input_ids[row]) for row in rows)
            tokens, mask = torch.zeros(len(rows), longest).long(), torch.zeros(len(rows), longest).long()
            for place, row in enumerate(rows):
                tokens[place, : len(split.input_ids[row])] = torch.tensor(split.input_ids[row])
                mask[place, : len(split.input_ids[row])] = 1
            logits = model(input_ids=tokens, attention_mask=mask).logits
            each = F.cross_entropy(logits, torch.tensor(split.labels[rows]), reduction="none")
            if soft is not None:  # alpha 0.5, tau 2: KL(teacher || student) times tau squared
                teacher = F.softmax(torch.tensor(soft[rows]) / 2, -1)
                log_student = F.log_softmax(logits / 2, -1)
                away = 4 * (teacher * (teacher.log() - log_student)).sum(-1)
                known = torch.tensor(rows < (len(split) if labelled is None else labelled))
                each = torch.where(known, 0.5 * each + 0.5 * away, away)
            each.mean().backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            for parameter in model.parameters():
                parameter.grad *= min(1.0, params.max_grad_norm / float(norm))
            optimizer.step()
            row_losses += each.tolist()
            step += 1
        losses.append(sum(row_losses) / len(row_losses))
    return model, losses


@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.5, "max_grad_norm": 0.3, "warmup": 0.4}])
def test_equal_to_a_hand_written_loop(still_bert: Path, changes: dict[str, Any]) -> None:
    params, split = student(still_bert, epochs=3, **changes), random_split(LENGTHS)
    expected, losses = plainly_trained(build(params), split, params, 0)
    found, run = train(params, split)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert run.losses == pytest.approx(losses, rel=1e-4)
    assert run.steps == 9
    assert not same_weights(found, build(params))


def test_distillation_is_equal_to_a_hand_written_loop(still_bert: Path) -> None:
    params, split = student(still_bert), random_split(LENGTHS)
    soft = np.linspace(-1, 1, 3 * len(split)).reshape(-1, 3).astype(np.float32)
    expected, losses = plainly_trained(build(params), split, params, 0, soft)
    found, run = train(params, split, Regularizer(soft_labels="teacher", alpha=0.5, temperature=2))
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert run.losses == pytest.approx(losses, rel=1e-4)


def test_unlabelled_rows_are_trained_on_too(still_bert: Path) -> None:
    """Every row once an epoch, with its own soft logits; those without a label have nothing else."""
    params, split = student(still_bert), random_split(LENGTHS)
    soft = np.linspace(-1, 1, 3 * len(split)).reshape(-1, 3).astype(np.float32)
    expected, losses = plainly_trained(build(params), split, params, 0, soft, labelled=4)
    kd = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2, unlabelled="use")
    found, run = train(params, dataclasses.replace(split, labels=split.labels[:4]), kd)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert run.losses == pytest.approx(losses, rel=1e-4)
    assert run.steps == 6  # 2 epochs of 10 rows by 4, though 4 rows alone have labels


def test_soft_logits_belong_to_their_rows(still_bert: Path) -> None:
    """Each row is given its own cached logits, in whatever order and beside whatever rows it is drawn."""
    split = dataclasses.replace(random_split(LENGTHS), labels=np.arange(10, dtype=np.int64))
    soft = np.repeat(np.arange(10, dtype=np.float32)[:, None], 10, 1)
    seen: list[int] = []

    def loss(
        logits: torch.Tensor, labels: torch.Tensor, soft_logits: torch.Tensor | None, _: float
    ) -> torch.Tensor:
        assert soft_logits is not None
        assert soft_logits[:, 0].tolist() == labels.tolist()
        seen.extend(labels.tolist())
        return logits.sum() * 0

    params = student(still_bert, epochs=3)
    fine_tune(build(params, classes=10), split, loss, params, 0, soft)
    assert sorted(seen) == sorted(list(range(10)) * 3)


def test_the_loss_is_told_the_progress_of_training(still_bert: Path) -> None:
    """From 0 at the first optimizer step to 1 at the last, over all epochs; 0 when there is one step only."""
    seen: list[float] = []

    def loss(
        logits: torch.Tensor, labels: torch.Tensor, soft_logits: torch.Tensor | None, progress: float
    ) -> torch.Tensor:
        seen.append(progress)
        return logits.sum() * 0

    for epochs, batch_size in ((2, 4), (1, 10)):  # 2 x 3 steps, and one
        params = student(still_bert, epochs=epochs, batch_size=batch_size)
        fine_tune(build(params), random_split(LENGTHS), loss, params, 0)
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 0])


def test_annealed_distillation_is_equal_to_a_loss_written_by_hand(still_bert: Path) -> None:
    params, split = student(still_bert), random_split(LENGTHS)
    soft = np.linspace(-1, 1, 3 * len(split)).reshape(-1, 3).astype(np.float32)
    steps = iter(range(6))  # 2 epochs x 3 batches

    def by_hand(
        logits: torch.Tensor, labels: torch.Tensor, soft_logits: torch.Tensor | None, _: float
    ) -> torch.Tensor:
        assert soft_logits is not None
        step = next(steps)
        alpha, tau = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0][step], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0][step]
        teacher = F.softmax(soft_logits / tau, -1)
        away = (teacher * (teacher.log() - F.log_softmax(logits / tau, -1))).sum(-1).mean()
        return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * tau**2 * away

    expected, slow = fine_tune(build(params), split, by_hand, params, 0, soft)
    schedules = {"alpha": {"start": 1.0, "end": 0.0}, "temperature": {"start": 6, "end": 1}}
    found, run = train(params, split, Regularizer(soft_labels="teacher", **schedules))
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert run.losses == pytest.approx(slow.losses, rel=1e-5)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_every_family_learns_its_rows_by_heart(tmp_path: Path, family: str) -> None:
    modality = "text" if family in TEXT_FAMILIES else "image"
    folder = tiny.save_checkpoint(tmp_path, family, **tiny.STILL[family])
    params = student(folder, epochs=25, batch_size=3, learning_rate=1e-2)
    preprocessor = load_preprocessor(find_checkpoint(params), card(modality=modality))
    split = tiny.text_split(preprocessor.tokenizer) if modality == "text" else tiny.image_split()
    model = build_model(find_checkpoint(params), card(modality=modality), 0, preprocessor)
    trained, run = fine_tune(model, split, make_loss(Regularizer(), 3), params, 0)
    assert run.losses[-1] < 0.5 * run.losses[0]
    logits = predict(trained, split, 3)
    assert logits.argmax(1).tolist() == split.labels.tolist()
    # in the split's order, whatever the batches; without padding as with it
    for batch_size in (1, 4, 100):
        np.testing.assert_allclose(predict(trained, split, batch_size), logits, atol=1e-5)


def test_regression(still_bert: Path) -> None:
    params = student(still_bert, epochs=30)
    split = dataclasses.replace(random_split(LENGTHS), labels=np.linspace(0, 1, 10).astype(np.float32))
    model = build(params, label_names=[], regression=True)
    trained, run = fine_tune(model, split, make_loss(Regularizer(), 1, True), params, 0)
    assert run.losses[-1] < run.losses[0]
    assert predict(trained, split, 4).shape == (10, 1)


# ---- a batch in parts ----


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_is_the_batch(still_bert: Path, parts: int) -> None:
    """4 rows in parts of 2, of 2 (3 parts are not to be had) and of 1, and the last batch's 2 rows."""
    whole, run = train(student(still_bert), random_split(LENGTHS))
    found, other = train(student(still_bert, accumulate=parts), random_split(LENGTHS))
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert other.losses == pytest.approx(run.losses, rel=1e-5)
    assert other.steps == run.steps


def test_parts_are_as_large_as_they_are_said_to_be(still_bert: Path) -> None:
    seen: list[int] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor, *_: Any) -> torch.Tensor:
        seen.append(len(labels))
        return F.cross_entropy(logits, labels)

    params = student(still_bert, epochs=1, batch_size=8, accumulate=3)
    fine_tune(build(params), random_split(LENGTHS), loss, params, 0)
    assert sorted(seen) == [1, 1, 2, 3, 3]  # of 8 rows and of 2


def test_unlabelled_rows_in_parts(still_bert: Path) -> None:
    split = dataclasses.replace(random_split(LENGTHS), labels=random_split(LENGTHS).labels[:4])
    kd = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2, unlabelled="use")
    whole, run = train(student(still_bert), split, kd)
    found, other = train(student(still_bert, accumulate=4), split, kd)  # some parts have no label at all
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=2e-5, rtol=1e-4)
    assert other.losses == pytest.approx(run.losses, rel=1e-5)


# ---- matched seeds ----


def test_two_runs_are_equal_bit_for_bit(bert: Path) -> None:
    (first, run), (second, again) = (train(student(bert), random_split(LENGTHS)) for _ in range(2))
    assert same_weights(first, second)
    assert run.losses == again.losses
    other, _ = train(student(bert), random_split(LENGTHS), seed=1)
    assert not same_weights(first, other)


def test_regularizers_differ_in_nothing_but_their_loss(bert: Path) -> None:
    """With almost no weight on the soft labels every trajectory, dropout included, is the baseline's."""
    base, _ = train(student(bert), random_split(LENGTHS))
    for method in (
        Regularizer(soft_labels="uniform", alpha=1e-7),
        Regularizer(soft_labels="designed", correct=0.99, alpha=1e-9, temperature=20),
        Regularizer(soft_labels="teacher", alpha=1e-7, temperature=2),
    ):
        other, _ = train(student(bert), random_split(LENGTHS), method)
        for key, value in base.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value, atol=1e-4, rtol=0)
    real, _ = train(student(bert), random_split(LENGTHS), Regularizer(soft_labels="uniform", alpha=0.5))
    assert (
        max(float((real.state_dict()[key] - value).abs().max()) for key, value in base.state_dict().items())
        > 1e-3
    )


# ---- optimizer ----


def rates(steps: int, warmup: float, peak: float = 1.0) -> list[float]:
    params = Student(checkpoint="x", learning_rate=peak, epochs=1, batch_size=1, warmup=warmup)
    optimizer, schedule = _optimizer(list(torch.nn.Linear(1, 1).parameters()), params, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate() -> None:
    # 10 steps, 2 of them warm-up: 1/2, 2/2, then 8/8 down to 1/8
    expected = [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert rates(10, 0.2) == pytest.approx(expected)
    assert rates(10, 0.2, peak=3e-4) == pytest.approx([3e-4 * rate for rate in expected])
    assert rates(4, 0) == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])
    assert rates(1, 0.1) == [1]
    assert rates(2, 0.99) == pytest.approx([0.5, 1])  # all of it warm-up


def test_no_decay_on_biases_and_norms(still_bert: Path) -> None:
    model = build(student(still_bert))
    optimizer, _ = _optimizer(list(model.parameters()), student(still_bert, weight_decay=0.1), 10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(name.endswith(".bias") or "LayerNorm" in name for name in plain)
    assert not any(name.endswith(".bias") or "LayerNorm" in name for name in decayed)
    assert len(decayed) + len(plain) == len(names)


def test_gradients_are_clipped(still_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    original = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.sqrt(sum((g**2).sum() for g in gradients))))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(student(still_bert, max_grad_norm=0.25), random_split(LENGTHS))
    assert norms == pytest.approx([0.25] * len(norms), rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(still_bert: Path, value: float) -> None:
    params = student(still_bert)
    with pytest.raises(TrialError, match=f"the training loss is {value} in epoch 1; lower learning_rate"):
        fine_tune(build(params), random_split(LENGTHS), lambda z, y, s, _: z.sum() * 0 + value, params, 0)


# ---- precision, device and what the user's Accelerate settings may change ----


def seen_precision(folder: Path, precision: Any) -> tuple[set[torch.dtype], Any]:
    found = set()
    params = student(folder, precision=precision)
    model = build(params)
    model.classifier.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    trained, _ = fine_tune(model, random_split(LENGTHS), make_loss(Regularizer(), 3), params, 0)
    predict(trained, random_split(LENGTHS), 4, precision)
    return found, trained


def test_precision_on_a_cpu(still_bert: Path) -> None:
    single, first = seen_precision(still_bert, "float32")
    half, second = seen_precision(still_bert, "bfloat16")
    assert single == {torch.float32}
    assert half == {torch.bfloat16}
    assert not same_weights(first, second)
    assert {value.dtype for value in second.parameters()} == {torch.float32}


@pytest.mark.parametrize("native", ["avx512_bf16", "amx_bf16", None])
def test_auto_precision_on_a_cpu(
    native: str | None, still_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 where the CPU has instructions for it, else float32."""
    capabilities = {
        "avx2": True,
        "avx512_bf16": False,
        "amx_bf16": False,
        **({native: True} if native else {}),
    }
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    has_bfloat16.cache_clear()
    expected = "float32" if native is None else "bfloat16"
    try:
        found, trained = seen_precision(still_bert, "auto")
        assert found == {getattr(torch, expected)}
        assert same_weights(trained, seen_precision(still_bert, expected)[1])
    finally:
        has_bfloat16.cache_clear()


def test_attention_on_a_cpu_is_matrix_products_while_training_only(tmp_path: Path) -> None:
    seen = set()
    params = student(tiny.save_checkpoint(tmp_path / "vit", "vit"), epochs=1)
    model = build(params, modality="image")
    model.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cuda.flash_sdp_enabled()))
    trained, _ = fine_tune(model, tiny.image_split(), make_loss(Regularizer(), 3), params, 0)
    assert seen == {False}
    predict(trained, tiny.image_split(), 4)
    assert seen == {False, True}


def test_auto_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 where the GPU computes in it, not where torch would imitate it."""
    for real in (True, False):
        has_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, real=real: real)
        monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: (kind, enabled))
        assert autocast("auto", torch.device("cuda")) == ("cuda", real)
        assert autocast("float32", torch.device("cuda")) == ("cuda", False)
    has_bfloat16.cache_clear()


def test_accelerate_settings_do_not_change_the_numbers(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` passes the user's configuration on in variables; precision is the study's."""
    before, _ = train(student(bert), random_split(LENGTHS))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    AcceleratorState._reset_state(reset_partial_state=True)
    after, _ = train(student(bert), random_split(LENGTHS))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert PartialState().num_processes == 1
    assert same_weights(before, after)


class Reads(TorchDispatchMode):
    """Notes which module of kdcache or transformers reads a value of a tensor: on a GPU that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            names = (frame.f_globals["__name__"] for frame, _ in traceback.walk_stack(sys._getframe()))
            self.modules.append(
                next(name for name in names if name.startswith(("kdcache.", "transformers.")))
            )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
@pytest.mark.parametrize("method", [Regularizer(), Regularizer(soft_labels="teacher", alpha=0.5)])
def test_the_loss_is_read_once_an_epoch(tmp_path: Path, family: str, method: Regularizer) -> None:
    """Six steps in two epochs. transformers asks of each batch of texts whether anything in it is padding."""
    model, text = student(tiny.save_checkpoint(tmp_path, family)), family in TEXT_FAMILIES
    network = build(model, modality="text" if text else "image")
    split = random_split(LENGTHS) if text else tiny.image_split(10)
    soft = np.zeros((10, 3), dtype=np.float32) if method.soft_labels else None
    with Reads() as reads:
        fine_tune(network, split, make_loss(method, 3), model, 0, soft)
    assert reads.modules.count("kdcache.training.loop") == 2
    assert set(reads.modules) <= {"kdcache.training.loop", "transformers.masking_utils"}


def test_what_a_run_tells(still_bert: Path) -> None:
    _, run = train(student(still_bert), random_split(LENGTHS))
    assert run.steps == 6  # 10 rows in batches of 4, twice
    assert len(run.losses) == 2
    assert run.device == "cpu"
    assert 0 < run.seconds < 60
    assert 50 < run.peak_memory_mb < 100_000  # a process with torch in it


def test_the_batchs_loss_is_the_mean_over_processes() -> None:
    class Process:
        num_processes = 3

        def __init__(self, index: int) -> None:
            self.process_index = index

    for size in (1, 2, 3, 7, 9):
        rows = np.arange(size)
        values = np.random.default_rng(size).normal(size=size)
        shares: Any = [_share(rows, Process(index)) for index in range(3)]  # type: ignore[arg-type]
        assert sorted(row for mine, weight in shares if weight for row in mine) == rows.tolist()
        assert all(len(mine) for mine, _ in shares)  # every process takes part in every step
        mean = np.mean([values[mine].mean() * weight for mine, weight in shares])
        assert mean == pytest.approx(values.mean())


SCRIPT = """
import sys
import numpy as np
import torch
from accelerate import PartialState
from kdcache.checkpoints.find import find_checkpoint
from kdcache.modelling.building import build_model
from kdcache.modelling.predicting import predict
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Regularizer
from kdcache.training.regularizers import make_loss
from kdcache.training.loop import fine_tune
from tests.training.test_loop import LENGTHS
from tests.tiny_models import card, random_split, student

split = random_split(LENGTHS)
for accumulate in (1, 2):
    params = student(sys.argv[1], accumulate=accumulate)
    checkpoint = find_checkpoint(params)
    model = build_model(checkpoint, card(), 0, load_preprocessor(checkpoint, card()))
    trained, run = fine_tune(model, split, make_loss(Regularizer(), 3), params, 0)
    logits = predict(trained, split, 4)
    state = PartialState()
    found = {"weights": trained.state_dict(), "logits": torch.from_numpy(logits), "losses": run.losses,
             "processes": state.num_processes}
    torch.save(found, f"{sys.argv[2]}/{state.process_index}-{accumulate}.pt")
state.destroy_process_group()
"""


def test_two_processes_give_what_one_gives(still_bert: Path, tmp_path: Path) -> None:
    """10 rows in batches of 4: the last batch has 2, one for each process; then each one's share in two parts, too."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run_side_by_side(script, still_bert, tmp_path)
    names = [f"{index}-{accumulate}.pt" for index in (0, 1) for accumulate in (1, 2)]
    split = random_split(LENGTHS)
    alone, run = train(student(still_bert), split)
    for found in (torch.load(tmp_path / name, weights_only=True) for name in names):
        assert found["processes"] == 2
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(found["weights"][key], value, atol=1e-5, rtol=1e-5)
        assert found["losses"] == pytest.approx(run.losses, rel=1e-5)
        np.testing.assert_allclose(found["logits"].numpy(), predict(alone, split, 4), atol=1e-5)
