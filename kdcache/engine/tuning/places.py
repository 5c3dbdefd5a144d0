"""The folders of tuning's trials, in data/tuning and separate from the study's. Each setting has its own folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from kdcache.hashing import fingerprint
from kdcache.study.schema import Choices
from kdcache.study.tuning import Setting
from kdcache.trials.layout import Layout

STUDENT_TRIALS, TEACHER_TRIALS = "trials", "teacher-trials"


@dataclass(frozen=True)
class TuningLayout(Layout):
    """The folders of tuning. Tasks, teachers and their logits lie in them as in any project's folders.

    Args:
        settings: the setting at which each configuration is looked at.
        trials: the folder of all trials: the students', or those by which teachers are tuned.
    """

    settings: Choices = field(default_factory=dict)
    trials: str = STUDENT_TRIALS

    def with_trials(self, teachers: bool) -> TuningLayout:
        """The same folders, but with the trials of teachers that are tuned, or with the students' trials."""
        return replace(self, trials=TEACHER_TRIALS if teachers else STUDENT_TRIALS)

    @property
    def data(self) -> Path:
        return Layout(self.root).tuning

    def configuration(self, task: str, student: str, regularizer: str) -> Path:
        setting = self.settings[task, student, regularizer]
        return self.method(task, student, regularizer) / folder_of(setting)

    def method(self, task: str, student: str, regularizer: str) -> Path:
        """All settings of a configuration."""
        return self.data / self.trials / task / student / regularizer


def folder_of(setting: Setting) -> str:
    """A setting's folder. Its name depends on nothing else, so a changed space runs only the new settings."""
    return f"setting-{fingerprint.of_json(dict(sorted(setting.items())))[:16]}"
