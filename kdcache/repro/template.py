"""What a new project starts from: this repository's own pipeline, stages, studies and small checkpoints.

Nothing is kept twice: in a clone the files are the repository's own, and the wheel has copies of them (setup.py). A
project gets them unchanged, except that its dvc.yaml does not depend on source files; see `code_lock`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PACKAGE = Path(__file__).parents[1]
CODE = re.compile(r"kdcache/([\w/]+)")
IGNORED = """\
__pycache__/
# built by the stages, kept by DVC
/data/tasks/
/data/teachers/
/data/logits/
/data/trials/
/data/tuning/
/data/tuning.lock
/report/
# finished trials, teachers and caches by identity
/.kdcache/
# locks and temporary files beside the outputs are no outputs
data/**/*.lock
data/**/.*.tmp
"""


def root() -> Path:
    """The folder with the template's files: inside an installed kdcache, or the clone that it runs from."""
    installed = PACKAGE / "repro" / "project"
    return installed if installed.is_dir() else PACKAGE.parent


def pipeline(sources: Sequence[str] = ()) -> str:
    """A project's dvc.yaml: the repository's, with a parameter of kdcache.yaml for each folder of source files.

    Args:
        sources: files or folders of the user's own data, which `prepare` reads: DVC notices when they change.
    """
    yaml = YAML()
    yaml.width = 120
    content = yaml.load((root() / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in content["stages"].values():
        code = [match[1] for dep in stage["deps"] if (match := CODE.fullmatch(dep))]
        for dep in [dep for dep in stage["deps"] if CODE.fullmatch(dep)]:
            stage["deps"].remove(dep)
        if stage is content["stages"]["prepare"]:
            stage["deps"] += [source.replace("${", r"\${") for source in sources]
        if not stage["deps"]:
            del stage["deps"]
        if code:
            hashes = [f"code.{name.replace('/', '_')}" for name in code]
            params = stage.setdefault("params", [])
            params.append({"kdcache.yaml": hashes})
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def default_study() -> Any:
    """The repository's params.yaml, with its comments."""
    return YAML().load((root() / "params.yaml").read_text(encoding="utf-8"))


def whole_study(name: str) -> Any:
    """A file of studies/ with its comments: "paper", "language-model"."""
    return YAML().load((root() / "studies" / f"{name}.yaml").read_text(encoding="utf-8"))


def only(study: Any, column: str) -> Any:
    """The part of a study whose tasks have the column: "text" or "image"."""
    for name in [name for name, task in study["tasks"].items() if column not in task]:
        del study["tasks"][name]
    for group in ("teachers", "students"):
        for name, model in list(study[group].items()):
            if "tasks" in model and not set(model["tasks"]) & set(study["tasks"]):
                del study[group][name]
    return study


def checkpoints(study: Mapping[str, Any]) -> list[str]:
    """The small checkpoints of data/models that a study names: "bert-micro"."""
    models = [*study["teachers"].values(), *study["students"].values()]
    paths = (Path(model["checkpoint"]) for model in models)
    return sorted({path.name for path in paths if path.parts[:2] == ("data", "models")})
