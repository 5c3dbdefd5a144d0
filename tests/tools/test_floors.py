"""The lowest versions: of every dependency one."""

from __future__ import annotations

import tomllib

import pytest

from tools.floors import PYPROJECT, floors, main

PROJECT = {
    "dependencies": ["a>=1.2", "b == 3"],
    "optional-dependencies": {"more": ["c[x]>=0.1,<2; python_version > '3'"], "bad": ["d<2"], "none": ["e"]},
}


def test_each_has_its_own() -> None:
    assert list(floors(PROJECT)) == ["a==1.2", "b==3"]
    assert list(floors(PROJECT, ["more"])) == ["a==1.2", "b==3", "c==0.1"]


@pytest.mark.parametrize(("extra", "said"), [("bad", "'d<2'"), ("none", "'e'"), ("mor", "there are: more")])
def test_what_has_none_is_refused(extra: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(floors(PROJECT, [extra]))


def test_every_extra_of_users_has_lowest_versions(capsys: pytest.CaptureFixture[str]) -> None:
    extras = [
        name
        for name in tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
        if name != "dev"
    ]
    main(extras)
    lines = capsys.readouterr().out.split()
    assert "torch==2.13" in lines
    assert all("==" in line for line in lines)
