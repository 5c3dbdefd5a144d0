"""Reading a corpus: documents from files, or from a data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.pretraining.errors import PretrainingError


def read_texts(files: Sequence[Path]) -> list[str]:
    """Documents that are not blank: the `text` of .parquet and .jsonl files, the lines of .txt files.

    Raises:
        PretrainingError: a file is missing, of another kind, or has no column or key `text`.
    """
    texts = [text for path in files for text in _read_file(path) if text.strip()]
    if not texts:
        raise PretrainingError(f"no text found in {', '.join(map(str, files)) or 'an empty list of files'}")
    return texts


def _read_file(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise PretrainingError(f"{path}: no such file; expected a .txt, .jsonl or .parquet file of texts")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    else:
        raise PretrainingError(f"{path}: expected a .txt, .jsonl or .parquet file, found {path.suffix!r}")


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path)
    if "text" not in table.schema_arrow.names:
        raise PretrainingError(f"{path}: expected a column 'text', found {table.schema_arrow.names}")
    for batch in table.iter_batches(columns=["text"]):
        yield from (text for text in batch.column(0).to_pylist() if text is not None)


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise PretrainingError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise PretrainingError(
                    f"{path}, line {number}: expected an object with a string 'text', found {line!r}"
                )
            yield row["text"]


def read_hub_texts(dataset: str, documents: int, split: str = "train") -> list[str]:
    """The first `documents` texts of a hub data set with a `text` column, streamed."""
    from datasets import load_dataset

    rows = load_dataset(dataset, split=split, streaming=True)
    if rows.column_names is not None and "text" not in rows.column_names:
        raise PretrainingError(f"{dataset} ({split}): expected a column 'text', found {rows.column_names}")
    return [row["text"] for row in rows.take(documents) if row["text"].strip()]
