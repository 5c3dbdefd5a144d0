"""The fingerprint of a tokenizer: every file that decides tokens counts, and nothing else does.

The oracle of the files' names is the source of transformers.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers

from kdcache.checkpoints import fingerprints
from kdcache.checkpoints.find import SETTINGS_FILES
from kdcache.errors import ModelError

OTHER = {
    "chat_template.jinja",
    "chat_template.json",
}  # how a chat is written; kdcache gives a model plain texts


def named_by_transformers() -> Iterator[str]:
    """The values of every `VOCAB_FILES_NAMES` in transformers' tokenizers, where they are written as texts."""
    root = Path(transformers.__file__).parent
    for file in sorted(root.glob("models/*/tokenization_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and "VOCAB_FILES_NAMES" in map(ast.unparse, node.targets):
                assert isinstance(node.value, ast.Dict)
                yield from (str(item.value) for item in node.value.values if isinstance(item, ast.Constant))


def test_the_vocabularies_of_transformers_are_covered() -> None:
    names = set(named_by_transformers())
    assert {"vocab.txt", "spiece.model", "word_shape.json", "source.spm"} <= names
    covered = {*fingerprints.TOKENIZER_FILES, *fingerprints.BESIDE_VOCABULARY}
    assert names - OTHER <= covered


def test_the_hub_is_asked_for_all_of_them() -> None:
    names = [*fingerprints.TOKENIZER_FILES, *fingerprints.BESIDE_VOCABULARY]
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in SETTINGS_FILES)] == []


def test_a_tokenizer_without_them_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Results name tokenizers by this value, so it is computed here by hand."""
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\nword\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "name_or_path": "/home/me"}')
    (tmp_path / "config.json").write_text("{}")
    content = {
        "tokenizer_config.json": {"do_lower_case": True},
        "vocab.txt": hashlib.sha256(b"[UNK]\nword\n").hexdigest(),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert fingerprints.of_tokenizer(tmp_path) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "name", [*fingerprints.BESIDE_VOCABULARY, "source.spm", "tekken.json", "tokenizer.4.0.0.json"]
)
def test_each_file_counts_by_its_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "vocab.txt").write_text("word")
    seen = {fingerprints.of_tokenizer(tmp_path)}
    for content in ("{}", "{} "):
        (tmp_path / name).write_text(content)
        seen.add(fingerprints.of_tokenizer(tmp_path))
    assert len(seen) == 3


def test_what_stands_beside_a_vocabulary_is_no_tokenizer(tmp_path: Path) -> None:
    for name in fingerprints.BESIDE_VOCABULARY:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="no tokenizer or preprocessor file"):
        fingerprints.of_tokenizer(tmp_path)
