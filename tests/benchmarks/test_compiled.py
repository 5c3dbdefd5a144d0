"""torch.compile beside eager steps: the same losses, one compilation a shape, and what it costs reckoned by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import compiled
from kdcache.errors import KdcacheError
from tests.tiny_models import save_checkpoint


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    size = {"num_hidden_layers": 1, "max_position_embeddings": 128, "vocab_size": 8192}
    checkpoint = save_checkpoint(tmp_path / "tiny", "bert", **size)
    sizes = ["--tokens", "6", "--batch-size", "4", "--steps", "2", "--rounds", "2"]
    return ["--checkpoint", str(checkpoint), *sizes]


def test_what_compiling_costs_by_hand() -> None:
    """Medians 20 and 16 ms a step; the first three steps took 8.048 s, so 8 s are the compiler's: 2,000 steps' gain."""
    found = compiled.summary(8.048, {"eager": [20, 24, 18], "compiled": [16, 12, 18]})
    assert found["compile_seconds"] == pytest.approx(8)
    assert found["steps_to_pay"] == pytest.approx(2000)
    assert found["times_as_fast"] == {"median": 1.25, "low": 1, "high": 2}
    slower = compiled.summary(8, {"eager": [16], "compiled": [16]})
    assert slower["steps_to_pay"] is None


def test_a_real_run_without_a_compiler(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """aot_eager traces a model as for inductor, and runs what it traced: no C++."""
    path = tmp_path / "found.json"
    compiled.main([*options, "--backend", "aot_eager", "--json", str(path)])
    kept = json.loads(path.read_text())["compiled"]
    cases = ["6 tokens, float32", "6 tokens, bfloat16"]
    assert list(kept["found"]) == [f"{case}{rest}" for case in cases for rest in ("", ", no dropout")]
    exact = kept["found"]["6 tokens, float32, no dropout"]
    assert exact["compile_seconds"] > 0
    assert exact["eager_ms"]["low"] > 0
    assert exact["losses_apart"] < 1e-5
    assert kept["found"]["6 tokens, float32"]["losses_apart"] is None
    printed = capsys.readouterr().out
    assert "| tiny, 4 rows | compiling, s |" in printed
    assert "| 6 tokens, bfloat16, no dropout |" in printed


def test_a_model_is_compiled_once_for_a_shape(options: list[str]) -> None:
    """As one graph, and training again compiles nothing again; another shape does."""
    trial, counters = compiled.trials(compiled.parse(options))[0], torch._dynamo.utils.counters
    torch.compiler.reset()
    counters.clear()
    model = trial.model({"backend": "eager"})
    trial.train(model, 2)
    trial.train(model, 2)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    dataclasses.replace(trial, tokens=7).train(model, 2)
    assert counters["stats"]["unique_graphs"] == 2


def test_losses_that_differ_are_seen(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager model keeps its dropout, the compiled one has none."""
    trial, model = compiled.trials(compiled.parse(options))[0], compiled.Trial.model
    monkeypatch.setattr(
        compiled.Trial, "model", lambda self, way=None, dropout=True: model(self, way, way is None)
    )
    found = compiled.timed(trial, {"backend": "aot_eager"}, steps=2, rounds=1, dropout=False)
    assert found["losses_apart"] > 1e-5


def test_a_gpu_has_cuda_graphs_too() -> None:
    assert compiled.ways("cuda", "inductor") == {
        "default": {},
        "reduce-overhead": {"mode": "reduce-overhead"},
    }
    assert compiled.ways("cpu", "inductor") == {"default": {}}


def test_without_a_compiler_it_says_what_to_do(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(KdcacheError, match="needs a C\\+\\+ compiler"):
        compiled.measure(compiled.parse(options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compiled.main([*options, "--device", "cuda"])
    assert "no GPU here" in capsys.readouterr().err
