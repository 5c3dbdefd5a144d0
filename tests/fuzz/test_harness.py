"""The fuzzing itself: it counts what happens, and finds what it is for."""

from __future__ import annotations

from random import Random

import pytest

from kdcache.errors import TaskError
from tests.fuzz import harness
from tests.fuzz.harness import Reader, damaged, fuzz


def test_answers_refusals_and_faults_are_told_apart() -> None:
    def read(data: bytes) -> None:
        if data == b"1":
            raise TaskError("no")
        if data == b"2":
            raise KeyError("oops")
        if data == b"3":
            raise TaskError("x" * 10_000)
        if data == b"4":
            raise SystemExit(1)

    numbers = {Random(number).random(): number for number in range(5)}
    reader = Reader("numbers", lambda rng: b"%d" % numbers[rng.random()], read)
    outcome = fuzz(reader, range(5))
    assert (outcome.answers, outcome.refusals, outcome.cases) == (1, 1, 5)
    assert outcome.faults == [
        "numbers, case 2: KeyError: 'oops'",
        "numbers, case 3: TaskError has a message of 10000 characters",
        "numbers, case 4: SystemExit: 1",
    ]


def test_slow_and_large_cases_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.9, 10.0, 15.1])
    monkeypatch.setattr(harness.time, "process_time", lambda: next(clock))
    outcome = fuzz(Reader("slow", lambda rng: b"", len), [6, 7])
    assert outcome.faults == ["slow, case 7: took 5.1 s"]
    assert outcome.seconds == pytest.approx(5.1)
    monkeypatch.undo()
    peaks = iter([100.0, 150.0, 1200.0, 1200.0])
    monkeypatch.setattr(harness, "peak_megabytes", lambda: next(peaks))
    outcome = fuzz(Reader("large", lambda rng: b"", len), range(3))
    assert outcome.faults == ["large, case 1: took 1100 MB"]
    assert outcome.megabytes == 1100


def test_a_case_is_always_the_same_and_differs_from_others() -> None:
    cases = [damaged(Random(number), bytes(range(100)), [b"other" * 20]) for number in range(200)]
    assert cases == [damaged(Random(number), bytes(range(100)), [b"other" * 20]) for number in range(200)]
    assert len(set(cases)) > 180
    assert damaged(Random(1), b"") is not None
