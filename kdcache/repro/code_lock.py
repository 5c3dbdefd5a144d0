"""kdcache.yaml: tells DVC which version of kdcache's code a project's results come from.

In a clone of kdcache the stages depend on its source files. A project that uses an installed kdcache has no source
files. There kdcache.yaml holds a hash of each folder of the package that a stage runs, and dvc.yaml refers to these
hashes as parameters. So DVC treats a changed kdcache like a changed parameter, and runs only the stages concerned. Each
of them keeps the results whose identity is still the same.

kdcache.yaml is a lock file. `kdcache repro` brings it up to date. Until then, results come from the kdcache that it
names, and a stage that `dvc repro` runs with another kdcache refuses to start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import re
from pathlib import Path

from ruamel.yaml import YAML

import kdcache
from kdcache.errors import KdcacheError
from kdcache.system.files import write_atomically
from kdcache.system.params_file import read_params

LOCK = Path("kdcache.yaml")
PACKAGE = Path(kdcache.__file__).parent
SHORT = 16  # hexadecimal digits: enough to tell versions of one package apart, but no proof against forgery
ABOUT = """\
# The code of kdcache that the results here are of: a hash of each of its folders that a stage runs.
# `kdcache repro` brings it up to date; DVC then asks the stages concerned, and what is still valid stays.
"""


def dependencies(pipeline: Path = Path("dvc.yaml")) -> list[str]:
    """The hashes that a pipeline depends on, by their names in kdcache.yaml: "modelling", "logits_predicting"."""
    text = pipeline.read_text(encoding="utf-8")
    return sorted({name for (name,) in (match.groups() for match in re.finditer(r"\bcode\.(\w+)", text))})


def write(folder: Path) -> None:
    """Write kdcache.yaml for the dvc.yaml of a project's folder."""
    code = {name: _hash(name) for name in dependencies(folder / "dvc.yaml")}
    written = io.StringIO()
    YAML().dump({"version": importlib.metadata.version("kdcache"), "code": code}, written)
    write_atomically(folder / LOCK, (ABOUT + written.getvalue()).encode())


def refresh(lock: Path = LOCK) -> str:
    """Bring kdcache.yaml up to date, if there is one.

    Returns:
        What changed, in a sentence for people; empty if nothing did.
    """
    changed = _changed(lock)
    if not changed:
        return ""
    write(lock.parent)
    return f"{lock}: kdcache has changed ({', '.join(changed)}); what is still valid stays"


def check(lock: Path = LOCK) -> None:
    """Refuse to run a stage with a kdcache other than the one that kdcache.yaml names.

    Raises:
        KdcacheError: kdcache.yaml exists and names other code.
    """
    changed = _changed(lock)
    if changed:
        raise KdcacheError(
            f"{lock}: expected the kdcache it was written with, but the installed one differs in {', '.join(changed)}; "
            "run `kdcache repro`, which brings the file up to date and keeps what is still valid"
        )


def _changed(lock: Path) -> list[str]:
    if not lock.exists():
        return []
    kept = read_params(lock).get("code") or {}
    return [name for name in dependencies(lock.parent / "dvc.yaml") if kept.get(name) != _hash(name)]


def _hash(name: str) -> str:
    """A hash of every source file in one of the package's folders, and of its path inside the folder."""
    folder = PACKAGE / name.replace("_", "/")
    if not folder.is_dir():
        raise KdcacheError(
            f"dvc.yaml: expected a folder of kdcache for code.{name}, found none; see `kdcache init`"
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:SHORT]
