"""The parts of the page. A module that has something to say makes a section; the page's template loops over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from kdcache.report import charts


@dataclass(frozen=True)
class Drawn:
    """A chart in the page: its place, what is drawn, its specification for the browser, and its picture."""

    id: str
    of: charts.Drawing | charts.Panel
    spec: dict[str, Any]
    image: str


class Section(Protocol):
    """A part of the page: a template, which finds this object as `section`."""

    template: ClassVar[str]

    @property
    def drawn(self) -> Sequence[Drawn]:
        """Its charts, for the page's script."""


class WithoutCharts:
    """A section of words and tables."""

    @property
    def drawn(self) -> Sequence[Drawn]:
        return ()


def draw(name: str, drawings: Sequence[charts.Drawing | charts.Panel]) -> list[Drawn]:
    """Each chart ready for the page.

    Args:
        name: of the kind of chart; with a number it is the chart's id in the page.
    """
    return [
        Drawn(
            id=f"{name}-{place}",
            of=drawing,
            spec=charts.fluid_spec(drawing.spec),
            image=charts.static_image(drawing.spec),
        )
        for place, drawing in enumerate(drawings)
    ]
