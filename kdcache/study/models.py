"""Teachers and students as params.yaml declares them: a checkpoint and how it is fine-tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdcache.study.estimates import TokenEstimate
from kdcache.study.names import Name, Teachers, teacher_names
from kdcache.study.values import Keep, Params, Seed, Text


class Model(Params):
    """A model and how it is fine-tuned: the keys that teachers and students share."""

    checkpoint: Text
    revision: Text | None = None
    init: Literal["pretrained", "scratch"] = "pretrained"
    layers: int | None = Field(default=None, ge=1)
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)  # tasks it is for; default: all

    learning_rate: float = Field(gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: TokenEstimate | None = (
        None  # of language modelling: what is stored of its distributions; see `estimate`
    )

    @property
    def estimate(self) -> TokenEstimate:
        """What is stored of a language model's distributions at each token: as declared, or the default."""
        return self.cache or TokenEstimate()


class Teacher(Model):
    """A model that is fine-tuned once per task, and whose logits are cached."""

    epochs: int = Field(ge=0)  # 0: as its checkpoint is, for language modelling alone
    seed: Seed = 0


class Student(Model):
    """A model trained once per task, regularizer and seed."""

    teacher: Teachers | None = None  # a name, or a list for an ensemble (the mean of its members' logits)
    keep: Keep = "none"  # the seeds whose trained models are kept; does not change a trial's numbers

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of its teachers: none, one, or the members of an ensemble."""
        return teacher_names(self.teacher)

    def keeps(self, seed: int) -> bool:
        """Whether the trained model of that seed is kept."""
        return seed in self.keep if isinstance(self.keep, tuple) else self.keep == "all"
