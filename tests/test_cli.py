"""The command line: readable answers, one message per mistake, exit code 1, no traceback."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdcache.cli import main
from kdcache.logits import Fingerprints, LogitWriter

HASHES = np.array([1, 2**64 - 1, 255], np.uint64)
LOGITS = np.array([[0.1, -2.5], [1e-8, 3.25], [7.0, 0.0]], np.float32)
STUDY = """
seeds: [0, 1]
tasks:
  a: {source: {builtin: digits}, image: image, metrics: [accuracy]}
teachers: {}
students:
  s: {checkpoint: x, init: scratch, learning_rate: 0.001, epochs: 1, batch_size: 8}
regularizers:
  base: {}
  smooth: {soft_labels: uniform, alpha: 0.1}
distillers: {}
comparison: {baseline: base, margin: {accuracy: 1.0}}
"""


@pytest.fixture
def cache(tmp_path):
    fingerprints = Fingerprints(data="dd", weights="ww", preprocessing="pp", code="cc")
    path = tmp_path / "cache"
    with LogitWriter(path, classes=2, label_names=["[no]", "yes"], fingerprints=fingerprints) as writer:
        writer.write("train", [2, 0, 1], HASHES[[2, 0, 1]], LOGITS[[2, 0, 1]])
        writer.write("validation", [0], HASHES[:1], LOGITS[:1])
        writer.finish(scores={"validation": {"accuracy": 0.75}})
    return path


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_check(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(STUDY)
    code, out, err = run(capsys, "check", params)
    assert (code, err) == (0, "")
    assert "1 tasks, 0 teachers, 1 students, 2 configurations x 2 seeds = 4 trials" in out


def test_check_prints_all_mistakes(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(STUDY.replace("epochs: 1", "epochs: 0").replace("seeds:", "sedes:"))
    code, out, err = run(capsys, "check", params)
    assert (code, out) == (1, "")
    assert "mistakes" in err
    assert "students.s.epochs" in err
    assert "sedes: unknown key" in err
    assert "Traceback" not in err


def test_info(cache, capsys):
    code, out, _ = run(capsys, "info", cache)
    assert code == 0
    for expected in ("[no], yes", "train: 3", "validation: 1", "weights: ww", "accuracy: 0.75", "float32"):
        assert expected in out


def test_head(cache, capsys):
    code, out, _ = run(capsys, "head", cache, "-n", "2", "--split", "train")
    assert code == 0
    assert "[no]" in out
    assert "0000000000000001" in out
    assert "-2.5000" in out
    assert "ffffffffffffffff" in out
    assert "00000000000000ff" not in out  # the third row
    assert "validation" not in out


@pytest.mark.parametrize(("options", "level"), [((), "full"), (("--quick",), "quick")])
def test_verify(cache, capsys, options, level):
    code, out, _ = run(capsys, "verify", cache, *options)
    assert code == 0
    assert f"whole ({level}: 2 shards, 4 rows" in out


def test_verify_says_what_is_wrong(cache, capsys):
    shard = cache / "train" / "part-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[20] ^= 255
    shard.write_bytes(data)
    code, out, err = run(capsys, "verify", cache)
    assert (code, out) == (1, "")
    assert err.startswith(f"kdcache: {shard}: is damaged")
    assert len(err.splitlines()) == 1


def test_export_csv(cache, tmp_path, capsys):
    code, out, _ = run(capsys, "export", cache, tmp_path / "out.csv")
    assert code == 0
    assert "4 rows" in out
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["split", "id", "row_hash", "logit_0", "logit_1"]
    assert rows[1] == ["train", "0", "0000000000000001", "0.1", "-2.5"]
    assert [row[:3] for row in rows[2:]] == [
        ["train", "1", "ffffffffffffffff"],
        ["train", "2", "00000000000000ff"],
        ["validation", "0", "0000000000000001"],
    ]
    values = np.array([row[3:] for row in rows[1:4]], dtype=np.float32)
    assert np.array_equal(values, LOGITS)


def test_export_jsonl(cache, tmp_path, capsys):
    run(capsys, "export", cache, tmp_path / "out.jsonl", "--split", "train")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [0, 1, 2]
    assert records[1]["row_hash"] == "f" * 16
    assert np.array_equal(np.array([record["logits"] for record in records], np.float32), LOGITS)


def test_export_parquet(cache, tmp_path, capsys):
    run(capsys, "export", cache, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["split", "id", "row_hash", "logits"]
    assert table["split"].to_pylist() == ["train"] * 3 + ["validation"]
    assert table["row_hash"].to_pylist() == [*HASHES.tolist(), 1]
    assert table["logits"].to_pylist() == [*LOGITS.tolist(), LOGITS[0].tolist()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "nowhere"), "nowhere: no such folder"),
        (("head", "CACHE", "--split", "test"), "no split 'test'"),
        (("export", "CACHE", "out.xlsx"), "expected a name ending in .csv, .jsonl, .parquet"),
        (("check", "nowhere.yaml"), "the file does not exist"),
    ],
)
def test_mistakes(cache, capsys, arguments, message):
    code, _, err = run(capsys, *(cache if argument == "CACHE" else argument for argument in arguments))
    assert code == 1
    assert message in err


def test_python_dash_m(tmp_path):
    command = [sys.executable, "-m", "kdcache", "check", str(tmp_path / "none.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr
