"""Reading a corpus: documents from files, or from a data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.pretraining.errors import PretrainingError


def read_texts(files: Sequence[Path]) -> list[str]:
    """Documents that are not blank: the `text` of .parquet and .jsonl files, the lines of .txt files.

    Raises:
        PretrainingError: a file is missing, of another kind, broken, not in UTF-8, or has no strings in a column or
            key `text`.
    """
    texts = [text for path in files for text in _read_file(path) if text.strip()]
    if not texts:
        raise PretrainingError(f"no text found in {', '.join(map(str, files)) or 'an empty list of files'}")
    return texts


def _read_file(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise PretrainingError(f"{path}: no such file; expected a .txt, .jsonl or .parquet file of texts")
    if path.suffix not in READERS:
        raise PretrainingError(f"{path}: expected a .txt, .jsonl or .parquet file, found {path.suffix!r}")
    try:
        yield from READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise PretrainingError(f"{path}: not in UTF-8 ({error}); save it as UTF-8") from error


def _read_lines(path: Path) -> Iterator[str]:
    yield from path.read_text(encoding="utf-8").splitlines()


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        if "text" not in table.schema_arrow.names:
            raise PretrainingError(f"{path}: expected a column 'text', found {table.schema_arrow.names}")
        for batch in table.iter_batches(columns=["text"]):
            yield from _strings(batch.column(0).to_pylist(), str(path))
    except (pa.ArrowException, OSError) as error:
        raise PretrainingError(
            f"{path}: not a readable Parquet file ({error}); fetch or write it again"
        ) from error


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


READERS = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_lines}


def _strings(texts: Iterable[object], source: str) -> Iterator[str]:
    """The texts of a column, without those that are missing."""
    for text in texts:
        if text is None:
            continue
        if not isinstance(text, str):
            raise PretrainingError(f"{source}: expected strings in the column 'text', found {text!r:.80}")
        yield text


def read_hub_texts(dataset: str, documents: int, split: str = "train") -> list[str]:
    """The first `documents` texts of a hub data set with a `text` column, streamed."""
    from datasets import load_dataset

    rows = load_dataset(dataset, split=split, streaming=True)
    if rows.column_names is not None and "text" not in rows.column_names:
        raise PretrainingError(f"{dataset} ({split}): expected a column 'text', found {rows.column_names}")
    column = (row["text"] for row in rows.take(documents))
    return [text for text in _strings(column, f"{dataset} ({split})") if text.strip()]
