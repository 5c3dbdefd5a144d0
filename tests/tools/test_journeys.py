"""The journeys of the docs: what is taken out of the pages, how it is run, and the cheap ones done for real."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tools.journeys import ROOT, Block, Failed, Journey, do_journeys, main, read_journeys, run_journey

PAGE = """\
# Page

## 1. First

Text.

As in [other, Part](other.md#part-one).

```console
$ echo a  # a comment
printed
$ cd there
```

```text
not run
```

## Notes

```python
not run
```

## 2. Second

```yaml
a: 1
```
"""
OTHER = """\
# Other

## Part one

```python
# ## no heading
print("one")
```

### Below

```python
print("below")
```

## Part two

```python
print("two")
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text(OTHER)
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_blocks_are_those_of_the_section_and_of_what_it_says_to_do(page: Path) -> None:
    first, second = read_journeys(page)
    assert (first.number, first.title) == (1, "First")
    assert first.blocks == [
        Block("python", '# ## no heading\nprint("one")', "other.md"),
        Block("console", "$ echo a  # a comment\nprinted\n$ cd there", "page.md"),
    ]
    assert second == Journey(2, "Second", [Block("yaml", "a: 1", "page.md")])


def test_a_section_that_is_not_there(page: Path) -> None:
    page.write_text(PAGE.replace("#part-one", "#part-three"))
    with pytest.raises(Failed, match=r"other\.md has 0 sections #part-three"):
        read_journeys(page)


def journey(*blocks: tuple[str, str]) -> Journey:
    return Journey(1, "x", [Block(kind, text, "page.md") for kind, text in blocks])


def test_a_folder_lasts_and_python_that_follows_python_is_one_program(tmp_path: Path) -> None:
    blocks = [
        ("console", "$ mkdir p\n$ cd p\nprinted\n$ touch q"),
        ("python", "x = 1"),
        ("python", "open('r', 'w').write(str(x + 1))"),
        ("console", "$ test $(cat r) = 2\n$ cd .."),
        ("python", "open('s', 'w')"),
    ]
    environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    assert run_journey(journey(*blocks), tmp_path, environment) == 4
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "p",
        "p/q",
        "p/r",
        "s",
    ]


def test_the_first_command_that_fails_ends_a_journey(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"page\.md, in .*\n(?s:.*)exit code 1\nsaid"):
        run_journey(journey(("console", "$ echo said\n$ false\n$ touch after")), tmp_path, os.environ)
    assert not (tmp_path / "after").exists()


def test_yaml_takes_the_place_of_keys_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: {b: 1, c: 2, f: 6}  # why\nd: [1, 2]\n")
    run_journey(journey(("yaml", "a: {b: 3, f: }\nd: [4]\ne: 5")), tmp_path, {})
    content = (tmp_path / "params.yaml").read_text()
    assert YAML(typ="safe").load(content) == {"a": {"b": 3, "c": 2}, "d": [4], "e": 5}
    assert "# why" in content
    with pytest.raises(Failed, match=r"params\.yaml is not there"):
        run_journey(journey(("yaml", "a: 1")), tmp_path / "none", {})


def test_there_are_ten_in_order() -> None:
    journeys = read_journeys()
    assert [one.number for one in journeys] == list(range(1, 11))
    assert all(one.blocks for one in journeys)


def test_a_folder_that_is_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--in", str(tmp_path)])
    assert f"--in {tmp_path}: is there already; name a folder" in capsys.readouterr().err


def test_the_cheap_journeys(tmp_path: Path) -> None:
    """A first cache and a loop: with the code of this clone in place of what journey 1 installs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kdcache").write_text(f'#!/bin/sh\nexec {sys.executable} -m kdcache "$@"\n')
    (programs / "kdcache").chmod(0o755)
    paths = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    for one in read_journeys():
        if one.number in (2, 3):
            run_journey(one, tmp_path, environment)
    assert (tmp_path / "cache" / "manifest.json").is_file()
    assert (tmp_path / "loop" / "cache" / "manifest.json").is_file()


def test_from_an_install_to_reports_and_students(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Installed in an environment of its own, outside the clone: projects from a CSV and from a folder of images."""
    done = do_journeys([one for one in read_journeys() if one.number in (1, 5, 6, 7, 8)], tmp_path)
    assert done, capsys.readouterr().out
    for project, teacher in (("reviews", "bert-small"), ("shades", "resnet-tiny")):
        assert not (tmp_path / project / "kdcache").exists()  # what ran is the installed one
        head = (tmp_path / project / "report/index.html").read_text().split("</header>")[0]
        assert f"Teachers: {teacher} on {project} " in head
        assert (tmp_path / f"{project}-student" / "model.safetensors").is_file()
