"""Recipes: a checkpoint's architecture, how its text is laid out, and how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.pretraining.errors import PretrainingError

Family = Literal["bert", "roberta", "gpt2"]


class Distillation(BaseModel):
    """The second phase, after language modelling: which pieces of the texts, and how their embeddings are learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str = Field(description="the sentence encoder's name and licence, for the card")
    pieces: int = Field(gt=0, description="how many different ones to use, drawn at random")
    longest_piece: int = Field(12, ge=3, description="words; longer sentences are cut")
    epochs: int = Field(gt=0)
    batch_size: int = Field(128, gt=0, description="pieces a step")
    learning_rate: float = Field(gt=0, description="peak, at the end of a linear warm-up; then linear to 0")
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    validation_fraction: float = Field(0.01, gt=0, lt=1, description="pieces held out")
    seed: int = Field(0, ge=0)


class PretrainingRecipe(BaseModel):
    """One checkpoint: its architecture, how the text is laid out, and how it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Family
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate: int | None = Field(None, gt=0, description="feed-forward width; 4 x hidden by default")
    vocab_size: int = Field(8192, ge=300, le=65_536, description="token ids are stored as uint16")
    sequence_length: int = Field(128, ge=8)
    short_length: int = Field(32, ge=8, description="length of the pieces that the first tokens come in")
    short_tokens: int = Field(8_000_000, ge=0, description="how many tokens come in short pieces")
    last_short_tokens: int = Field(
        0, ge=0, description="how many of the last tokens come in short pieces, laid out as short texts"
    )
    tokens: int = Field(gt=0, description="how many tokens to train on, counting repeats")
    batch_size: int = Field(16, gt=0, description="sequences a step")
    learning_rate: float = Field(gt=0, description="peak, held between warmup and decay")
    warmup_tokens: int = Field(1_000_000, ge=0)
    decay_fraction: float = Field(0.22, gt=0, le=1, description="the last part of `tokens`, decayed to 0")
    weight_decay: float = Field(0.01, ge=0)
    predict_fraction: float = Field(
        0.15, gt=0, lt=1, description="positions of a sequence that are predicted"
    )
    validation_fraction: float = Field(0.01, gt=0, lt=1, description="sequences held out")
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the training steps' matrix products; weights and held-out loss are float32"
    )
    distillation: Distillation | None = Field(None, description="a second phase, for bert")

    @model_validator(mode="after")
    def _bert_distils(self) -> PretrainingRecipe:
        if self.distillation and self.family != "bert":
            raise ValueError(f"distillation is for family: bert, whose pooler it trains, found {self.family}")
        return self

    @model_validator(mode="after")
    def _sizes_divide(self) -> PretrainingRecipe:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads, found hidden {self.hidden}, heads {self.heads}"
            )
        if self.sequence_length % self.short_length:
            raise ValueError(
                "sequence_length must be a multiple of short_length, found "
                f"sequence_length {self.sequence_length}, short_length {self.short_length}"
            )
        return self

    def predictions(self, length: int) -> int:
        """Predicted positions in a sequence: a fixed number, so that gathers are rectangular."""
        return max(1, round(self.predict_fraction * length))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    def steps_for(self, tokens: int) -> int:
        """The number of whole steps that see at least `tokens` tokens."""
        return -(-tokens // self.tokens_per_step)

    @property
    def steps(self) -> int:
        return self.steps_for(self.tokens)


def load_recipe(path: Path, name: str, **changes: Any) -> PretrainingRecipe:
    """The recipe called `name` in a YAML file of recipes, with some keys changed.

    Raises:
        PretrainingError: there is no such file or recipe, or it has mistakes, which are all listed.
    """
    recipes = _read_recipes(path)
    if name not in recipes:
        raise PretrainingError(
            f"{path}: no recipe {name!r}; it has {sorted(recipes)}. Add it there or pick one."
        )
    try:
        return PretrainingRecipe.model_validate({**recipes[name], **changes})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}, found {e['input']!r}"
            for e in error.errors()
        )
        raise PretrainingError(f"{path}: {problems}") from error


def _read_recipes(path: Path) -> dict[str, dict[str, Any]]:
    try:
        recipes = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise PretrainingError(f"{path}: cannot be read: {error.strerror}; name a file of recipes") from error
    except yaml.YAMLError as error:
        raise PretrainingError(f"{path}: not YAML ({error})") from error
    if not isinstance(recipes, dict) or not all(isinstance(recipe, dict) for recipe in recipes.values()):
        raise PretrainingError(f"{path}: expected a mapping from a name to a recipe, itself a mapping")
    return recipes
