"""The stage `compare`: what is changed while it runs is noticed, if the stage depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.errors import ComparisonError
from kdcache.study import load_study
from kdcache.study.settled import write_settled
from stages.compare import PARAMS, check_still_asked_for, main
from tests.study.samples import changed, write

ROOT = Path(__file__).parents[2]
LOOKS = {"seeds": 4, "comparison.looks": [2, 4]}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, changed(LOOKS))
    return tmp_path


def meanwhile(monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], file: str = "params.yaml") -> None:
    """Let a file be changed while metrics are written."""

    def edit(*_: object) -> None:
        if file == "params.yaml":
            write(Path(), content)
        else:
            Path(file).write_text(json.dumps(content))

    monkeypatch.setattr("stages.compare.write_metrics", edit)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"comparison.margin": {"accuracy": 2.0}}, "params.yaml: comparison"),
        ({"distillers.kd.alpha": 0.4}, "params.yaml: distillers"),
        ({"students.small.epochs": 3}, "params.yaml: students"),
        ({"seeds": {"first": 4, "count": 4}}, "params.yaml: seeds"),
        ({"tasks.news.max_length": 12}, "params.yaml: tasks"),
    ],
)
def test_a_study_that_is_changed_meanwhile_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], place: str
) -> None:
    meanwhile(monkeypatch, changed({**LOOKS, **change}))
    assert f"error: {place} was changed while the study was compared; " in failed(capsys)


def test_other_seeds_in_settle_json_are_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"news": {"small": {"kd": 4}}}
    meanwhile(monkeypatch, {"declared": [], "seeds": counts}, "settle.json")
    assert "error: settle.json was changed while the study was compared; " in failed(capsys)


def test_other_values_in_tuned_json_are_noticed(project: Path) -> None:
    params = project / "params.yaml"
    study = load_study(params)
    check_still_asked_for(study, params)
    before = study.with_chosen({("news", "small", "kd"): {"learning_rate": 0.5}})
    with pytest.raises(ComparisonError, match=r"tuned\.json was changed while the study was compared"):
        check_still_asked_for(before, params)


def test_what_nothing_depends_on_may_change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value's spelling; a declaration that says how the study is judged anyway."""
    study = load_study(project / "params.yaml")
    names = {name[:2]: dict.fromkeys(study.methods(), 2) for name in study.configurations()}
    counts = {task: {student: of_student} for (task, student), of_student in names.items()}
    monkeypatch.setattr(
        "stages.compare.write_metrics", lambda *_: write_settled(Path("settle.json"), study, counts)
    )
    main([])
    meanwhile(monkeypatch, changed({**LOOKS, "seeds": [0, 1, 2, 3]}))
    main([])


def test_it_looks_at_all_that_the_pipeline_names() -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["compare"]
    assert list(PARAMS) == stage["params"]
    assert {"settle.json", "tuned.json"} <= set(stage["deps"])


def failed(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 1
    return capsys.readouterr().err
