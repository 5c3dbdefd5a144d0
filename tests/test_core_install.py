"""`pip install kdcache`, without the libraries of studies: a process in which nothing else can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# The first lines of every process: modules of other distributions are not there.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
CACHE = """
import numpy as np
import pyarrow as pa
import kdcache
from kdcache.hashing.rows import hash_rows

rows = pa.table({"text": ["a", "b", "c"], "label": [0, 1, 0]})
logits = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], np.float32)
prints = kdcache.Fingerprints(data="d", weights="w", preprocessing="p", code="c")
with kdcache.LogitWriter("cache", classes=2, label_names=[], fingerprints=prints) as writer:
    writer.write("train", np.arange(3), hash_rows(rows, ["text"]), logits)
    writer.finish()
cache = kdcache.LogitCache("cache")
assert cache.verify().rows == 3
joined = cache.join(rows.take([2, 0]), columns=["text"])
assert joined["teacher_logits"].to_pylist() == [[4.0, 5.0], [0.0, 1.0]]
"""


def core(name: str = "kdcache") -> set[str]:
    """The distributions that `pip install kdcache` brings, with all that they need."""
    found, todo = set(), [name]
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found:
            found.add(name)
            try:
                needed = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:  # for another Python or system
                continue
            todo += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def blocked() -> set[str]:
    kept = core()
    modules = packages_distributions()
    others = {
        module for module, owners in modules.items() if not kept & {canonicalize_name(one) for one in owners}
    }
    heavy = ("torch", "transformers", "datasets", "dvc", "scipy")
    assert {
        name for name in heavy if find_spec(name)
    } <= others  # none is there where the core alone is installed
    return others - {"pip", "setuptools"}


def of_pandas() -> set[str]:
    """The modules of pandas and of what it needs."""
    kept = core("pandas")
    return {
        module
        for module, owners in packages_distributions().items()
        if kept & {canonicalize_name(one) for one in owners}
    }


def run(folder: Path, blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=sorted(blocked)) + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )


def test_a_cache_is_written_joined_and_verified(tmp_path: Path, blocked: set[str]) -> None:
    done = run(tmp_path, blocked, CACHE)
    assert done.returncode == 0, done.stderr


COMMANDS = ("info cache", "verify cache", "head cache", "stats cache", "diff cache cache", "export cache c.csv",
            "ensemble both cache cache --of probabilities")  # fmt: skip


def test_commands_of_caches(tmp_path: Path, blocked: set[str]) -> None:
    code = f"""
from kdcache.cli import main
for command in {COMMANDS!r}:
    try:
        main(command.split())
    except SystemExit as ended:
        assert not ended.code, command
"""
    done = run(tmp_path, blocked, CACHE + code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.csv").is_file()
    assert (tmp_path / "both" / "manifest.json").is_file()


def test_a_pandas_frame_keeps_its_rows_and_gets_their_logits(tmp_path: Path, blocked: set[str]) -> None:
    """pandas is not of the core, but whoever has frames has it."""
    pytest.importorskip("pandas")
    code = """
import pandas
frame = pandas.DataFrame({"text": ["c", "b"], "label": [0, 1]}, index=[7, 3])
joined = kdcache.LogitCache("cache").join(frame, columns=["text"])
assert list(joined.index) == [7, 3] and list(joined.columns) == ["text", "label", "teacher_logits"]
assert [list(row) for row in joined["teacher_logits"]] == [[4.0, 5.0], [2.0, 3.0]]
"""
    done = run(tmp_path, blocked - of_pandas(), CACHE + code)
    assert done.returncode == 0, done.stderr


def test_sharing_says_what_it_needs(tmp_path: Path, blocked: set[str]) -> None:
    code = "from kdcache.cli import main; main(['pull', 'hf://datasets/some/thing', 'x'])"
    done = run(tmp_path, blocked | {"huggingface_hub"}, code)
    assert done.returncode == 1
    assert done.stderr == "kdcache: this needs huggingface_hub: pip install 'kdcache[hub]'\n"


def test_what_needs_more_says_so(tmp_path: Path, blocked: set[str]) -> None:
    done = run(tmp_path, blocked, "from kdcache.cli import main; main(['plan'])")
    assert done.returncode == 1
    assert re.fullmatch(r"kdcache: this needs \w+: pip install 'kdcache\[study\]'\n", done.stderr)
