"""The GPU benchmark on a CPU: every part runs, its ratios are right, and without a GPU it says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.cache import epochs, writing
from benchmarks.training.runs import Run, Variant
from kdcache.engine.local import VISIBLE

OURS = Variant("kdcache", "bfloat16")
GLUE = Variant("Trainer", "bfloat16", "to 128")
GROUPED = Variant("Trainer", "float32", "by batch, grouped")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VISIBLE, "0")  # set back afterwards, whatever main sets
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bench(folder: Path, **changes) -> gpu.Bench:
    return gpu.Bench(**{"folder": folder, "device": "cpu", "rounds": 1, "quick": True, "rows": (), **changes})


def run(wall: float, cpu: float = 1.0) -> Run:
    return Run(examples=100, wall=wall, cpu=cpu, accuracy=0.8)


def test_the_clock_judges_against_the_fastest_trainer() -> None:
    """By the clock 4 and 3 times as fast as the grouped one, by CPU seconds no faster; padding to 128 has no goal."""
    runs = {
        OURS: [run(1), run(2)],
        Variant("kdcache", "float32"): [run(3), run(4)],
        GLUE: [run(10), run(10)],
        GROUPED: [run(4), run(6)],
    }
    best, glue = gpu.compared(runs, goal=3.6)
    assert best["what"] == "kdcache, bfloat16 / Trainer, padded by batch, grouped, float32"
    assert best["wall"] == {"median": 3.5, "low": 3, "high": 4}
    assert best["cpu"] == {"median": 1, "low": 1, "high": 1}
    assert (best["goal"], best["met"]) == ("at least 3.6", False)
    assert gpu.compared(runs, goal=3.4)[0]["met"] is True
    assert glue["wall"]["median"] == 7.5
    assert (glue["goal"], glue["met"]) == ("", None)


def test_trials_at_once_by_hand() -> None:
    found = gpu.hourly_found({1: [100, 200], 2: [150, 400]})
    assert found["times_one_at_a_time"] == {
        1: {"median": 1, "low": 1, "high": 1},
        2: {"median": 1.75, "low": 1.5, "high": 2},
    }
    assert gpu.hourly_page(found).splitlines()[2:] == [
        "| 1 | 150 | 1 (1 to 1) |",
        "| 2 | 275 | 1.75 (1.5 to 2) |",
    ]


def test_cuda_graphs_are_compared_with_both() -> None:
    """Twice as fast as kdcache without them, four times as fast as the Trainer; only kdcache without them is judged."""
    runs = {OURS: [run(2)], gpu.GRAPHED: [run(1)], GROUPED: [run(4)]}
    ours, trainer, plain = gpu.compared(runs, goal=3)
    assert (ours["wall"]["median"], ours["met"]) == (2, False)
    assert (
        trainer["what"] == "kdcache with CUDA graphs, bfloat16 / Trainer, padded by batch, grouped, float32"
    )
    assert (trainer["wall"]["median"], trainer["met"]) == (4, None)
    assert plain["what"] == "kdcache with CUDA graphs, bfloat16 / kdcache, bfloat16"
    assert (plain["wall"]["median"], plain["goal"]) == (2, "")


@pytest.mark.parametrize(("size", "millions"), [("minilm", 14.0), ("bert-base", 92.0), ("bert-large", 311.0)])
def test_sizes(tmp_path: Path, size: str, millions: float) -> None:
    """By hand: layers x 12 width^2, and embeddings of 8,192 tokens; biases and norms are within the tolerance."""
    from transformers import AutoConfig, BertForSequenceClassification

    config = AutoConfig.from_pretrained(bench(tmp_path, quick=False).checkpoint(size))
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_training_and_trials_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is added to what the file has."""
    monkeypatch.setenv("KDCACHE_THREADS", "1")
    path = tmp_path / "gpu.json"
    path.write_text('{"epochs": {"kept": true}}')
    gpu.main(["--quick", "--only", "minilm", "hourly", "--json", str(path)])
    kept, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert list(kept) == ["epochs", "minilm", "hourly"]
    assert kept["epochs"] == {"kept": True}
    names = [
        "kdcache, bfloat16",
        "kdcache with CUDA graphs, bfloat16",
        "Trainer, padded by batch, grouped, bfloat16",
    ]
    assert [one["variant"] for one in kept["minilm"]["speeds"]] == names
    assert kept["minilm"]["gpu"] is None or torch.cuda.is_available()
    assert kept["minilm"]["runs"][names[0]][0]["examples"] == 48
    assert list(kept["hourly"]["trials_per_hour"]) == ["1", "2"]
    one, two = (kept["hourly"]["mean_accuracy"][n][0] for n in ("1", "2"))
    assert one == two  # the same seeds, whatever runs beside them
    assert "## minilm" in printed
    assert "| trials at once | per hour | times as many as one at a time |" in printed


def test_the_rest_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached and online KD of random models, and writing, each with its page.

    Peak memory is measured in this process; test_cache.py has the processes of its own.
    """
    monkeypatch.setattr(epochs, "in_child", lambda function, *arguments: function(*arguments))
    found, page = gpu.of_the_cache(bench(tmp_path), epochs.measure)
    name = "bert-large's size -> bert-base's size"
    assert len(found["goals"]) == 4
    assert all(name in goal["what"] for goal in found["goals"])
    assert set(found["facts"][f"{name}: peak memory in MiB"]) == set(epochs.VARIANTS)
    assert f"| a student epoch from the cache, against one with the teacher in the loop ({name}) |" in page
    found, page = gpu.of_the_cache(bench(tmp_path), writing.measure)
    assert "writing, against bare inference, bert-tiny's size, K = 3" in page


def test_a_large_teacher_is_measured_on_a_gpu(tmp_path: Path) -> None:
    on = {device: bench(tmp_path, device=device, quick=False) for device in ("cpu", "cuda")}
    asked: list[gpu.Options] = []
    for one in on.values():
        with pytest.raises(StopIteration):
            gpu.of_the_cache(one, lambda options: asked.append(options) or next(iter(())))
    names = [[(size.name, size.layers) for size, _ in writing._cases(options)] for options in asked]
    assert names == [
        [("bert-tiny", 2), ("bert-tiny", 2), ("bert-small", 4)],
        [("bert-tiny", 2), ("bert-large", 24)],
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    error = capsys.readouterr().err
    assert error.startswith("error: no GPU: torch ")
    assert "--quick" in error


def test_one_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3,1")
    gpu.choose_device(quick=True)
    assert os.environ[VISIBLE] == "3"


def test_everything_is_measured_unless_it_says_what() -> None:
    args = gpu.parse([])
    assert args.only == ["bert-tiny", "minilm", "bert-base", "hourly", "epochs", "writing"]
    assert args.json == gpu.ROOT / "benchmarks/results/gpu.json"
    assert args.rounds == 3
    assert gpu.parse(["--quick"]).json is None
