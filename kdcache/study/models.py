"""Teachers and students as params.yaml declares them: a checkpoint and how it is fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from kdcache.study.estimates import TokenEstimate
from kdcache.study.names import Name, Teachers, teacher_names
from kdcache.study.values import ClassWeights, Keep, Params, Seed, Text

# Keys that are dumped, and so are part of an identity, only if they are given; with their defaults.
LEFT_OUT: dict[str, Any] = {
    "cache": None,
    "lora": None,
    "accumulate": 1,
    "gradient_checkpointing": False,
    "class_weights": None,
    "threads": 1,
}


class Lora(Params):
    """Adapters of low rank: they and the head are trained, and merged into the model's weights at the end."""

    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)  # an adapter counts alpha / rank times
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[Text, ...] | None = Field(default=None, min_length=1)  # layers' names; default: peft's own


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
    # Of language modelling: what is stored of its distributions; see `estimate`.
    cache: TokenEstimate | None = None
    lora: Lora | None = None
    accumulate: int = Field(default=1, ge=1)  # a batch is computed in so many parts, with less memory
    gradient_checkpointing: bool = Field(default=False, strict=True)  # less memory, more time
    class_weights: ClassWeights | None = None  # of the labels' part of the loss

    @property
    def estimate(self) -> TokenEstimate:
        """What is stored of a language model's distributions at each token: as declared, or the default."""
        return self.cache or TokenEstimate()

    @model_serializer(mode="wrap")
    def _as_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer keys with their defaults, so that identities do not change when kdcache gets a new key."""
        given = {key for key, value in LEFT_OUT.items() if getattr(self, key, value) != value}
        return {key: value for key, value in serialize(self).items() if key not in LEFT_OUT or key in given}

    def _mistakes(self) -> Iterator[str]:
        if self.lora is not None and self.init == "scratch":
            yield "lora adapts pretrained weights; with init: scratch there are none"
        if self.accumulate > self.batch_size:
            yield f"accumulate: {self.accumulate} parts of a batch of {self.batch_size} rows"


class Teacher(Model):
    """A model that is fine-tuned once per task, and whose logits are cached."""

    epochs: int = Field(ge=0)  # 0: as its checkpoint is, for language modelling alone
    seed: Seed = 0
    threads: int = Field(
        default=1, ge=1
    )  # on a CPU; its last bits depend on their number, and so its identity does


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
