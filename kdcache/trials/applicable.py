"""Pairs of a task and a model that the study excludes (by a model's `tasks:`): their stages only leave a note.

DVC has a stage for every pair. So this is checked first, before any slow import, and on the unchecked params.yaml.
(Stage prepare, which all other stages wait for, checks the file.)
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from kdcache.errors import ParamsError
from kdcache.system import processes
from kdcache.system.files import write_json
from kdcache.system.locks import exclusive
from kdcache.system.params_file import read_params
from kdcache.trials.layout import INAPPLICABLE

log = logging.getLogger(__name__)


def left_out(folder: Path, group: str, name: str, task: str, params: Path = Path("params.yaml")) -> bool:
    """Whether the study excludes a model from a task; if so, the output folder then holds a note and nothing else.

    Under `accelerate launch` only the main process writes it.

    Args:
        folder: the stage's output folder.
        group: "teachers" or "students".

    Raises:
        TrialError: another process is writing to the folder.
    """
    if task in _tasks_of(group, name, params, task):
        return False
    if processes.is_main():
        with exclusive(folder):
            mark_inapplicable(folder, f"{group}.{name}.tasks does not list {task!r}")
    return True


def mark_inapplicable(folder: Path, reason: str) -> None:
    """Replace the content of an excluded pair's output folder by a note."""
    if folder.exists():
        shutil.rmtree(folder)
    log.info("%s: not applicable: %s", folder, reason)
    write_json(folder / INAPPLICABLE, {"not_applicable": reason})


def _tasks_of(group: str, name: str, params: Path, task: str) -> list[Any]:
    """The tasks that a model lists. A faulty entry excludes nothing, so that the stage reports what is wrong."""
    try:
        study = read_params(params)
        known, tasks = study["tasks"], study[group][name]["tasks"]
    except (ParamsError, KeyError, TypeError):
        return [task]
    sound = isinstance(tasks, list) and tasks and isinstance(known, dict) and task in known
    return tasks if sound and all(item in known for item in tasks) else [task]
