"""The folders of tuning's trials: in data/tuning, separate from the study's, each setting in its own folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kdcache.hashing import fingerprint
from kdcache.study.schema import Choices
from kdcache.study.tuning import Setting
from kdcache.trials.layout import Layout


@dataclass(frozen=True)
class TuningLayout(Layout):
    """The folders of tuning. Tasks, teachers and their logits lie in them as in any project's folders.

    Args:
        settings: the setting of each configuration whose trials the folders are to hold.
    """

    settings: Choices = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return Layout(self.root).tuning

    def configuration(self, task: str, student: str, regularizer: str) -> Path:
        setting = self.settings[task, student, regularizer]
        return self.method(task, student, regularizer) / folder_of(setting)

    def method(self, task: str, student: str, regularizer: str) -> Path:
        """All settings of a configuration."""
        return self.data / "trials" / task / student / regularizer


def folder_of(setting: Setting) -> str:
    """A setting's folder; its name depends on nothing else, so that a changed space runs only the new settings."""
    return f"setting-{fingerprint.of_json(dict(sorted(setting.items())))[:16]}"
