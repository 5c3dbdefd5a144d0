"""The kinds of values that params.yaml has: names, files, seeds, shares, schedules; and the base of all its objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from kdcache.system.names import NAME

CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews")
REGRESSION_METRICS = ("pearson", "spearman")
UNLABELLED = "unlabelled"  # the split whose rows have no labels: cached, learned from, never scored
Metric = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]


def _check_name(name: object) -> object:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "" if isinstance(name, str) else " (quote it if it is meant as text)"
        raise ValueError(f"a name has letters, digits, '-' and '_' only, found {name!r}{hint}")
    return name


def _check_teachers(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _check_name(value)
    names = [_check_name(name) for name in value]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected a teacher or a list of different teachers, found {value!r}")
    return tuple(names)


def teacher_names(teacher: str | Iterable[str] | None) -> tuple[str, ...]:
    """None, one, or the members of an ensemble."""
    return (teacher,) if isinstance(teacher, str) else tuple(teacher or ())


def _check_files(value: object) -> object:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"expected a file or a list of files, found {value!r}")
    return value


Name = Annotated[str, BeforeValidator(_check_name)]
Teachers = Annotated[str | tuple[str, ...], BeforeValidator(_check_teachers)]
Files = Annotated[str | list[str], BeforeValidator(_check_files)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy and torch both take
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def raise_all(mistakes: Iterable[str]) -> None:
    found = list(mistakes)
    if found:
        raise ValueError("; ".join(found))


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Params(BaseModel):
    """Base of all parameter objects: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: object) -> object:
        """No key is a switch, and pydantic would read `alpha: true` as 1.0."""
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            raise ValueError("true and false are no values here (YAML also reads yes, no, on, off so)")
        return value


N = TypeVar("N", bound=float)


class Schedule(Params, Generic[N]):
    """A number that changes linearly over the optimizer steps: `start` at the first, `end` at the last."""

    start: N
    end: N

    @model_validator(mode="after")
    def _changes(self) -> Schedule[N]:
        if self.start == self.end:
            raise ValueError(f"start and end are the same; write the number {self.start:g}")
        return self


# The tags keep pydantic from reporting a faulty number as a faulty schedule too; no path shows them.
NUMBER, SCHEDULE = "[number]", "[schedule]"
NUMBER_OR_SCHEDULE = Discriminator(lambda value: SCHEDULE if isinstance(value, dict | Schedule) else NUMBER)
AnnealedShare = Annotated[
    Annotated[Share, Tag(NUMBER)] | Annotated[Schedule[Share], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]
AnnealedPositive = Annotated[
    Annotated[Positive, Tag(NUMBER)] | Annotated[Schedule[Positive], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]
