"""Look up which task, model and method a DVC stage is for, so that no name of params.yaml is part of a command.

DVC builds a stage's command from dvc.yaml and gives it to a shell before anything is checked. Study files are passed
around, and a name such as `digits; rm -rf x #` would be executed. So the commands in dvc.yaml contain no names. DVC
gives each command its stage's name in DVC_STAGE (`train@digits-vit-tiny-kd`), and this module finds the names in
params.yaml that form this stage's name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.repro import code_lock
from kdcache.system.params_file import read_params
from kdcache.system.quoting import quoted

STAGE = "DVC_STAGE"
GROUPS = {
    "prepare": ("tasks",),
    "teach": ("tasks", "teachers"),
    "cache": ("tasks", "teachers"),
    "train": ("tasks", "students", "regularizers"),
    "distill": ("tasks", "students", "distillers"),
}


def item_of_stage(params: Path = Path("params.yaml")) -> list[str]:
    """The names that this process's stage is for, in the order of the stage's matrix in dvc.yaml.

    Raises:
        KdcacheError: DVC did not start this process; or no names in params.yaml, or several, form its stage's name.
        ParamsError: params.yaml cannot be read.
        KdcacheError: kdcache.yaml is of another kdcache; see `code_lock`.
    """
    code_lock.check()
    stage = os.environ.get(STAGE, "").rpartition(":")[2]
    kind, _, name = stage.partition("@")
    if kind not in GROUPS:
        value = quoted(stage) if stage else "not set"
        raise KdcacheError(
            f"{STAGE} is {value}: say which one is meant (--help), or let `dvc repro` run the stage"
        )
    matches = _readings(name, [_names(params, group) for group in GROUPS[kind]])
    if len(matches) != 1:
        raise KdcacheError(
            f"{params}: {len(matches)} entries of {', '.join(GROUPS[kind])} give the stage {quoted(stage)}, "
            "expected one; `kdcache check` says what is wrong with the names"
        )
    return matches[0]


def _readings(joined: str, groups: Sequence[Collection[str]]) -> list[list[str]]:
    """All ways to read `a-b-c` as one name from each group, joined by '-'."""
    first, *rest = groups
    if not rest:
        return [[joined]] if joined in first else []
    starts = [name for name in first if joined.startswith(f"{name}-")]
    return [[name, *names] for name in starts for names in _readings(joined[len(name) + 1 :], rest)]


def _names(params: Path, group: str) -> list[str]:
    entries = read_params(params).get(group)
    return [name for name in entries if isinstance(name, str)] if isinstance(entries, dict) else []
