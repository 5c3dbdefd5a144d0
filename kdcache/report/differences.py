"""The section with the main figure: what each regularizer changes, one panel per task and architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdcache.report import charts
from kdcache.report.sections import Drawn, draw


@dataclass(frozen=True)
class DifferencesSection:
    """The panels, and the kinds of students in them: pretrained, from scratch, or both."""

    template: ClassVar[str] = "sections/differences.html.j2"
    panels: list[Drawn]
    inits: list[str]

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.panels


def make_section(panels: list[charts.Panel]) -> DifferencesSection | None:
    return DifferencesSection(draw("panel", panels), charts.inits(panels)) if panels else None
