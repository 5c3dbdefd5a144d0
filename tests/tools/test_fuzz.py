"""tools/fuzz.py: it runs the readers, counts, and writes the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.harness import Reader
from tools import fuzz


def make(rng: Random) -> bytes:
    return b"%d" % rng.randrange(10)


def read(data: bytes) -> None:
    if data == b"7":
        raise KeyError("seven")


def die(data: bytes) -> None:
    os._exit(3)


SEVENS, DEADLY = Reader("sevens", make, read), Reader("deadly", make, die)
READERS = [SEVENS, DEADLY]


@pytest.fixture(autouse=True)
def _readers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "MODULES", ("tests.tools.test_fuzz",))
    monkeypatch.setattr(fuzz, "CHUNK", 40)
    monkeypatch.setattr(fuzz, "DONE", tmp_path / "done.jsonl")


@pytest.fixture
def without_deadly() -> Iterator[None]:
    """A page has all readers; here that is one."""
    READERS.remove(DEADLY)
    yield
    READERS.append(DEADLY)


@pytest.mark.usefixtures("without_deadly")
def test_the_page_has_the_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sevens = [number for number in range(60) if Random(number).randrange(10) == 7]
    page = tmp_path / "docs" / "fuzz.md"
    assert fuzz.main(["--cases", "60", "--page", str(page)]) == 1
    row = f"| sevens | 60 | {60 - len(sevens)} | 0 | **{len(sevens)}** | 0.00 |"
    assert row in page.read_text()
    assert f"\n\n- sevens, case {sevens[0]}: KeyError: 'seven'\n" in page.read_text()
    assert f"sevens, case {sevens[0]}: KeyError: 'seven'" in capsys.readouterr().out


@pytest.mark.usefixtures("without_deadly")
def test_a_reader_without_faults(tmp_path: Path) -> None:
    first = next(
        number for number in range(1000) if all(Random(number + n).randrange(10) != 7 for n in range(5))
    )
    arguments = [
        "--cases",
        "5",
        "--first",
        str(first),
        "--page",
        str(tmp_path / "fuzz.md"),
    ]
    assert fuzz.main(arguments) == 0
    assert "| sevens | 5 | 5 | 0 | 0 | 0.00 |" in (tmp_path / "fuzz.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reader", "sevns"], "no reader sevns; there are: sevens, deadly"),
        (["--reader", "sevens", "--page", "fuzz.md"], "a page has all readers"),
    ],
)
def test_a_run_that_would_mislead_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        fuzz.main(["--cases", "5", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--cases", "50", "--reader", "deadly"]) == 1
    assert "deadly, cases 0 to 39: the process died" in capsys.readouterr().out


def test_a_second_run_goes_on_where_the_first_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz.main(["--cases", "80", "--reader", "sevens"])
    whole = capsys.readouterr().out
    done = tmp_path / "done.jsonl"
    kept, _ = done.read_text().splitlines()
    done.write_text(kept + "\n")
    run, ran = fuzz._run, []
    monkeypatch.setattr(fuzz, "_run", lambda *key: ran.append(key[1:]) or run(*key))
    fuzz.main(["--cases", "80", "--reader", "sevens"])
    assert ran == [("sevens", 40, 80)]
    assert capsys.readouterr().out.split(";")[0] == whole.split(";")[0]
    assert len(done.read_text().splitlines()) == 2
