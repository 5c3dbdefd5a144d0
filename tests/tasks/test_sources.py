"""Files and hub data sets: what each delivers, and what each failure says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import TaskError
from kdcache.study import Task
from kdcache.tasks.rows import Loaded
from kdcache.tasks.sources import load_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = {"text": ["good film", "bad film", "fine, really"], "label": [1, 0, 1]}


def task(train: Any, validation: Any, **changes: Any) -> Task:
    files = {
        "train": [str(path) for path in train] if isinstance(train, list) else str(train),
        "validation": str(validation),
    }
    given = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate({**given, **changes})


def parquet(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(loaded: Loaded, split: str = "train") -> dict[str, list[Any]]:
    rows = loaded.splits[split]
    table = pa.concat_tables(rows.batches())
    return {**table.to_pydict(), "label": rows.label.to_pylist()}


def test_parquet_with_class_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ROWS, names=["neg", "pos"])
    loaded = load_source(task(path, path))
    assert read(loaded) == ROWS
    assert loaded.splits["train"].names == ["neg", "pos"]
    recorded = loaded.resolved["files"]["train"][0]
    assert recorded["file"] == path.as_posix()
    assert len(recorded["sha256"]) == 64


def test_csv_keeps_texts_as_they_are(tmp_path: Path) -> None:
    text = '\ufefftext,label\n"a, ""b""\nc",x\n2020-01-01,y\n007,x\nNA,y\n'
    path = write(tmp_path / "a.csv", text)
    loaded = load_source(task(path, path))
    assert read(loaded) == {"text": ['a, "b"\nc', "2020-01-01", "007", "NA"], "label": ["x", "y", "x", "y"]}


def test_json_lines(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": 0, "more": [1]}', "", '{"label": 1, "text": "é"}']
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert read(load_source(task(path, path))) == {"text": ["a", "é"], "label": [0, 1]}


def test_several_files_make_one_split_in_order(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", {"text": ["a"], "label": pa.array([0], pa.int32())}, ["x", "y"])
    second = parquet(tmp_path / "b.parquet", {"label": [1], "text": ["b"], "more": [0]}, ["x", "y"])
    third = write(tmp_path / "c.csv", "text,label\nc,1\n")
    loaded = load_source(task([first, second, third], first))
    assert read(loaded) == {"text": ["a", "b", "c"], "label": [0, 1, 1]}
    assert loaded.splits["train"].names == ["x", "y"]
    assert [item["file"] for item in loaded.resolved["files"]["train"]] == [
        path.as_posix() for path in (first, second, third)
    ]


def test_large_splits_come_in_batches(tmp_path: Path) -> None:
    columns = {"text": [str(row) for row in range(2500)], "label": [0, 1] * 1250}
    path = parquet(tmp_path / "a.parquet", columns)
    sizes = [batch.num_rows for batch in load_source(task(path, path)).splits["train"].batches()]
    assert sizes == [1024, 1024, 452]


def refusal(message: str, *args: Any, **changes: Any) -> None:
    declared = task(*args, **changes)
    with pytest.raises(TaskError, match=message):
        read(load_source(declared))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    refusal(r"validation: .*no\.parquet: the file does not exist", good, tmp_path / "no.parquet")
    refusal("train: .*is a folder; list the files", tmp_path, good)
    refusal(r"expected a file named \.parquet, \.csv, .*found '?\.xls", write(tmp_path / "a.xls", "x"), good)


@pytest.mark.parametrize("name", ["b.parquet", "b.csv", "b.jsonl"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    refusal(rf"train: .*{name}: the file is empty", write(tmp_path / name, ""), good)


def test_files_without_rows(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    none = {"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}
    refusal("there are no rows", parquet(tmp_path / "b.parquet", none), good)
    refusal("there are no rows", write(tmp_path / "b.csv", "text,label\n"), good)
    refusal("there are no rows", write(tmp_path / "b.jsonl", "\n\n"), good)


@pytest.mark.parametrize("name", ["b.parquet", "b.csv", "b.jsonl"])
def test_a_missing_column_lists_those_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "b.parquet":
        parquet(path, {"sentence": ["a"], "label": [0]})
    else:
        write(path, "sentence,label\na,0\n" if name == "b.csv" else '{"sentence": "a", "label": 0}')
    refusal("train: .*no column 'text'; there are: sentence, label", path, path)
    refusal("no column 'topic'; there are: sentence, label", path, path, text=["sentence"], label="topic")


def test_a_column_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,text,label\na,b,0\n")
    refusal("2 columns are named 'text'", path, path)


def test_damaged_files(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    whole = good.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    refusal(r"cut\.parquet: cannot be read", tmp_path / "cut.parquet", good)
    refusal(r"b\.csv: cannot be read: .*Expected 2", write(tmp_path / "b.csv", "text,label\na,0,9\n"), good)
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,0\n")
    refusal(r"latin\.csv: cannot be read: .*UTF8", tmp_path / "latin.csv", good)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9", "label": 0}')
    refusal(r"latin\.jsonl: cannot be read: .*utf-8", tmp_path / "latin.jsonl", good)
    refusal(r"b\.jsonl, line 2: is not JSON", write(tmp_path / "b.jsonl", '{"text": "a"}\n{oops\n'), good)
    refusal("line 1: expected one JSON object", write(tmp_path / "b.json", '[{"text": "a"}]'), good)
    mixed = '{"text": "a", "label": 0}\n{"text": "b", "label": "one"}'
    refusal("column 'label' mixes types", write(tmp_path / "c.jsonl", mixed), good)


def test_a_damaged_page_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"text": [f"text {row}" for row in range(100)], "label": [0, 1] * 50}
    pq.write_table(pa.table(columns), path, write_page_checksum=True, use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = bytes(196)
    path.write_bytes(bytes(damaged))
    refusal(r"a\.parquet: cannot be read", path, path)


def test_files_that_disagree(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", ROWS, ["x", "y"])
    second = parquet(tmp_path / "b.parquet", ROWS, ["y", "x"])
    refusal("train: its files declare different class names: x, y; y, x", [first, second], first)
    third = parquet(tmp_path / "c.parquet", {"text": ["a"], "label": ["x"]})
    refusal("train: the labels of its files are of different types: int64, string", [first, third], first)


def test_damaged_metadata(tmp_path: Path) -> None:
    table = pa.table(ROWS).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "a.parquet")
    refusal("Hugging Face metadata cannot be read", tmp_path / "a.parquet", tmp_path / "a.parquet")


# The hub


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def hub_task(**changes: Any) -> Task:
    source = {"hub": "someone/things", "name": "small", "revision": COMMIT, **changes}
    given = {"source": source, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate(given)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Replace datasets.load_dataset: record its calls; return, or raise, `answer`."""
    import datasets

    calls: list[tuple[Any, ...]] = []

    def load_dataset(hub: str, name: str | None, *, revision: str, split: str) -> Any:
        calls.append((hub, name, revision, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def hub_rows() -> Any:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    return Dataset.from_dict(ROWS, features=features)


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve(monkeypatch, hub_rows())
    loaded = load_source(hub_task(splits={"validation": "test"}))
    assert calls == [
        ("someone/things", "small", COMMIT, "train"),
        ("someone/things", "small", COMMIT, "test"),
    ]
    assert read(loaded, "validation") == ROWS
    assert loaded.splits["train"].names == ["neg", "pos"]
    assert loaded.resolved["commit"] == COMMIT


def test_further_splits_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve(monkeypatch, hub_rows())
    names = {"validation": "validation_matched", "validation_mismatched": "validation_mismatched"}
    loaded = load_source(hub_task(splits=names))
    assert list(loaded.splits) == ["train", "validation", "validation_mismatched"]
    assert [call[-1] for call in calls] == ["train", "validation_matched", "validation_mismatched"]


def test_further_splits_of_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "someone/things/small"
    folder.mkdir(parents=True)
    for split, row in {"train": 0, "matched": 1, "mismatched": 2}.items():
        parquet(folder / f"{split}.parquet", {key: values[row : row + 1] for key, values in ROWS.items()})
    monkeypatch.setenv("KDCACHE_MIRROR", str(tmp_path))
    loaded = load_source(hub_task(splits={"validation": "matched", "validation_mismatched": "mismatched"}))
    assert list(loaded.splits) == ["train", "validation", "validation_mismatched"]
    assert read(loaded, "validation_mismatched") == {"text": ["fine, really"], "label": [1]}


def test_a_shuffled_hub_data_set_keeps_labels_with_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, hub_rows().select([2, 0]))
    assert read(load_source(hub_task())) == {"text": ["fine, really", "good film"], "label": [1, 1]}


def test_a_branch_is_resolved_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    class Api:
        def resolve_revision(self, name: str, repo_type: str, revision: str) -> Any:
            asked.append((name, repo_type, revision))
            return SimpleNamespace(resolved=COMMIT)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    calls = serve(monkeypatch, hub_rows())
    loaded = load_source(hub_task(revision="main"))
    assert asked == [("someone/things", "dataset", "main")]
    assert calls[0][2] == COMMIT
    assert loaded.resolved == {"hub": "someone/things", "name": "small", "revision": "main", "commit": COMMIT}


def test_another_cached_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "f" * 40
    rows = hub_rows()
    file = {"filename": f"/cache/someone___things/small/0.0.0/{other}/things-train.arrow"}
    monkeypatch.setattr(type(rows), "cache_files", [file])
    serve(monkeypatch, rows)
    with pytest.raises(TaskError, match=f"asked for commit {COMMIT}, but .* cache has only {other}"):
        load_source(hub_task())
    monkeypatch.setattr(type(rows), "cache_files", [{"filename": file["filename"].replace(other, COMMIT)}])
    assert read(load_source(hub_task())) == ROWS


def http_error(kind: Any, status: int) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(status_code=status, headers={}, request=None)
    error: Exception = getattr(errors, kind)("no", response=response)
    return error


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses it \(HTTP 401\).*hf auth login"),
        (403, r"refuses it \(HTTP 403\).*hf auth login"),
        (404, r"no such thing \(HTTP 404\); check the name and the revision"),
        (503, r"fails \(HTTP 503\); try again later, or download its files and use `files`"),
    ],
)
def test_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    serve(monkeypatch, http_error("HfHubHTTPError", status))
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


def test_the_hub_has_no_such_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.exceptions import DatasetNotFoundError

    serve(monkeypatch, DatasetNotFoundError("Dataset 'someone/things' doesn't exist"))
    message = (
        rf"hub data set someone/things \(small\) at revision {COMMIT}, split 'train': the hub has no such"
    )
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError])
def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    serve(monkeypatch, kind("Couldn't reach the hub"))
    message = r"the hub cannot be reached; check the network .*use `files`.*Couldn't reach the hub\)$"
    with pytest.raises(TaskError, match=message):
        load_source(hub_task())


def test_other_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, ValueError("Unknown split \"validation\". Should be one of ['train', 'test']."))
    with pytest.raises(
        TaskError, match=r"check its name, configuration, revision and splits .*Unknown split"
    ):
        load_source(hub_task())


def test_hub_columns_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = hub_rows()
    serve(monkeypatch, rows.rename_column("text", "sentence"))
    with pytest.raises(TaskError, match="split 'train': no column 'text'; there are: sentence, label"):
        load_source(hub_task())
    serve(monkeypatch, rows.select([]))
    with pytest.raises(TaskError, match="split 'train': there are no rows"):
        load_source(hub_task())


def test_a_local_folder_of_the_hubs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someone" / "things").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="someone/things: is a local path; use `files`"):
        load_source(hub_task())
