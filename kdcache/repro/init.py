"""`kdcache init`: write a project that runs, with its own params.yaml, dvc.yaml and stages."""

from __future__ import annotations

import contextlib
import filecmp
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ruamel.yaml import YAML

from kdcache.errors import KdcacheError
from kdcache.repro import code_lock, template
from kdcache.repro.own_data import Images, Texts, own_study
from kdcache.study import load_study
from kdcache.study.settled import ensure_settled
from kdcache.system.names import SETTLED

Template: TypeAlias = Literal["default", "text", "images", "language-model", "paper"]
OURS = ("params.yaml", SETTLED, "dvc.yaml", "stages", code_lock.LOCK.name)
# An empty line goes before each part of the study, unless a comment stands there.
SECTION = re.compile(r"(?m)^((?!#).+)\n+(?=(?:tasks|teachers|students|regularizers|distillers|comparison):)")
STARTS = {
    "default": "Does a regularizer help a small student, pre-trained or not, on text and on images?",
    "text": "Does a regularizer help a small student, pre-trained or not, on headlines?",
    "images": "Does a regularizer help a small student from scratch, on images of digits?",
}
COMMENTS = {
    "seeds": "at most so many trials of every configuration; see comparison.looks",
    "teachers": "fine-tuned once for each task; their logits are cached",
    "students": "`init: scratch` starts without pre-training; `checkpoint` may be a hub model",
    "regularizers": "need no teacher; `base` is plain fine-tuning",
    "distillers": "learn from cached logits",
    "comparison": "decide before you look; `margin`: points within which two scores count as equal; `looks`: judge "
    "after so many seeds, and go on only where a comparison is open",
}
KEEP = "`keep: all` in a student keeps its trained models, for `kdcache student`; or a list of seeds, or none"


def start_project(folder: Path, kind: Template = "default", data: Texts | Images | None = None) -> list[str]:
    """Write a project, and make it a Git and a DVC repository where it is none.

    Args:
        data: in place of the template's task, with the models of `text` or `images`.

    Returns:
        What to do next, one line for each step.

    Raises:
        KdcacheError: the folder has a project already, or a file with other content where one is to be written; the
            data are not as described; or DVC refuses the folder. Nothing is written then.
    """
    existing = [name for name in OURS if (folder / name).exists()]
    if existing:
        raise KdcacheError(
            f"{folder}: has {', '.join(existing)} already; name a folder without a project in it"
        )
    if folder.exists() and not folder.is_dir():
        raise KdcacheError(f"{folder}: is a file; name a folder")
    study = _study(kind) if data is None else _study_of(folder, data)
    files: dict[str, bytes | Path] = {**_files(study, data), **({} if data is None else data.copied(folder))}
    _check_free(folder, files)
    rules = {".gitignore": template.IGNORED, ".dvcignore": _dvc_ignored()}
    ignored = {name: _ignored(folder / name, wanted) for name, wanted in rules.items()}
    _make_folder(folder)
    for place, content in files.items():
        _put(folder / place, content)
    for name, lines in ignored.items():
        (folder / name).write_bytes(lines)
    _write_project(folder, study, () if data is None else data.sources(folder))
    load_study(folder / "params.yaml")  # so that mistakes are reported here, and not by the first stage
    return _next_steps(folder, study)


def _study(kind: Template) -> Any:
    if kind == "paper":
        return template.whole_study(kind)
    if kind == "language-model":
        return _with_keep(template.whole_study(kind))
    study = template.default_study()
    if kind != "default":
        study = template.only(study, "text" if kind == "text" else "image")
    return _commented(study, STARTS[kind])


def _study_of(folder: Path, data: Texts | Images) -> Any:
    study, described = own_study(folder, data)
    return _commented(study, f"Does a regularizer help a small student here? {described}")


def _commented(study: Any, start: str) -> Any:
    study["seeds"] = study["comparison"]["looks"][-1]
    study.yaml_set_start_comment(
        f"{start}\nEvery key is in kdcache's docs/params.md; `kdcache check` finds mistakes."
    )
    for key, comment in COMMENTS.items():
        study.yaml_add_eol_comment(comment, key)
    return _with_keep(study)


def _with_keep(study: Any) -> Any:
    """Say above the first student how trained models are kept."""
    students = study["students"]
    students.yaml_set_comment_before_after_key(next(iter(students)), before=KEEP, indent=2)
    return study


def _files(study: Any, data: Texts | Images | None) -> dict[str, bytes]:
    """What a project starts with besides its own files, by place: the models, and the templates of plots."""
    source = template.root()
    models = _contents(source / "data/models", template.checkpoints(study))
    if data is not None:
        models = data.fitted(models)
    plots = _contents(source / ".dvc", ["plots"])
    return {
        **{f"data/models/{name}": content for name, content in models.items()},
        **{f".dvc/{name}": content for name, content in plots.items()},
    }


def _contents(root: Path, folders: list[str]) -> dict[str, bytes]:
    """The files in some folders of `root`, by their paths in it."""
    paths = (path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _check_free(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Refuse if a file would be written over, or stands where a folder is needed.

    Args:
        files: their contents, or the files that are copied, by place.
    """
    for place, content in files.items():
        for parent in (folder / part for part in Path(place).parents):
            if os.path.lexists(parent) and not parent.is_dir():
                raise KdcacheError(
                    f"{parent}: expected a folder for {Path(place).name}, found a file; move it away, or name another "
                    "folder for the project"
                )
        target = folder / place
        if os.path.lexists(target) and not _has(target, content):
            raise KdcacheError(
                f"{target}: has other content than what would be written there; move it away, or name another folder "
                "for the project"
            )


def _has(path: Path, content: bytes | Path) -> bool:
    """Whether a file has this content, or the same as another file."""
    if not path.is_file():
        return False
    if isinstance(content, bytes):
        return path.read_bytes() == content
    return filecmp.cmp(path, content, shallow=False)


def _put(path: Path, content: bytes | Path) -> None:
    """Write a file that is not there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copyfile(content, path)


def _write_project(folder: Path, study: Any, sources: Sequence[str]) -> None:
    """The files of `OURS`, none of which is there yet, and the folder of the models."""
    shutil.copytree(
        template.root() / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__")
    )
    models = folder / "data" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (models / ".gitkeep").touch()  # dvc.yaml names the folder, even where all models are the hub's
    (folder / "dvc.yaml").write_text(template.pipeline(sources), encoding="utf-8")
    ensure_settled(folder / SETTLED)
    code_lock.write(folder)
    written = io.StringIO()
    YAML().dump(study, written)
    text = SECTION.sub(r"\1\n\n", written.getvalue())
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def _ignored(path: Path, rules: str) -> bytes:
    """A file of rules with those that it lacks, as a repository's own file may; a new file has all of them.

    Git's paths are bytes: what is no UTF-8 stays as it is.

    Raises:
        KdcacheError: it is no file.
    """
    if not path.exists():
        return rules.encode()
    if not path.is_file():
        raise KdcacheError(f"{path}: expected a file, found a folder; move it away, or name another folder")
    there = path.read_bytes().decode("utf-8", "surrogateescape")
    known = {"", *map(str.strip, there.splitlines())}
    lacking = [rule for rule in rules.splitlines() if rule.strip() not in known and not rule.startswith("#")]
    if lacking:
        end = "" if there.endswith("\n") or not there else "\n"
        there += end + "\n".join(["# kdcache", *lacking, ""])
    return there.encode("utf-8", "surrogateescape")


def _dvc_ignored() -> str:
    return (template.root() / ".dvcignore").read_text(encoding="utf-8")


def _make_folder(folder: Path) -> None:
    """Make the folder, with its repositories; leave nothing behind if DVC refuses it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _make_repositories(folder)
    except KdcacheError:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _make_repositories(folder: Path) -> None:
    """Start Git and DVC repositories if there are none.

    Raises:
        KdcacheError: DVC refuses, for example in a folder that Git ignores. What was made is removed.
    """
    if (folder / ".dvc").is_dir():
        return
    new = [folder / name for name in (".git", ".dvc", ".dvcignore") if not os.path.lexists(folder / name)]
    with_git = shutil.which("git") is not None
    if with_git and _said(folder, "git", "rev-parse", "--show-toplevel") is None:
        _said(folder, "git", "init", "--quiet")
    top = _said(folder, "git", "rev-parse", "--show-toplevel") if with_git else None
    how = ["--no-scm"] if top is None else [] if Path(top) == folder.resolve() else ["--subdir"]
    done = subprocess.run(  # without --quiet, which keeps errors back too
        [sys.executable, "-m", "dvc", "init", "--force", *how],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        for path in new:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        reason = " ".join(done.stderr.split()).removeprefix("ERROR: ") or f"exit code {done.returncode}"
        raise KdcacheError(
            f"{folder}: `dvc init` failed, so nothing is written: {reason} (Or name another folder.)"
        )
    with (folder / ".dvc" / "config").open("a", encoding="utf-8") as config:
        config.write("[core]\n    analytics = false\n" if top else "    analytics = false\n")


def _said(folder: Path, *command: str) -> str | None:
    """What a command prints; None if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _next_steps(folder: Path, study: Any) -> list[str]:
    tasks = ", ".join(study["tasks"])
    return [
        f"{folder}: a study of {tasks}, for {', '.join(study['students'])}",
        "Next:",
        *([] if folder.resolve() == Path.cwd() else [f"  cd {shlex.quote(str(folder))}"]),
        "  kdcache check     looks for mistakes, at the data too",
        "  kdcache settle    runs it to its end; the report is report/index.html, and a new one after each look",
        "  kdcache repro prepare && kdcache plan --calibrate    say first what it takes",
        f"  kdcache student {_first_student(study)} --out DIR    hands out a trained student",
        "Then change params.yaml and run it again: only what depends on the change runs.",
        "`git add -A && git commit` keeps the project, and with each run its params, lock and metrics.",
    ]


def _first_student(study: Any) -> str:
    """The names of a task, a student declared for it, and a distiller, with spaces between them."""
    task = next(iter(study["tasks"]))
    student = next(name for name, model in study["students"].items() if task in model.get("tasks", [task]))
    return f"{task} {student} {next(iter(study['distillers']))}"
