"""Pairs of a task and a model that the study excludes (`tasks:` of a model): their stages only leave a note.

DVC has a stage for every pair. So this is looked at first, before anything that takes time to import: the file as it
is, unchecked, says enough. (Stage prepare, which every other one waits for, checks it.)
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from kdcache.errors import ParamsError
from kdcache.system.files import write_json
from kdcache.system.locks import exclusive
from kdcache.system.params_file import read_params
from kdcache.trials.layout import INAPPLICABLE

log = logging.getLogger(__name__)


def left_out(folder: Path, group: str, name: str, task: str, params: Path = Path("params.yaml")) -> bool:
    """Whether the study excludes a model from a task; if so, its output folder has a note in the end, and nothing else.

    Args:
        folder: the stage's output.
        group: "teachers" or "students".

    Raises:
        TrialError: another process is writing there.
    """
    if task in _tasks_of(group, name, params, task):
        return False
    with exclusive(folder):
        mark_inapplicable(folder, f"{group}.{name}.tasks does not list {task!r}")
    return True


def mark_inapplicable(folder: Path, reason: str) -> None:
    """Leave a note in an output folder that the study excludes, and nothing else."""
    if folder.exists():
        shutil.rmtree(folder)
    log.info("%s: not applicable: %s", folder, reason)
    write_json(folder / INAPPLICABLE, {"not_applicable": reason})


def _tasks_of(group: str, name: str, params: Path, task: str) -> list[Any]:
    """The tasks that a model lists. What is not as it should be excludes nothing: the stage says what is wrong."""
    try:
        study = read_params(params)
        known, tasks = study["tasks"], study[group][name]["tasks"]
    except (ParamsError, KeyError, TypeError):
        return [task]
    sound = isinstance(tasks, list) and tasks and isinstance(known, dict) and task in known
    return tasks if sound and all(item in known for item in tasks) else [task]
