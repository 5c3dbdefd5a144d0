"""Recipes and their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.tools.pretraining.samples import recipe
from tools.pretraining import PretrainingError, load_recipe

EMBEDDED = Path(__file__).parents[3] / "data/models/pretraining.yaml"


def test_the_embedded_checkpoints_recipes_are_sound():
    names = list(yaml.safe_load(EMBEDDED.read_text()))
    assert {"bert-micro", "bert-tiny", "bert-small", "roberta-tiny", "gpt2-tiny", "gpt2-small"} <= set(names)
    for name in names:
        assert load_recipe(EMBEDDED, name, tokens=10).tokens == 10


def test_steps_cover_the_tokens():
    assert recipe("bert", tokens=129).steps == 3  # 129 tokens at 4 x 16 a step: 2 full steps and a bit


def test_mistakes_are_reported_together(tmp_path):
    path = tmp_path / "recipes.yaml"
    path.write_text(
        "small: {family: bort, layers: 0, hidden: 32, heads: 2, tokens: 1, learning_rate: 1, speed: 2}"
    )
    with pytest.raises(PretrainingError) as error:
        load_recipe(path, "small")
    assert all(
        part in str(error.value)
        for part in ("recipes.yaml", "small.family", "'bort'", "small.layers", "small.speed")
    )
    with pytest.raises(PretrainingError, match=r"no recipe 'large'; it has \['small'\]"):
        load_recipe(path, "large")


def test_sizes_must_divide():
    with pytest.raises(ValueError, match="hidden 32, heads 3"):
        recipe("bert", heads=3)
    with pytest.raises(ValueError, match="sequence_length 20, short_length 8"):
        recipe("bert", sequence_length=20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "expected a mapping"),
        ("a: 1", "expected a mapping"),
        ("{", "not YAML"),
        (None, "cannot be read"),
    ],
)
def test_files_of_anything_else_are_refused(content, message, tmp_path):
    path = tmp_path / "recipes.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PretrainingError, match=rf"recipes.yaml: {message}"):
        load_recipe(path, "a")


def test_only_bert_distils():
    phase = {"teacher": "t", "pieces": 1, "epochs": 1, "learning_rate": 1e-3}
    assert recipe("bert", distillation=phase).distillation.batch_size == 128
    with pytest.raises(ValueError, match=r"family: bert, .* found gpt2"):
        recipe("gpt2", distillation=phase)
