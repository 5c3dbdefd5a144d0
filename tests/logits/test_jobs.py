"""What both writers share: a finished cache is of exactly these rows, and a model is left as it was found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from kdcache import Full, write_logits, write_token_logits
from kdcache.errors import CacheError, KdcacheError
from kdcache.logits.jobs import evaluating
from kdcache.system import processes
from tests.hf.parts import classifier, language_model, sequences, texts

from .conftest import FINGERPRINTS
from .test_writer import contents

WRITERS = ["logits", "tokens"]


def encode(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row["input_ids"] for row in rows])}


def rows_of(kind: str) -> list[dict[str, Any]]:
    return texts().to_list() if kind == "logits" else sequences()


def model_of(kind: str) -> Any:
    return classifier(1) if kind == "logits" else language_model(1)


def write(kind: str, path: Path, rows: Any = None, model: Any = None, **options: Any) -> np.ndarray:
    """Write a cache in shards of three rows, and read back its 8 rows' logits or distributions."""
    rows, model = rows or rows_of(kind), model or model_of(kind)
    options = {"fingerprints": FINGERPRINTS, "rows_per_shard": 3, **options}
    if kind == "logits":
        return write_logits(model, rows, path, collate=encode, **options).logits("train", np.arange(8))
    cache = write_token_logits(model, rows, path, Full(), **options)
    return np.concatenate([cache.batch([row]).dense().flatten() for row in range(8)])


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seventh row with another token."""
    rows = copy.deepcopy(rows)
    rows[6]["input_ids"][0] = 19
    return rows


@pytest.mark.parametrize("change", [edited, lambda rows: rows[::-1]], ids=["edited", "in another order"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_complete_cache_of_other_rows_is_refused(
    kind: str, change: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    """There are as many rows, and the caller's fingerprints say nothing of the change."""
    path, rows = tmp_path / "cache", change(rows_of(kind))
    write(kind, path)
    before = contents(path)
    with pytest.raises(CacheError, match=r"another complete cache \(it differs in rows\).*overwrite=True"):
        write(kind, path, rows)
    assert contents(path) == before
    found = write(kind, path, rows, overwrite=True)
    np.testing.assert_array_equal(found, write(kind, tmp_path / "new", rows))


@pytest.mark.parametrize("kind", WRITERS)
def test_other_rows_are_refused_even_if_a_shard_is_lost(kind: str, tmp_path: Path) -> None:
    found = write(kind, tmp_path)
    (tmp_path / "train" / "part-00000.parquet").unlink()
    with pytest.raises(CacheError, match="it differs in rows"):
        write(kind, tmp_path, edited(rows_of(kind)))
    np.testing.assert_array_equal(write(kind, tmp_path), found)  # of the same rows it is completed


@pytest.mark.parametrize("kind", WRITERS)
def test_a_finished_cache_is_opened_without_its_logits_being_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(kind, tmp_path)
    read, original = [], pq.ParquetFile.read

    def spy(file: pq.ParquetFile, columns: Any = None, **options: Any) -> pa.Table:
        read.append(columns)
        return original(file, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", spy)
    write(kind, tmp_path)
    assert read == [["id", "row_hash"]] * 3


class Frozen(nn.Module):
    """A student whose BatchNorm was frozen: the module is in training mode, and the BatchNorm is not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.body[1].eval()


def test_every_part_of_a_module_goes_back_to_its_mode() -> None:
    for model in (Frozen(), Frozen().eval()):
        before = [module.training for module in model.modules()]
        with evaluating(model, None):
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model.modules()] == before


class Wrapped(nn.Module):
    """A teacher with a method of its own that gives logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.dropout = model, nn.Dropout(0.5)

    def encode(self, **batch: Any) -> torch.Tensor:
        return self.dropout(self.model(**batch).logits)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_module_of_a_bound_method_is_in_evaluation_mode(
    kind: str, device: str | None, tmp_path: Path
) -> None:
    """Dropout would make its logits random."""
    model = Wrapped(model_of(kind)).train()
    found = write(kind, tmp_path / "bound", model=model.encode, device=device)
    np.testing.assert_array_equal(found, write(kind, tmp_path / "module"))
    assert all(module.training for module in model.modules())


def test_the_module_of_a_bound_method_is_moved() -> None:
    model = nn.Linear(2, 2)
    with evaluating(model.forward, "meta") as device:
        assert device == model.weight.device == torch.device("meta")


def test_any_other_callable_stays_as_it_is() -> None:
    model = nn.Dropout()
    for plain in (lambda values: model(values), len, "text".upper):
        with evaluating(plain, None) as device:
            assert device is None
            assert model.training


@pytest.mark.parametrize("kind", WRITERS)
def test_a_number_is_a_gpu(kind: str, tmp_path: Path) -> None:
    """0 is the first, and not the CPU."""
    if torch.accelerator.is_available():
        with evaluating(len, 0) as device:
            assert device == torch.device(torch.accelerator.current_accelerator().type, 0)
        return
    with pytest.raises(CacheError, match="device=0: expected a device of this machine"):
        write(kind, tmp_path, model=lambda **batch: model_of(kind)(**batch).logits, device=0)


def test_what_is_no_device() -> None:
    for device in ("gpu", 1.5, "cuda:77"):
        message = f"device={device!r}: expected a device .*such as 'cpu'"
        for model in (nn.Linear(1, 1), nn.Linear(1, 1).forward, len):
            with pytest.raises(CacheError, match=message), evaluating(model, device):
                pass


def test_a_module_that_cannot_be_moved() -> None:
    model = nn.Linear(2, 2, device="meta")
    message = r"device='cpu': the model cannot be moved there .*leave `device` out"
    with pytest.raises(CacheError, match=message), evaluating(model, "cpu"):
        pass


def on_disk(model: nn.Module, folder: Path) -> nn.Module:
    accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    return model


def by_a_map(model: nn.Module, folder: Path) -> nn.Module:
    """As `from_pretrained(device_map=...)` does it."""
    names = [name for name, _ in model.named_children()]
    places = {names[0]: "disk"} | dict.fromkeys(names[1:], "cpu")
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))


@pytest.mark.parametrize("offload", [lambda model, _: accelerate.cpu_offload(model), on_disk, by_a_map])
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", WRITERS)
def test_an_offloaded_model_is_cached_where_it_is(
    kind: str, device: str | None, offload: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = offload(model_of(kind), tmp_path / "weights")
    assert any(weight.is_meta for weight in model.parameters())
    found = write(kind, tmp_path / "cache", model=model, device=device)
    np.testing.assert_allclose(found, write(kind, tmp_path / "plain"), atol=1e-6)
    with pytest.raises(KdcacheError, match=r"'meta' has no values to fingerprint .*pass `fingerprints`"):
        write(kind, tmp_path / "other", model=model, fingerprints=None)


def test_a_model_that_is_spread_out_by_hand_stays_so() -> None:
    """If no device is given, a module is not moved."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with evaluating(model, None) as device:
        assert device == torch.device("cpu")
    assert [weight.device.type for weight in model.parameters()] == ["cpu", "cpu", "meta", "meta"]


def test_each_of_several_processes_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a model that was loaded with `device_map` is where it should be."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "device", lambda: torch.device("meta"))
    plain, mapped = nn.Linear(2, 2), nn.Linear(2, 2)
    mapped.hf_device_map = {"": "cpu"}
    for model, expected in ((plain, "meta"), (mapped, "cpu")):
        with evaluating(model, None) as device:
            assert device == torch.device(expected)
            assert model.weight.device == device
