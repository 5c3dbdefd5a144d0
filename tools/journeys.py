"""The ten journeys of docs/journeys.md, done in order: every command, in a new folder, offline.

    python -m tools.journeys          all ten
    python -m tools.journeys 2 3      these; a later one may need the files of an earlier one
    python -m tools.journeys --in DIR     in that folder, which is kept

The commands are not repeated here. They are the blocks of docs/journeys.md, and of the sections of other pages to which
a paragraph beginning with "As in" links. bash runs a `console` block line by line. Python runs a `python` block; blocks
that follow one another are one program. A `yaml` block is merged into params.yaml. The script provides what a user has:
a clone, an environment with the dependencies, a name in Git, and a hub.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "journeys.md"
RUN = ("console", "python", "yaml")
TITLE = re.compile(r"^## (\d+)\. (.+)$")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)#([^)]+)\)")
FENCE = re.compile(r"^```(\w*)$")
OUTPUT = 30  # lines of a failed block


@dataclass(frozen=True)
class Block:
    """A block between two fences: its language, its text, and the place that it comes from."""

    kind: str
    text: str
    origin: str


@dataclass(frozen=True)
class Journey:
    """A section of the page: its number, its title, and the blocks to run."""

    number: int
    title: str
    blocks: list[Block]


class Failed(Exception):
    """A block failed; the message says which, and what it printed."""


def read_journeys(page: Path = PAGE) -> list[Journey]:
    """The journeys of the page, each with the blocks to run, in their order."""
    journeys = []
    for heading, lines in _sections(page.read_text(encoding="utf-8"), "## "):
        if match := TITLE.match(heading):
            journeys.append(Journey(int(match[1]), match[2], list(_blocks(page, lines))))
    return journeys


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    """The blocks of a section. Where it refers to another section, that section's blocks come in its place."""
    text: list[str] = []
    inside: list[str] = []
    kind = ""
    for line in [*lines, ""]:
        fence = FENCE.match(line)
        if kind:
            if line == "```":
                if kind in RUN:
                    yield Block(kind, "\n".join(inside), page.name)
                kind, inside = "", []
            else:
                inside.append(line)
        elif fence:
            kind = fence[1] or "text"
        elif line:
            text.append(line)
        else:
            yield from _of_other_pages(page, "\n".join(text))
            text = []


def _of_other_pages(page: Path, paragraph: str) -> Iterator[Block]:
    if not paragraph.startswith("As in "):
        return
    for target, anchor in LINK.findall(paragraph):
        other = page.parent / target
        sections = [
            lines
            for heading, lines in _sections(other.read_text(encoding="utf-8"), "#")
            if _anchor(heading) == anchor
        ]
        if len(sections) != 1:
            raise Failed(f"{page.name}: {target} has {len(sections)} sections #{anchor}")
        yield from _blocks(other, sections[0])


def _sections(text: str, mark: str) -> list[tuple[str, list[str]]]:
    """(heading, lines) of each part of a page that begins with this mark; marks inside blocks do not count."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    inside = False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        if line.startswith(mark) and not inside:
            parts.append((line, []))
        else:
            parts[-1][1].append(line)
    return parts


def _anchor(heading: str) -> str:
    """A heading's name in links, as GitHub makes it."""
    letters = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return letters.strip().replace(" ", "-")


def run_journey(journey: Journey, folder: Path, environment: Mapping[str, str]) -> int:
    """Run a journey's blocks, beginning in the folder.

    Returns:
        How many blocks it has; Python blocks that follow one another count as one.

    Raises:
        Failed: a block ended in an error.
    """
    working_folder, joined = folder, _joined(journey.blocks)
    for block in joined:
        if block.kind == "yaml":
            _merge(working_folder / "params.yaml", block)
        elif block.kind == "python":
            _run(["python", "-c", block.text], block, working_folder, environment)
        else:
            working_folder = _run_console(block, working_folder, environment)
    return len(joined)


def _joined(blocks: list[Block]) -> list[Block]:
    """The blocks, with consecutive Python blocks joined into one."""
    joined: list[Block] = []
    for block in blocks:
        if joined and joined[-1].kind == block.kind == "python":
            joined[-1] = Block("python", f"{joined[-1].text}\n{block.text}", block.origin)
        else:
            joined.append(block)
    return joined


def _run_console(block: Block, folder: Path, environment: Mapping[str, str]) -> Path:
    """Run the lines after `$` in one bash; returns the folder in which it ends, where the next block begins."""
    commands = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    end = folder / ".ends-here"
    script = "\n".join(["set -e", *commands, f"pwd > {shlex.quote(str(end))}"])
    _run(["bash", "-c", script], block, folder, environment)
    ends = Path(end.read_text().rstrip("\n"))
    end.unlink()
    return ends


def _run(command: list[str], block: Block, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-OUTPUT:])
        raise Failed(f"{block.origin}, in {folder}:\n{block.text}\n--- exit code {done.returncode}\n{last}")


def _merge(params: Path, block: Block) -> None:
    """Write a block's keys into params.yaml, nested ones too; a key without a value is removed."""
    if not params.is_file():
        raise Failed(f"{block.origin}: {params} is not there, so no keys can be written into it")
    yaml = YAML()
    content = yaml.load(params.read_text(encoding="utf-8"))
    _put(content, YAML(typ="safe").load(block.text))
    with params.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def _put(content: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(content.get(key), Mapping):
            _put(content[key], value)
        else:
            content[key] = value


def prepare_machine(folder: Path) -> dict[str, str]:
    """Make what a user has before the first journey: a clone, an environment with dependencies, a name in Git.

    Returns:
        The environment variables of every command.
    """
    _copy_clone(folder / "kdcache")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    # A new environment of Python 3.11 has a setuptools that is too old to build with; that of the dependencies is not.
    remove = [str(environment / "bin" / "pip"), "uninstall", "--quiet", "--yes", "setuptools"]
    subprocess.run(remove, check=True)
    library = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (library / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDCACHE_", "GIT_"))}
    kept.pop("PYTHONPATH", None)
    scripts = [environment / "bin", Path(sys.executable).parent]
    return {
        **kept,
        "PATH": os.pathsep.join([*map(str, scripts), kept["PATH"]]),
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",  # the dependencies are already there
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's word for: build with the setuptools that is there
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{f"GIT_{who}_{what}": "ada" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def _copy_clone(folder: Path) -> None:
    """The repository's files as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@contextmanager
def local_hub(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The same environment, logged in to a hub on this machine."""
    from tests.hub.stand_in import TOKEN, serve

    online = {name: value for name, value in environment.items() if name != "HF_HUB_OFFLINE"}
    with serve() as hub:
        yield {**online, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


def do_journeys(journeys: list[Journey], folder: Path) -> bool:
    """Do the journeys in order and print a line for each; whether all succeeded."""
    environment = prepare_machine(folder)
    for journey in journeys:
        start = time.monotonic()
        try:
            with local_hub(environment) as with_hub:
                shares = any("hf://" in block.text for block in journey.blocks)
                count = run_journey(journey, folder, with_hub if shares else environment)
        except Failed as failure:
            print(f"{journey.number}. {journey.title}: failed\n{failure}", flush=True)
            return False
        seconds = time.monotonic() - start
        print(f"{journey.number}. {journey.title}: {count} blocks, {seconds:.0f} s", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", type=int, nargs="*", help="which journeys; default: all")
    parser.add_argument("--in", dest="folder", type=Path, help="a folder that is not there yet, and is kept")
    given = parser.parse_args(arguments)
    journeys = read_journeys()
    unknown = set(given.numbers) - {journey.number for journey in journeys}
    if unknown:
        parser.error(f"no journey {sorted(unknown)[0]}; there are 1 to {len(journeys)}")
    chosen = [journey for journey in journeys if not given.numbers or journey.number in given.numbers]
    if given.folder is not None:
        if given.folder.exists():
            parser.error(f"--in {given.folder}: is there already; name a folder that is not there yet")
        given.folder.mkdir(parents=True)
        sys.exit(not do_journeys(chosen, given.folder.resolve()))
    with tempfile.TemporaryDirectory(prefix="journeys-") as folder:
        sys.exit(not do_journeys(chosen, Path(folder)))


if __name__ == "__main__":
    main()
