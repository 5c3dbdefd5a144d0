"""Tuning as params.yaml declares it: the values that each method may try, and one budget for all methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Annotated, Literal, Self, TypeAlias, TypeVar

from pydantic import Field

from kdcache.study.metrics import LOWER_IS_BETTER, Metric
from kdcache.study.names import Name
from kdcache.study.values import Params, Positive, Seed, Share
from kdcache.system.quoting import listed

Setting: TypeAlias = Mapping[str, float]  # one value for each key: {"learning_rate": 0.001, "alpha": 0.5}
Values: TypeAlias = Mapping[str, list[float]]  # for each key, the values that may be tried

# The keys of a space that belong to the student's recipe; the other keys are the method's own.
RECIPE = ("learning_rate", "epochs", "batch_size", "weight_decay", "warmup", "max_grad_norm")
ALL = "all"  # the name of the space that all methods share
MOST_SETTINGS = 1000
MOST_POINTS = 100_000  # settings in one method's space
FEW = Field(min_length=1, max_length=100)
P = TypeVar("P", bound=Params)


class RecipeSpace(Params):
    """The values of a model's recipe that may be tried, a list for each key; every combination of them is a setting."""

    learning_rate: Annotated[list[Positive], FEW] | None = None
    epochs: Annotated[list[Annotated[int, Field(ge=1)]], FEW] | None = None
    batch_size: Annotated[list[Annotated[int, Field(ge=1)]], FEW] | None = None
    weight_decay: Annotated[list[Annotated[float, Field(ge=0)]], FEW] | None = None
    warmup: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], FEW] | None = None
    max_grad_norm: Annotated[list[Positive], FEW] | None = None

    @property
    def values(self) -> Values:
        """The lists that params.yaml gives, in the order of the fields above."""
        return {key: values for key in type(self).model_fields if (values := getattr(self, key)) is not None}

    def _mistakes(self) -> Iterator[str]:
        for key, values in self.values.items():
            if len(set(values)) != len(values):
                yield f"{key} lists a value twice: {listed(values)}"


class Space(RecipeSpace):
    """The values that a method may try: of the student's recipe, and its own."""

    alpha: Annotated[list[Share], FEW] | None = None
    temperature: Annotated[list[Positive], FEW] | None = None
    correct: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], FEW] | None = None
    beta: Annotated[list[Annotated[float, Field(ge=0)]], FEW] | None = None
    multiplier: Annotated[list[Positive], FEW] | None = None


class Tuning(Params):
    """How every method is tuned before the study's trials: on rows held out of train, with the same budget."""

    hold_out: float = Field(default=0.2, gt=0, lt=1)  # stratified part of train on which settings are scored
    seeds: list[Seed] = Field(min_length=1)  # the seeds of each setting; none may be a seed of the study
    budget: int = Field(ge=1, le=MOST_SETTINGS)  # how many settings each method tries
    sampler: Literal["qmc", "tpe"] = "qmc"  # chooses the settings if a space has more than the budget
    seed: Seed = 0  # decides which rows are held out, and what the sampler draws
    metric: Metric | None = None  # by which the best is chosen; default: each task's first
    space: dict[Name, Space] = Field(default_factory=dict)  # of each method; empty: methods are as declared
    teachers: RecipeSpace | None = None  # what every teacher may try, by nll; without: they are as declared

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the declared metric is better; `with_metric` declares a task's first."""
        return self.metric in LOWER_IS_BETTER

    def with_metric(self, metric: str) -> Self:
        """The same tuning, by that metric."""
        return self.model_copy(update={"metric": metric})

    def of_teachers(self, baseline: str) -> Tuning | None:
        """How teachers are tuned: as a model whose only method is plain fine-tuning, by nll; None where they are not.

        By nll, since soft labels are what a teacher is for: of two that are right as often, the better calibrated.
        """
        if self.teachers is None:
            return None
        space = {baseline: Space.model_validate(self.teachers.values)}
        return self.model_copy(update={"metric": "nll", "space": space, "teachers": None})

    def values(self, method: str) -> dict[str, list[float]]:
        """The values that a method may try: those of `all`, with the method's own lists added or in their place."""
        spaces = [self.space[name].values for name in (ALL, method) if name in self.space]
        return {key: list(values) for space in spaces for key, values in space.items()}

    def points(self, method: str) -> int:
        """The number of settings in a method's space."""
        return prod(map(len, self.values(method).values()))

    def _mistakes(self) -> Iterator[str]:
        if not self.space and self.teachers is None:
            yield "tunes nothing; give it a space, of the methods, or teachers, or leave tuning out"
        if len(set(self.seeds)) != len(self.seeds):
            yield f"a seed is listed twice: {listed(self.seeds)}"
        own = [key for key in self.space.get(ALL, Space()).values if key not in RECIPE]
        if own:
            yield f"space.{ALL}: {listed(own)} belongs to a method, not to all; write it under the method's name"


def grid(values: Values) -> Iterator[dict[str, float]]:
    """Every setting of a space; the last key varies fastest."""
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def applied(params: P, setting: Setting) -> P:
    """A copy of the parameters with the setting's values.

    Raises:
        ValidationError: a value does not fit the other values.
    """
    given = params.model_dump(exclude_unset=True)
    known = {key: value for key, value in setting.items() if key in type(params).model_fields}
    return type(params).model_validate({**given, **known}) if known else params


def in_words(setting: Setting) -> str:
    """A setting in one line: "learning_rate 0.001, epochs 4"; "as declared" if no value was varied."""
    return ", ".join(f"{key} {value:g}" for key, value in setting.items()) or "as declared"
