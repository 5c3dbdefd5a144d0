"""The limits of the house, on a small one that is made here, and on ours."""

from pathlib import Path

import pytest

from tools import house


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two rooms: a module with a function of 3 lines, and a folder with a class of 4."""
    library = tmp_path / "kdcache"
    (library / "room").mkdir(parents=True)
    (library / "empty").mkdir()
    (library / "errors.py").write_text("def one():\n    pass\n    return\n")
    (library / "room" / "a.py").write_text("class A:\n    def two(self):\n        pass\n    x = 1\n")
    return tmp_path


def test_what_is_counted(root: Path) -> None:
    assert house.rooms(root) == ["errors.py", "room"]
    assert [(part.kind, part.name, part.lines) for part in house.parts(root, "kdcache")] == [
        ("file", "kdcache/errors.py", 3),
        ("function", "kdcache/errors.py: one", 3),
        ("file", "kdcache/room/a.py", 4),
        ("class", "kdcache/room/a.py: A", 4),
        ("function", "kdcache/room/a.py: two", 2),
    ]
    assert house.summary(root) == (
        "kdcache: 2 rooms, longest file 4 lines, longest class 4; of 2 functions half have at most 2 lines, "
        "nine of ten at most 3"
    )


def test_an_orderly_house(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(root) == 0
    assert capsys.readouterr().err == ""


def test_a_long_file_a_long_class_and_a_room_too_many(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "tools").mkdir()
    (root / "tools" / "long.py").write_text("x = 1\n" * 451)
    (root / "tools" / "just.py").write_text("x = 1\n" * 450)
    (root / "kdcache" / "wide.py").write_text("class Wide:\n" + "    x = 1\n" * 250)
    for number in range(18):
        (root / "kdcache" / f"room_{number}.py").write_text("")
    assert house.main(root) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: kdcache/wide.py: Wide has 251 lines; a class has at most 250"
    assert lines[1] == "error: tools/long.py has 451 lines; a file has at most 450"
    assert lines[2].startswith("error: kdcache/ has 21 rooms, at most 20: errors.py, room, room_0.py")
    assert len(lines) == 3


def test_ours_is_in_order() -> None:
    assert house.faults(Path(__file__).parents[2]) == []
