"""`kdcache init`: write a project that runs, with its own params.yaml, dvc.yaml and stages."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
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
        KdcacheError: the folder has a project already, or the data are not as described. Nothing is written then.
    """
    existing = [name for name in OURS if (folder / name).exists()]
    if existing:
        raise KdcacheError(
            f"{folder}: has {', '.join(existing)} already; name a folder without a project in it"
        )
    if folder.exists() and not folder.is_dir():
        raise KdcacheError(f"{folder}: is a file; name a folder")
    study = _study(kind) if data is None else _study_of(folder, data)
    folder.mkdir(parents=True, exist_ok=True)
    _write_files(folder, study, data)
    load_study(folder / "params.yaml")  # so that mistakes are reported here, and not by the first stage
    _make_repositories(folder)
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


def _write_files(folder: Path, study: Any, data: Texts | Images | None) -> None:
    source = template.root()
    shutil.copytree(source / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    models = folder / "data" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (models / ".gitkeep").touch()  # dvc.yaml names the folder, even where all models are the hub's
    for name in template.checkpoints(study):
        shutil.copytree(source / "data/models" / name, models / name, dirs_exist_ok=True)
    if data is not None:
        data.put_into(folder)
    sources = () if data is None else data.sources(folder)
    (folder / "dvc.yaml").write_text(template.pipeline(sources), encoding="utf-8")
    ensure_settled(folder / SETTLED)
    code_lock.write(folder)
    written = io.StringIO()
    YAML().dump(study, written)
    text = SECTION.sub(r"\1\n\n", written.getvalue())
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    _ignore(folder / ".gitignore", template.IGNORED)
    _ignore(folder / ".dvcignore", _dvc_ignored())


def _ignore(path: Path, rules: str) -> None:
    """Add the rules that the file lacks, as a repository's own file does; a new file has all of them."""
    if not path.exists():
        path.write_text(rules, encoding="utf-8")
        return
    there = path.read_text(encoding="utf-8")
    known = {"", *map(str.strip, there.splitlines())}
    lacking = [rule for rule in rules.splitlines() if rule.strip() not in known and not rule.startswith("#")]
    if lacking:
        end = "" if there.endswith("\n") or not there else "\n"
        path.write_text(there + end + "\n".join(["# kdcache", *lacking, ""]), encoding="utf-8")


def _dvc_ignored() -> str:
    return (template.root() / ".dvcignore").read_text(encoding="utf-8")


def _make_repositories(folder: Path) -> None:
    """Start Git and DVC repositories if there are none. (dvc.yaml's plots need the templates of .dvc/plots.)"""
    if not (folder / ".dvc").is_dir():
        with_git = shutil.which("git") is not None
        if with_git and _said(folder, "git", "rev-parse", "--show-toplevel") is None:
            _said(folder, "git", "init", "--quiet")
        top = _said(folder, "git", "rev-parse", "--show-toplevel") if with_git else None
        how = ["--no-scm"] if top is None else [] if Path(top) == folder.resolve() else ["--subdir"]
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "init", "--quiet", "--force", *how],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise KdcacheError(f"{folder}: `dvc init` failed: {done.stderr.strip()}")
        with (folder / ".dvc" / "config").open("a", encoding="utf-8") as config:
            config.write("[core]\n    analytics = false\n" if top else "    analytics = false\n")
    shutil.copytree(template.root() / ".dvc/plots", folder / ".dvc/plots", dirs_exist_ok=True)


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
