"""`kdcache plan` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcache.cli import main
from kdcache.system.quoting import shown
from tests.tiny_models import save_checkpoint

STUDY = """
seeds: [0, 1]
tasks:
  films: {source: {files: {train: a.csv, validation: a.csv}}, text: [text], metrics: [accuracy], max_length: 8}
teachers:
  big: {checkpoint: bert, init: scratch, learning_rate: 0.001, epochs: 10, batch_size: 4}
students:
  small: {checkpoint: owner/small, revision: main, learning_rate: 0.001, epochs: 1, batch_size: 8, teacher: big}
regularizers: {base: {}}
distillers: {kd: {soft_labels: teacher, alpha: 0.5}}
comparison: {baseline: base, margin: {accuracy: 1.0}}
"""


@pytest.fixture(autouse=True)
def _study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("params.yaml").write_text(STUDY)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_what_is_unknown_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    rows = [cells(line) for line in out.splitlines() if "films" in line and "│" in line]
    assert rows == [
        ["films", "big", "1", "0", "1", *["unknown"] * 4],
        ["films", "small", "4", "0", "4", *["unknown"] * 4],
    ]
    # prepare, teach, cache, train, distill, compare, report
    assert "stages: 8\n" in out
    assert "teachers: 1 in all, 0 done, 1 to run\ntrials: 4 in all, 0 done, 4 to run\n" in out
    assert "optimizer steps: unknown\n" in out
    assert "hours, one run after another: unknown (--calibrate times a few steps of each model)\n" in out
    assert "disk, at most: logits unknown, teachers unknown, kept students 0" in out
    assert "- task films: not prepared as the study says, so its rows and steps are unknown" in out
    assert "- checkpoint owner/small at revision main: not on this machine" in out


def test_rows_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--rows", "films=4000,1000,2")
    # big: 10 epochs of 1,000 batches; small: 4 runs of 500
    assert "optimizer steps: 12,000\n" in out
    # Logits of 24 bytes a row: 5,000 rows of big; 2 x 5,000 of base; 2 x 1,000 of KD
    assert "logits 408.0 kB" in out
    found = json.loads(run(capsys, "--rows", "films=4000,1000", "--json")[1])
    assert found["path"] == "params.yaml"
    assert found["steps"] == {"total": 12000, "left": 12000}
    assert found["disk_bytes"] == {"logits": None, "teachers": None, "students": 0}


def test_methods_with_more_steps_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    more = "max_length: 8, train_size: 40, unlabelled: rest}"
    use = "distillers: {more: {soft_labels: teacher, alpha: 0.5, unlabelled: use}, kd:"
    Path("params.yaml").write_text(STUDY.replace("max_length: 8}", more).replace("distillers: {kd:", use))
    _, out, _ = run(capsys, "--rows", "films=40,10,2,60")
    rows = [cells(line) for line in out.splitlines() if "films" in line and "│" in line]
    # 40 rows by 8, or 100
    assert [row[5] for row in rows] == ["100", "5 or 13"]
    assert "optimizer steps: 146\n" in out  # 100 + 4 runs of 5 + 2 of 13


def test_looks_cost_something_between_the_first_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    looks = STUDY.replace("seeds: [0, 1]", "seeds: 4").replace(
        "comparison: {", "comparison: {looks: [2, 4], "
    )
    assert looks.count("looks") == 1
    Path("params.yaml").write_text(looks)
    design = json.loads(
        run(capsys, "--rows", "films=4000,1000,2", "--sd", "0.001", "--effects", "50", "--json")[1]
    )["design"]
    # 24 bytes a row: 5,000 rows of the teacher, and of every seed 5,000 of base and 1,000 of KD
    assert design["least"] == {"trials": 4, "seconds": None, "logit_bytes": 24 * (5000 + 2 * 6000)}
    assert design["most"] == {"trials": 8, "seconds": None, "logit_bytes": 24 * (5000 + 4 * 6000)}
    assert design["forecasts"][0]["cost"] == design["least"]  # such a difference is seen at once
    _, out, _ = run(capsys, "--rows", "films=4000,1000,2")
    assert "at least 4 trials (unknown hours, logits 408.0 kB), at most 8 trials" in out


@pytest.mark.parametrize("settle", ["verdicts", "claims"])
def test_a_forecast_of_the_comparisons_says_that_claims_may_take_more(
    capsys: pytest.CaptureFixture[str], settle: str
) -> None:
    looks = f"comparison: {{looks: [2, 4], settle: {settle}, "
    Path("params.yaml").write_text(STUDY.replace("seeds: [0, 1]", "seeds: 4").replace("comparison: {", looks))
    asked = ("--rows", "films=4000,1000,2", "--sd", "0.001", "--effects", "50")
    _, out, _ = run(capsys, *asked)
    assert ("a claim that stays open takes more trials, at most 8\n" in out) == (settle == "claims")
    assert json.loads(run(capsys, *asked, "--json")[1])["design"]["settle"] == settle


@pytest.mark.parametrize("text", ["films", "films=10", "films=10,2,3,4,5", "films=-1,2"])
def test_rows_that_are_none(capsys: pytest.CaptureFixture[str], text: str) -> None:
    code, _, err = run(capsys, "--rows", text)
    assert (code, err) == (
        1,
        f"kdcache: --rows {text}: expected TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]\n",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("films=0,0", "TRAIN: expected a number from 1 to 1,000,000,000,000, found 0"),
        ("films=4,0", "EVALUATED: expected a number from 1 to 1,000,000,000,000, found 0"),
        ("films=4,1,0", "CLASSES: expected a number from 1 to 1,000,000,000,000, found 0"),
        (
            "films=4,1,2,9000000000000",
            "UNLABELLED: expected a number from 0 to 1,000,000,000,000, found 9,000,000",
        ),
        ("films=4,1" + 5000 * "0", "expected TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]"),
    ],
)
def test_rows_of_no_size(capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    code, _, err = run(capsys, "--rows", text)
    assert code == 1
    assert err.startswith(f"kdcache: --rows {shown(text)}: {said}")


def test_a_task_may_have_no_unlabelled_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--rows", "films=4,1,2,0")[0] == 0


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e300", "-1000001"])
def test_effects_that_are_none(capsys: pytest.CaptureFixture[str], number: str) -> None:
    code, out, err = run(capsys, "--sd", "1", f"--effects=0,{number}", "--json")
    said = f"expected numbers from -1,000,000 to 1,000,000, found {float(number):g}"
    assert (code, out, err) == (1, "", f"kdcache: --effects 0,{number}: {said}\n")


@pytest.mark.parametrize("number", ["inf", "nan", "1e300", "1e-300", "0", "-1"])
def test_spreads_that_are_none(capsys: pytest.CaptureFixture[str], number: str) -> None:
    code, out, err = run(capsys, f"--sd={number}", "--json")
    said = f"expected a number from 0.000001 to 1,000,000, found {float(number):g}"
    assert (code, out, err) == (1, "", f"kdcache: --sd: {said}\n")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("sd", "effect"), [("1e-6", "1e6"), ("1e6", "-1e6"), ("1e6", "0"), ("1e-6", "0")])
def test_the_smallest_and_the_largest_can_be_simulated(
    capsys: pytest.CaptureFixture[str], sd: str, effect: str
) -> None:
    code, out, _ = run(capsys, "--sd", sd, f"--effects={effect}", "--json")
    assert code == 0
    (case,) = json.loads(out)["design"]["forecasts"]
    assert case["comparisons"] == 1


def test_results_that_are_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    Path("metrics").mkdir()
    Path("metrics/comparisons.csv").write_bytes(b"task\ncaf\xe9\n")
    code, _, err = run(capsys)
    said = "not UTF-8; save it as UTF-8, or run compare again"
    assert (code, err) == (1, f"kdcache: metrics/comparisons.csv: {said}\n")


def test_calibrate(capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(Path("bert"), "bert")
    found = json.loads(run(capsys, "--rows", "films=4000,1000,2", "--calibrate", "--json")[1])
    big, small = found["jobs"]
    assert big["seconds_total"] > 10000 * big["seconds_a_step"] > 0
    assert (small["seconds_a_step"], small["seconds_total"]) == (None, None)
    assert found["seconds"] == {"total": None, "left": None}
    assert found["seconds_known"]["total"] == big["seconds_total"]
    assert found["devices"] == ["cpu"]
    assert [note for note in found["notes"] if note.startswith("not timed: checkpoint 'owner/small'")]
    _, out, _ = run(capsys, "--rows", "films=4000,1000,2", "--calibrate")
    assert ", on cpu, without the models whose speed or rows are unknown" in out
