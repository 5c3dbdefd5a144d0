"""The training benchmark: what the Trainer is given, ratios and goals from made-up times, and a real round of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import keeping
from benchmarks.training import __main__ as command
from benchmarks.training import comparing, rounds
from benchmarks.training.options import parse
from benchmarks.training.runs import Run, Variant, rows_of
from benchmarks.training.work import Work, described, prepare
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import KdcacheError
from kdcache.modelling.building import build_model

KDCACHE = Variant("kdcache", "bfloat16")
SLOW = Variant("kdcache", "float32")
PADDED = {precision: Variant("Trainer", precision, "to 128") for precision in ("float32", "bfloat16")}  # type: ignore[arg-type]
GROUPED = Variant("Trainer", "float32")


def made_up(seconds: float, accuracy: float = 0.8) -> Run:
    """100 examples in so many CPU seconds, and in twice as many on the clock."""
    return Run(100, 2 * seconds, seconds, accuracy)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    args = parse(["--rows", "48", "--epochs", "1", "--batch-size", "16"])
    return prepare(args, tmp_path_factory.mktemp("work"))


def test_what_the_trainer_is_given(work: Work) -> None:
    """The rows that kdcache trains on, in the same order; padded to 128 as run_glue does, or not at all."""
    plain, padded = (rows_of(work, padded) for padded in (False, True))
    assert work.train.input_ids is not None
    for row, tokens in enumerate(work.train.input_ids):
        assert plain[row]["input_ids"] == tokens.tolist()
        assert padded[row]["input_ids"] == tokens.tolist() + [0] * (128 - len(tokens))
        assert padded[row]["attention_mask"] == [1] * len(tokens) + [0] * (128 - len(tokens))
        assert plain[row]["length"] == len(tokens)
    assert plain["labels"] == padded["labels"] == work.train.labels.tolist()


def test_a_round_of_real_runs(work: Work) -> None:
    variants = [Variant("kdcache KD", "float32"), Variant("Trainer", "bfloat16")]
    runs = rounds.measure(work, variants, rounds=1)
    assert list(runs) == variants
    for (run,) in runs.values():
        assert run.examples == 48
        assert run.cpu > 0
        assert run.wall > 0
        assert 0.1 < run.accuracy <= 1
    assert work.train.input_ids is not None
    assert len(work.train.input_ids) == 48  # the batch that warms up is another split


def test_ratios_are_round_by_round() -> None:
    runs = {KDCACHE: [made_up(1), made_up(2)], PADDED["bfloat16"]: [made_up(6), made_up(10)]}
    assert comparing.ratios(runs, KDCACHE, PADDED["bfloat16"], "cpu") == [6, 5]
    assert comparing.speeds(runs)[0]["examples_per_second"] == {"median": 37.5, "low": 25, "high": 50}


def test_goals_are_judged_against_the_fastest_trainer() -> None:
    runs = {
        KDCACHE: [made_up(1)],
        SLOW: [made_up(2)],
        PADDED["float32"]: [made_up(12)],
        PADDED["bfloat16"]: [made_up(4)],
        GROUPED: [made_up(1.2)],
    }
    found = {one["what"]: (one["cpu"]["median"], one["met"]) for one in comparing.goals(runs)}
    assert found == {
        "kdcache, float32 / Trainer, padded to 128, float32": (6, True),
        "kdcache, bfloat16 / Trainer, padded to 128, bfloat16": (4, False),
        "kdcache, bfloat16 / Trainer, padded by batch, grouped, float32": (pytest.approx(1.2), True),
    }


def test_scores_that_differ_more_than_seeds_do() -> None:
    """Welch by hand: means 0.82 and 0.72, both variances 0.0001, n = 3: t = 12.2 at 4 degrees of freedom."""
    p = comparing.differs([0.81, 0.82, 0.83], [0.71, 0.72, 0.73])
    assert p is not None
    assert 0.0001 < p < 0.001
    assert comparing.differs([0.8, 0.8], [0.8, 0.8]) == 1
    assert comparing.differs([0.8], [0.7]) is None


def test_the_file_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "new" / "training.json"
    keeping.write(path, "a", {"rows": 1})
    keeping.write(path, "b", {"rows": 2})
    assert json.loads(path.read_text()) == {"a": {"rows": 1}, "b": {"rows": 2}}


def test_what_was_found_is_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice as fast as everybody: short of what run_glue's settings are to be beaten by."""
    monkeypatch.setattr(
        command,
        "measure",
        lambda _, variants, rounds: {
            one: [made_up(1 if one.who == "kdcache" else 2)] * rounds for one in variants
        },
    )
    arguments = ["--rows", "48", "--rounds", "2", "--hourly-rounds", "0", "--kd-rounds", "0"]
    command.main([*arguments, "--json", str(tmp_path / "found.json"), "--name", "mine"])
    kept = json.loads((tmp_path / "found.json").read_text())["mine"]
    assert [(one["cpu"]["median"], one["met"]) for one in kept["ratios"]] == [
        (2, False),
        (2, False),
        (2, True),
    ]
    assert "2 (2 to 2) | 2 (2 to 2) | at least 5 | missed" in capsys.readouterr().out


def test_some_variants_are_judged_by_the_goals_between_them() -> None:
    runs = {KDCACHE: [made_up(1), made_up(1)], GROUPED: [made_up(2), made_up(2)]}
    (only,) = comparing.goals(runs)
    assert only["what"] == "kdcache, bfloat16 / Trainer, padded by batch, grouped, float32"
    assert only["cpu"]["median"] == 2
    names = ["kdcache, bfloat16", "Trainer, padded to 128, float32"]
    assert parse(["--variants", *names]).variants == names
    assert len(parse([]).variants) == 8


@pytest.mark.parametrize("names", [["kdcache, bfloat16"], ["Trainer, padded to 128, float32"]])
def test_variants_of_one_program_alone_are_refused_before_any_run(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--variants", *names])
    assert "name at least one of kdcache and one of the Trainer" in capsys.readouterr().err


def test_a_model_of_another_size(tmp_path: Path) -> None:
    """bert-tiny's tokens; embeddings of 8 numbers, and feed-forward layers of four times as many."""
    work = prepare(parse(["--rows", "8", "--size", "1", "8", "2"]), tmp_path)
    model = build_model(find_checkpoint(work.student), work.card, 0, work.preprocessor)
    assert (len(model.bert.encoder.layer), model.bert.embeddings.word_embeddings.weight.shape[1]) == (1, 8)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (32, 8)
    assert work.student.init == "scratch"
    assert described(work)["model"] == "bert-tiny, 1 x 8, 2 heads, all layers, scratch"
    with pytest.raises(KdcacheError, match="a folder, found --checkpoint all-MiniLM-L6-v2"):
        prepare(parse(["--size", "1", "8", "2", "--checkpoint", "all-MiniLM-L6-v2"]), tmp_path / "other")
