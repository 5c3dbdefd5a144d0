"""No text of a study file reaches a shell, and no name leads out of the project, under DVC itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.errors import KdcacheError
from kdcache.repro.item import item_of_stage
from tests.pipeline.conftest import Checkout

PAYLOADS = [
    "digits; touch made-by-a-name #",
    "$(touch made-by-a-name)",
    "`touch made-by-a-name`",
    "x && touch made-by-a-name",
    "x | touch made-by-a-name",
    "x\ntouch made-by-a-name",
    "x'; touch made-by-a-name; '",
    'x"; touch made-by-a-name; "',
    "x > made-by-a-name",
    "-h",
    "*",
    "../../canary",
    "x${IFS}touch",
    "\u202etouch",
]


@pytest.mark.parametrize("group", ["tasks", "teachers", "students", "regularizers", "distillers"])
def test_no_name_is_run_by_a_shell_or_leads_out_of_its_folder(
    new_checkout: Callable[[str], Checkout], group: str
) -> None:
    checkout = new_checkout("here")
    canary = checkout.folder / "canary"
    canary.mkdir()
    (canary / "kept").write_text("kept")
    if group == "tasks":  # all of them; what comes after a task that cannot be prepared is not started
        checkout.study |= {"teachers": {}, "distillers": {}}
    entry = next(iter(checkout.study[group].values()), {})
    payloads = PAYLOADS if group == "tasks" else [PAYLOADS[0], PAYLOADS[1], PAYLOADS[11]]
    checkout.study[group] |= dict.fromkeys(payloads, entry)
    checkout.save()
    before = {path.name for path in checkout.folder.parent.iterdir()}
    done = subprocess.run(
        ["dvc", "repro", "--keep-going"],
        cwd=checkout.folder,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert not list(checkout.folder.rglob("made-by-a-name"))
    assert (canary / "kept").read_text() == "kept"
    assert {path.name for path in checkout.folder.parent.iterdir()} == before
    assert [path.name for path in canary.iterdir()] == ["kept"]


def test_a_stage_is_looked_up_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "tasks: {a-b: 1, a: 2}\nstudents: {c: 1, b-c: 2, d: 3}\nregularizers: {base: 1}\ndistillers: {kd: 1}"
    )
    for stage, names in [
        ("prepare@a-b", ["a-b"]),
        ("train@a-b-d-base", ["a-b", "d", "base"]),
        ("folder/dvc.yaml:distill@a-d-kd", ["a", "d", "kd"]),
    ]:
        monkeypatch.setenv("DVC_STAGE", stage)
        assert item_of_stage(params) == names
    for stage, said in [
        ("train@a-b-c-base", "2 entries .* give the stage"),  # a-b and c, or a and b-c
        ("train@a-x-base", "0 entries"),
        ("compare", "say which one is meant"),
        ("", "say which one is meant"),
    ]:
        monkeypatch.setenv("DVC_STAGE", stage)
        with pytest.raises(KdcacheError, match=said):
            item_of_stage(params)
