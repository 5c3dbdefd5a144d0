"""The sections of the page: each module of the report makes one, and the page's template loops over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from kdcache.report import charts


@dataclass(frozen=True)
class Drawn:
    """A chart in the page: its id, its content, its specification for the browser, and its static image."""

    id: str
    content: charts.Drawing | charts.Panel
    spec: dict[str, Any]
    image: str


class Section(Protocol):
    """A section of the page; its template gets this object as `section`."""

    template: ClassVar[str]

    @property
    def drawn(self) -> Sequence[Drawn]:
        """The section's charts, for the page's script."""


class WithoutCharts:
    """A section of words and tables."""

    @property
    def drawn(self) -> Sequence[Drawn]:
        return ()


def draw(name: str, drawings: Sequence[charts.Drawing | charts.Panel]) -> list[Drawn]:
    """Make charts ready for the page.

    Args:
        name: the kind of chart; followed by a number, it is the chart's id in the page.
    """
    return [
        Drawn(
            id=f"{name}-{place}",
            content=drawing,
            spec=charts.fluid_spec(drawing.spec),
            image=charts.static_image(drawing.spec),
        )
        for place, drawing in enumerate(drawings)
    ]
