"""What is said of a run: trials from the stages' logs, and lines without escape codes where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from kdcache.repro.progress import Display, Trials, duration


def test_trials_are_counted_as_the_stages_log_them(tmp_path: Path) -> None:
    trials = Trials({"train@base": 5, "train@smooth": 5})
    log = tmp_path / "log"
    trials.read("train@base", log)  # nothing is printed yet
    assert (trials.done, trials.total) == (0, 10)
    log.write_text(
        "Running stage 'train@base':\n3 trials to run, 2 at once\n[1/3] rte / bert / base / seed 2\n"
    )
    trials.read("train@base", log)
    trials.read("train@base", log)
    assert (trials.done, trials.total) == (1, 8)
    trials.close("train@smooth")  # it had nothing to run
    assert (trials.done, trials.total) == (1, 3)


def test_the_batches_of_tune_add_up(tmp_path: Path) -> None:
    trials, log = Trials({"tune": 10, "train@base": 5}), tmp_path / "log"
    log.write_text("2 trials to run, 2 at once\n[1/2] a\n[2/2] b\nnews / bert / base: as declared\n")
    trials.read("tune", log)
    assert (trials.done, trials.total) == (2, 15)
    with log.open("a") as file:
        file.write("4 trials to run, 2 at once\n[1/4] c\n")
    trials.read("tune", log)
    assert (trials.done, trials.total) == (3, 15)
    with log.open("a") as file:
        file.write("[2/4] d\n6 trials to run, 2 at once\n")  # more than expected: old results did not fit
    trials.read("tune", log)
    assert (trials.done, trials.total) == (4, 17)
    trials.close("tune")
    assert (trials.done, trials.total) == (4, 9)


def test_what_tune_chooses_is_said_once_and_at_once(tmp_path: Path) -> None:
    log, out = tmp_path / "log", io.StringIO()
    first = "news / bert / base: learning_rate 0.0002 (accuracy 0.8954, the best of 4 settings)"
    second = "news / bert / kd: as declared (nll 1.2e-05, the best of 1 settings)"
    with Display(2, Trials({"tune": 8}), Console(file=out)) as display:
        log.write_text(f"4 trials to run, 2 at once\n[4/4] news / bert / base / seed 0\n{first}\n")
        display.show({"tune": log})
        display.show({"tune": log})
        assert out.getvalue().startswith(f"tune: {first}  (stages 0/2, trials 4/8")
        log.write_text(f"{log.read_text()}{second}\n")
        display.end("tune", ["tune"], log, ok=True, seconds=3)
    assert [out.getvalue().count(line) for line in (first, second)] == [1, 1]


def test_lines_for_a_file(tmp_path: Path) -> None:
    ran, checked = tmp_path / "ran", tmp_path / "checked"
    ran.write_text("Running stage 'a':\n> false\n[bold] went wrong\nERROR: failed\n")
    checked.write_text("Stage 'b' didn't change, skipping\n")
    out = io.StringIO()
    with Display(2, Trials({}), Console(file=out)) as display:
        display.show({"a": ran, "b": checked})
        display.end("a", ["a"], ran, ok=False, seconds=3)
        display.fail("a", ran, ["c"])
        display.end("b", ["b"], checked, ok=True, seconds=200)
    text = out.getvalue()
    assert "a: failed  (stages 1/2" in text
    assert "    [bold] went wrong\n" in text
    assert f"all that it printed is in {ran}" in text
    assert "not started because of that: c" in text
    assert "b: did not have to run  (stages 2/2)" in text
    assert "\x1b" not in text


def test_stages_that_ran_together_are_one_line(tmp_path: Path) -> None:
    log, out = tmp_path / "log", io.StringIO()
    log.write_text("Running stage 'a':\n> true\nStage 'b' didn't change, skipping\n")
    trials = Trials({"a": 5, "b": 5, "c": 5})
    with Display(3, trials, Console(file=out)) as display:
        display.show({"2 stages": log})
        display.end("2 stages", ["a", "b"], log, ok=True, seconds=3)
    assert "2 stages: done in 3 s  (stages 2/3, trials 0/5" in out.getvalue()  # those of c are still to do


def test_durations() -> None:
    assert [duration(value) for value in (3.4, 89, 120, 3600 * 3 + 300)] == [
        "3 s",
        "89 s",
        "2 min",
        "3 h 05 min",
    ]


def test_the_epochs_of_a_running_training(tmp_path: Path) -> None:
    """As kdcache.trials.watching logs them."""
    teach, train = tmp_path / "teach", tmp_path / "train"
    teach.write_text(
        "Running stage 'teach@a':\na / teacher big: epoch 1/8: loss 1.2, 3.0 s, 9 rows/s\n"
        "a / teacher big: epoch 2/8: loss 1.1, 3.0 s, 9 rows/s\n"
    )
    train.write_text("Running stage 'train@b':\n3 trials to run, 2 at once\n")
    display = Display(2, Trials({}), Console(file=io.StringIO(), force_terminal=True))
    display.show({"teach@a": teach, "train@b": train})
    assert display._bar.tasks[0].fields["running"] == "teach@a (epochs 2/8), train@b"
