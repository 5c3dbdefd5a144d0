"""Which task, model and method a DVC stage is for: looked up, so that no name of params.yaml is part of a command.

DVC builds a stage's command from dvc.yaml and gives it to a shell, before anything is checked. A study file is offered
as a plain file to copy, and a name such as `digits; rm -rf x #` would be run. So dvc.yaml's commands have no names in
them. DVC tells each command its stage in DVC_STAGE (`train@digits-vit-tiny-kd`), and the names are those of params.yaml
that give that stage's name.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from kdcache.errors import KdcacheError

STAGE = "DVC_STAGE"
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GROUPS = {
    "prepare": ("tasks",),
    "teach": ("tasks", "teachers"),
    "cache": ("tasks", "teachers"),
    "train": ("tasks", "students", "regularizers"),
    "distill": ("tasks", "students", "distillers"),
}


def item_of_stage(params: Path = Path("params.yaml")) -> list[str]:
    """The names that this process's stage is for, in the order of its matrix in dvc.yaml.

    Raises:
        KdcacheError: DVC did not start this process; or no names of params.yaml, or several, give its stage's name.
    """
    stage = os.environ.get(STAGE, "").rpartition(":")[2]
    kind, _, name = stage.partition("@")
    if kind not in GROUPS:
        raise KdcacheError(
            f"{STAGE} is {stage or 'not set'!r}: say which one is meant (--help), or let `dvc repro` run the stage"
        )
    matches = [names for names in product(*_names(params, GROUPS[kind])) if "-".join(names) == name]
    if len(matches) != 1:
        raise KdcacheError(
            f"{params}: {len(matches)} entries of {', '.join(GROUPS[kind])} give the stage {stage!r}, expected one; "
            "`kdcache check` says what is wrong with the names"
        )
    return list(matches[0])


def _names(params: Path, groups: tuple[str, ...]) -> list[list[str]]:
    try:
        study = yaml.load(params.read_text(encoding="utf-8"), Loader)
        return [[str(name) for name in study[group]] for group in groups]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise KdcacheError(f"{params}: cannot be read: {error}; `kdcache check` says what is wrong") from None
