"""The cache's benchmark on a few rows and models of a few weights: that it runs and counts right, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cache import epochs, large, measuring, report, stores
from benchmarks.cache.__main__ import main
from tests.tiny_models import save_checkpoint


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads(), pa.cpu_count()
    yield
    torch.set_num_threads(before[0])
    pa.set_cpu_count(before[1])


def options(folder: Path, **changes) -> measuring.Options:
    values = {"rows": 600, "repeats": 1, "threads": 1, "device": "cpu", "quick": True, "minilm": None}
    return measuring.Options(
        **{"work": folder, "teacher": folder / "none", "student": folder / "none", **values, **changes}
    )


def test_a_quick_run_has_a_number_or_a_reason_for_every_row(tmp_path, capsys):
    work = tmp_path / "work"
    work.mkdir()
    teacher, student = (save_checkpoint(tmp_path / name, "bert") for name in ("big", "little"))
    arguments = ["--quick", "--large", "--rows", "1000", "--work-dir", str(work)]
    arguments += ["--teacher", str(teacher), "--student", str(student)]
    main(
        [
            *arguments,
            "--json",
            str(tmp_path / "out" / "run.json"),
            "--page",
            str(tmp_path / "docs" / "page.md"),
        ]
    )

    text = (tmp_path / "out" / "run.json").read_text()
    run = json.loads(text)
    goals = [goal for found in run["measurements"].values() for goal in found["goals"]]
    assert list(run["measurements"]) == ["writing", "joining", "stores", "streaming", "epochs", "large"]
    for goal in goals:
        assert (goal["measured"] is None) == bool(goal["reason"])
        assert (goal["met"] is None) == (goal["measured"] is None or not goal["goal"])
        assert goal["measured"] is None or goal["low"] <= goal["measured"] <= goal["high"]
    reasons = {goal["what"]: goal["reason"] for goal in goals if goal["reason"]}
    assert len(reasons) == 5  # TextBrewer's way, and four of the pair that was not given
    assert sum("--minilm" in reason for reason in reasons.values()) == 4

    stored = run["measurements"]["stores"]["facts"]
    everywhere = [stores.CACHE, stores.CHECKED, stores.SELECT, stores.FILES, stores.ARROW, stores.MEMMAP]
    for classes in (3, 1000):
        assert stored[f"K = {classes}, equal values in"] == everywhere
    # float32 [1000, 3] behind NumPy's header of 128 bytes
    assert stored["K = 3, bytes per row, NumPy memmap"] == pytest.approx((1000 * 12 + 128) / 1000, abs=0.01)

    shown = capsys.readouterr().out
    page = (tmp_path / "docs" / "page.md").read_text()
    assert shown.strip() in page
    assert len(shown.strip().splitlines()) == len(goals) + 2
    for made in (text, page):
        assert str(tmp_path) not in made
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("classes", [3, 1000])
def test_every_store_gives_the_same_values_and_its_bytes_are_counted(tmp_path, classes):
    logits = measuring.peaky_logits(40, classes)
    found = stores.make_stores(options(tmp_path, rows=200), logits)
    assert stores.check_equal(found, logits) == list(found)
    folder = tmp_path / f"stores-{classes}"
    manifest = json.loads((folder / "cache" / "manifest.json").read_text())
    (shard,) = manifest["splits"]["train"]["shards"]
    assert found[stores.CACHE].bytes == shard["bytes"] + (folder / "cache" / "manifest.json").stat().st_size
    assert found[stores.MEMMAP].bytes == 128 + 40 * classes * 4
    files = [folder / "files" / f"{k:04d}" / f"{k:04d}.pt" for k in range(40)]
    assert found[stores.FILES].bytes == sum(file.stat().st_size for file in files)
    assert set(files) == set((folder / "files").rglob("*.pt"))


def test_a_store_with_another_rows_values_is_not_timed(tmp_path):
    logits = measuring.peaky_logits(40, 3)
    shifted = stores.Store(lambda ids: logits[(ids + 1) % 40], rows=40, batches=1)
    with pytest.raises(AssertionError, match="shifted"):
        stores.check_equal({"shifted": shifted}, logits)


def test_torchdistills_layout():
    assert stores.sample_file(Path("d"), 7) == Path("d/0007/0007.pt")
    assert stores.sample_file(Path("d"), 123456) == Path("d/3456/123456.pt")


def test_variants_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []

    def variant(name: str):
        return lambda: order.append(name) or 10

    found = measuring.rates(
        {"a": variant("a"), "b": variant("b")}, repeats=2, after=lambda: order.append("-")
    )
    assert "".join(order) == "a-b-b-a-a-b-"
    assert [len(values) for values in found.values()] == [2, 2]


def test_ratios_and_verdicts_by_hand():
    timed = {"ours": [10.0, 30.0, 8.0], "theirs": [5.0, 10.0, 8.0]}
    assert measuring.ratios(timed, "ours", "theirs") == [2.0, 3.0, 1.0]
    goal = measuring.at_least("speed", 2, [2.0, 3.0, 1.0])
    assert (goal.measured, goal.low, goal.high, goal.met) == (2.0, 1.0, 3.0, True)
    assert measuring.at_most("time", 1.02, [1.03, 1.0, 1.04]).met is False
    assert measuring.stated("memory", [4.0]).met is None


def test_a_missed_goal_says_where_the_time_goes():
    goal = measuring.at_least("speed", 2, [1.0], lambda: sorted(range(1000), key=str))
    assert any("sorted" in line for line in goal.profile)
    assert (
        measuring.at_least("speed", 1, [1.0], lambda: 1 / 0).profile == []
    )  # a goal that is met is not profiled


def test_a_goal_table_by_hand():
    goals = [
        {
            "what": "size",
            "goal": "at most 20",
            "measured": 18.61,
            "low": 18.61,
            "high": 18.61,
            "unit": "",
            "met": True,
        },
        {
            "what": "speed",
            "goal": "at least 2",
            "measured": 1.5,
            "low": 1,
            "high": 2345,
            "unit": "x",
            "met": False,
        },
        {"what": "more", "goal": "", "measured": None, "unit": "", "met": None, "reason": "no model here"},
    ]
    assert report.goal_table(goals).splitlines()[2:] == [
        "| size | at most 20 | 18.6 | met |",
        "| speed | at least 2 | 1.5 x (1 to 2,345) | **missed** |",
        "| more |  | no model here |  |",
    ]


def test_operations_are_those_that_torch_counts():
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        num_labels=5,
    )
    config._attn_implementation = "eager"  # torch does not count the fused one on a CPU
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(4, 7, dtype=torch.long))
    assert epochs.matmul_flops(config, rows=4, length=7) == counter.get_total_flops()


def test_the_prediction_by_hand():
    assert epochs._predicted({"student": 10.0, "teacher": 30.0}) == 0.5


@pytest.mark.parametrize(("rows", "classes"), [(5000, 3), (200, 1000)])
def test_a_large_caches_reader_notices_another_value(tmp_path, rows, classes):
    large.write(tmp_path / "cache", rows, classes)
    assert large.stream(tmp_path / "cache", rows, classes)["peak_mib"] > 1
    with pytest.raises(AssertionError):
        large.stream(tmp_path / "cache", rows + 1, classes)  # a row is missing


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--rows", "10"], "--rows"), (["--only", "reading"], "invalid choice")]
)
def test_mistakes_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_missing_checkpoint_is_a_reason(tmp_path):
    found = epochs._measure_pair(
        options(tmp_path), "big -> little", tmp_path / "big", tmp_path, None, "train it"
    )
    assert {goal.reason for goal in found.goals} == {"no big here: train it"}
    assert len(found.goals) == 4
