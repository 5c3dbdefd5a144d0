"""The values in params.yaml (files, seeds, schedules), and `Params`, the base of all its objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kdcache.study.names import Name
from kdcache.system.quoting import quoted

UNLABELLED = "unlabelled"  # the split without labels: its logits are cached and learned from, never scored
LARGEST_SEED = 2**32 - 1  # of those that NumPy and torch both take


def _check_files(value: object) -> object:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"expected a file or a list of files, found {quoted(value)}")
    return value


def _check_keep(value: object) -> object:
    """Check `keep` here, so that a mistake gives one sentence; pydantic would give one for each allowed type."""
    if isinstance(value, str) and value in ("none", "all"):
        return value
    seeds = value if isinstance(value, list | tuple) and value else [None]
    are_seeds = all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= LARGEST_SEED for seed in seeds
    )
    if not are_seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"expected none, all or a list of different seeds, found {quoted(value)}")
    return value


def _check_class_weights(value: object) -> object:
    """One sentence for a mistake, as above."""
    if value is None or value == "balanced":
        return value
    weights = value if isinstance(value, list | tuple) and value else [0]
    if not all(type(weight) in (int, float) and 0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"expected balanced or a list of numbers above 0, one for each class, found {quoted(value)}"
        )
    return value


Text = Annotated[str, Field(min_length=1)]
Files = Annotated[str | list[str], BeforeValidator(_check_files)]
Seed = Annotated[int, Field(ge=0, lt=LARGEST_SEED + 1)]
Keep = Annotated[Literal["none", "all"] | tuple[Seed, ...], BeforeValidator(_check_keep)]
ClassWeights = Annotated[Literal["balanced"] | tuple[float, ...], BeforeValidator(_check_class_weights)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

# The tags keep pydantic from reporting a mistake once for each way to read the key; no path shows them.
FOLDER, FOLDERS = "[folder]", "[folders]"
Folder = Annotated[
    Annotated[Text, Tag(FOLDER)] | Annotated[dict[Name, Text], Tag(FOLDERS)],
    Discriminator(lambda value: FOLDERS if isinstance(value, dict) else FOLDER),
]


class Params(BaseModel):
    """Base of all parameter objects: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: object, info: ValidationInfo) -> object:
        """Refuse booleans except as switches: pydantic would read `alpha: true` as 1.0."""
        if cls.model_fields[info.field_name or ""].annotation is bool:
            return value
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            raise ValueError("true and false are no values here")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        """Mistakes between the keys of one object, where every key by itself is right."""
        return iter(())


N = TypeVar("N", bound=float)


class Schedule(Params, Generic[N]):
    """A number that changes linearly over the optimizer steps: `start` at the first, `end` at the last."""

    start: N
    end: N

    def _mistakes(self) -> Iterator[str]:
        if self.start == self.end:
            yield f"start and end are the same; write the number {self.start:g}"


# The tags keep pydantic from reporting a faulty number as a faulty schedule too; they are left out of paths.
NUMBER, SCHEDULE = "[number]", "[schedule]"
NUMBER_OR_SCHEDULE = Discriminator(lambda value: SCHEDULE if isinstance(value, dict | Schedule) else NUMBER)
AnnealedShare = Annotated[
    Annotated[Share, Tag(NUMBER)] | Annotated[Schedule[Share], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]
AnnealedPositive = Annotated[
    Annotated[Positive, Tag(NUMBER)] | Annotated[Schedule[Positive], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]
