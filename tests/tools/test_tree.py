"""The tree, of a small house that is made here; and that the committed pages have ours."""

from pathlib import Path

import pytest

from tools import tree

ROOT = Path(__file__).parents[2]
FLOORS = """
[[tool.importlinter.contracts]]
layers = ["__main__", "top", "left | right", "ground"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    library = tmp_path / "kdcache"
    for folder in ("top/deep", "left", "right"):
        (library / folder).mkdir(parents=True)
    modules = {
        "": "The names.",
        "top": "The roof.",
        "top/deep": "Below the roof.",
        "left": "A.",
        "right": "B.",
    }
    for folder, text in modules.items():
        (library / folder / "__init__.py").write_text(f'"""{text}\n\nMore of it.\n"""\n')
    (library / "ground.py").write_text('"""The ground."""\n')
    (library / "top" / "z.py").write_text('"""The last."""\n')
    (library / "top" / "deep" / "a.py").write_text('"""The first."""\n')
    (tmp_path / "pyproject.toml").write_text(FLOORS)
    (tmp_path / "docs").mkdir()
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        (tmp_path / page).write_text("Before.\n<!-- tree:begin -->\nold\n<!-- tree:end -->\nAfter.\n")
    return tmp_path


def listed(text: str) -> list[tuple[str, str]]:
    """Names, with two spaces for each level, and what is said of them; the library's part only."""
    inside = text.split("kdcache/\n")[1].split("\n\n")[0]
    return [(line[: tree.WIDTH].rstrip(), line[tree.WIDTH + 1 :]) for line in inside.splitlines()]


def test_every_file_with_its_first_line_from_the_ground_up(root: Path) -> None:
    assert tree.main(root) == 0
    page = (root / "docs" / "architecture.md").read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("After.\n")
    assert listed(page) == [
        ("  __init__.py", "The names."),
        ("  ground.py", "The ground."),
        ("  left/", "A."),
        ("  right/", "B."),
        ("  top/", "The roof."),
        ("    z.py", "The last."),
        ("    deep/", "Below the roof."),
        ("      a.py", "The first."),
    ]


def test_the_short_tree_has_the_rooms(root: Path) -> None:
    assert tree.main(root) == 0
    rooms = [name.strip() for name, _ in listed((root / "CONTRIBUTING.md").read_text())]
    assert rooms == ["ground.py", "left/", "right/", "top/"]


def test_a_module_that_says_nothing_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "kdcache" / "top" / "z.py").write_text("x = 1\n")
    before = (root / "docs" / "architecture.md").read_text()
    assert tree.main(root) == 1
    assert "z.py: expected a docstring" in capsys.readouterr().err
    assert (root / "docs" / "architecture.md").read_text() == before


@pytest.mark.parametrize("page", [Path("docs/architecture.md"), Path("CONTRIBUTING.md")], ids=str)
def test_the_committed_trees_are_those_of_the_code(page: Path) -> None:
    path = ROOT / page
    assert path.read_text(encoding="utf-8") == tree.pages(ROOT)[path], "run: python -m tools.tree"
