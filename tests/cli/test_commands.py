"""The command line: readable answers, one message per mistake, exit code 1, no traceback."""

import csv
import json
import re
import subprocess
import sys
from math import log

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

import kdcache
from kdcache.cli import main
from kdcache.cli.app import app
from kdcache.logits import Augmentation, Fingerprints, LogitCache, LogitWriter
from kdcache.study import Task, Teacher
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from tests.tiny_models import TEXTS, save_checkpoint

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


FINGERPRINTS = Fingerprints(data="dd", weights="ww", preprocessing="pp", code="cc")


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "cache"
    with LogitWriter(path, classes=2, label_names=["[no]", "yes"], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [2, 0, 1], HASHES[[2, 0, 1]], LOGITS[[2, 0, 1]])
        writer.write("validation", [0], HASHES[:1], LOGITS[:1])
        writer.finish(scores={"validation": {"accuracy": 0.75}})
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A prepared task of six texts, a teacher that was fine-tuned on it, and the teacher's logit cache."""
    from tests.doing import cache_logits, teach

    root = tmp_path_factory.mktemp("world")
    pq.write_table(pa.table({"text": TEXTS, "label": ["[no]", "yes"] * 3}), root / "rows.parquet")
    files = dict.fromkeys(("train", "validation"), str(root / "rows.parquet"))
    spec = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 12}
    prepare_task(Task.model_validate(spec), root / "task")
    save_checkpoint(root / "bert", "bert")
    recipe = {"learning_rate": 0.03, "epochs": 1, "batch_size": 2}
    teacher = Teacher(checkpoint=str(root / "bert"), **recipe)
    teach("t", root / "task", teacher, root / "teacher", "identity")
    cache_logits("t", root / "task", teacher, root / "teacher", root / "cache")
    return root


def edited(folder, path, change):
    """A cache like the one in `folder`, whose train logits went through `change`."""
    whole = LogitCache(folder)
    part, manifest = whole.split("train"), whole.manifest
    with LogitWriter(
        path, classes=2, label_names=manifest.label_names, fingerprints=manifest.fingerprints
    ) as writer:
        writer.write("train", part.ids, part.row_hashes, change(part.logits.copy()))
        writer.finish()
    return path


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def command_names(group, before=()):
    """Every command, those of groups too: ("compare-runs",), ("cache", "info")."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from command_names(command, (*before, name))
        else:
            yield (*before, name)


@pytest.mark.parametrize("name", list(command_names(typer.main.get_command(app))), ids=" ".join)
def test_every_command_explains_itself(capsys, name):
    code, out, err = run(capsys, *name, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: kdcache {' '.join(name)} " in out


def run_json(capsys, *arguments):
    """The one JSON object that a command prints."""
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"kdcache {kdcache.__version__}\n")


def test_half_of_one_s_own_data_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["init", str(tmp_path / "p"), "--text", "text"])
    assert stopped.value.code == 1
    assert "go together" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_texts_and_images_of_one_s_own_are_two_projects(tmp_path, capsys):
    texts = ("--data", "a.csv", "b.csv", "--text", "text", "--label", "label")
    code, out, err = run(capsys, "init", tmp_path / "p", *texts, "--images", tmp_path)
    assert (code, out) == (1, "")
    assert "give --data or --images, not both" in err
    code, out, err = run(capsys, "init", tmp_path / "p", "--images", tmp_path / "none")
    assert (code, out) == (1, "")
    assert "none: the folder does not exist" in err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "data", [("--data", "a.csv", "b.csv", "--text", "text", "--label", "label"), ("--images", "i")]
)
def test_a_template_beside_data_of_one_s_own_is_refused(tmp_path, capsys, data):
    code, out, err = run(capsys, "init", tmp_path / "p", "--template", "paper", *data)
    assert (code, out) == (1, "")
    assert "--template is for a study without data of your own; leave it out" in err
    assert not (tmp_path / "p").exists()


def test_a_place_where_nothing_can_be_written_is_named(capsys):
    code, out, err = run(capsys, "init", "/proc/no/place")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"kdcache: /proc/no(/place)?: No such file or directory\n", err)


@pytest.mark.parametrize("command", ["check", "plan", "table", "settle"])
def test_a_folder_without_a_project(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, command)
    assert (code, out) == (1, "")
    assert (
        "the file does not exist; go to the folder of your project, or begin one with `kdcache init DIR`"
        in err
    )
    assert list(tmp_path.iterdir()) == []


def test_check(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(STUDY)
    code, out, err = run(capsys, "check", params, "--no-files")
    assert (code, err) == (0, "")
    assert "1 tasks, 0 teachers, 1 students, 2 configurations x 2 seeds = 4 trials" in out


def test_check_for_scripts(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(STUDY)
    counts = {
        "tasks": 1,
        "teachers": 0,
        "students": 1,
        "configurations": 2,
        "seeds": 2,
        "trials": 4,
        "looks": [2],
        "not_looked_at": [],
    }
    assert run_json(capsys, "check", params, "--no-files") == {"path": str(params), **counts}


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


def test_info_for_scripts(cache, capsys):
    assert run_json(capsys, "info", cache) == LogitCache(cache).info()


@pytest.fixture
def views(tmp_path):
    """Two views of three rows; the second view's logits are the first one's, the other way round."""
    options = {"classes": 2, "label_names": ["[no]", "yes"], "fingerprints": FINGERPRINTS}
    augmentation = Augmentation(views=2, seed=5, description="crop [and] flip")
    with LogitWriter(tmp_path / "views", **options, augmentation=augmentation) as writer:
        writer.write("train", [0, 1, 2], HASHES, np.stack([LOGITS, LOGITS[:, ::-1]], axis=1))
        writer.finish()
    return tmp_path / "views"


def test_views_are_shown(views, capsys):
    _, out, _ = run(capsys, "info", views)
    assert re.search(r"augmentation.*views: 2", out)
    assert "description: crop [and] flip" in out
    _, out, _ = run(capsys, "head", views, "-n", "1")
    assert [re.findall(r"-?\d\.\d{4}", line) for line in out.splitlines() if ".1000" in line] == [
        ["0.1000", "-2.5000"],
        ["-2.5000", "0.1000"],
    ]
    found = run_json(capsys, "head", views, "-n", "2")["splits"]["train"]
    assert [(row["id"], row["view"]) for row in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found[3]["logits"] == LOGITS[1, ::-1].tolist()
    assert run_json(capsys, "verify", views)["rows"] == 3


def test_what_takes_no_views_says_so(views, cache, tmp_path, capsys):
    for arguments in (
        ["stats", views],
        ["diff", cache, views],
        ["diff", views, cache],
        ["ensemble", tmp_path / "out", cache, views],
        ["export", views, tmp_path / "out.csv"],
        ["export", views, f"{tmp_path}/out/"],
        ["verify", views, "--against", tmp_path, "--task", tmp_path],
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (1, "")
        assert f"{views}: " in err
        assert "this cache has 2 augmented views of each" in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.csv").exists()


def test_head(cache, capsys):
    code, out, _ = run(capsys, "head", cache, "-n", "2", "--split", "train")
    assert code == 0
    assert "[no]" in out
    assert "0000000000000001" in out
    assert "-2.5000" in out
    assert "ffffffffffffffff" in out
    assert "00000000000000ff" not in out  # the third row
    assert "validation" not in out


def test_head_for_scripts(cache, capsys):
    found = run_json(capsys, "head", cache, "-n", "1")
    assert found["path"] == str(cache)
    assert list(found["splits"]) == ["train", "validation"]
    (row,) = found["splits"]["train"]
    assert (row["id"], row["row_hash"]) == (0, "0000000000000001")
    assert row["logits"] == pytest.approx([0.1, -2.5])
    assert row["probabilities"] == pytest.approx([1 / (1 + np.exp(-2.6)), 1 / (1 + np.exp(2.6))])


def test_head_shows_the_top_probabilities(cache, capsys):
    _, out, _ = run(capsys, "head", cache, "--split", "validation")
    assert "[no] 93.1%, yes 6.9%" in out


def test_head_with_the_task(world, capsys):
    _, out, _ = run(capsys, "head", world / "cache", "--task", world / "task", "-n", "2", "--split", "train")
    assert re.search(r"1 .* the dog sat on the red mat .* yes ", out)
    assert re.search(r"(yes|\[no\]) [\d.]+%, (yes|\[no\]) [\d.]+%", out)
    assert TEXTS[2] not in out
    row = run_json(capsys, "head", world / "cache", "--task", world / "task", "--split", "train")["splits"][
        "train"
    ][0]
    assert list(row) == ["id", "row_hash", "text", "label", "logits", "probabilities"]
    assert (row["text"], row["label"]) == ("a cat", "[no]")


def test_head_of_images(tmp_path, capsys):
    spec = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    card = prepare_task(Task.model_validate(spec), tmp_path / "digits")
    hashes = PreparedTask(tmp_path / "digits").rows("train")["row_hash"].to_numpy()[:2]
    with LogitWriter(
        tmp_path / "c", classes=10, label_names=card.label_names, fingerprints=FINGERPRINTS
    ) as writer:
        writer.write("train", [0, 1], hashes, np.zeros((2, 10), np.float32))
        writer.finish()
    _, out, _ = run(capsys, "head", tmp_path / "c", "--task", tmp_path / "digits")
    assert "8 x 8 L" in out
    run(capsys, "export", tmp_path / "c", f"{tmp_path}/out/", "--task", tmp_path / "digits")
    from datasets import load_from_disk

    rows = load_from_disk(str(tmp_path / "out"))["train"]
    assert rows[0]["image"].size == (8, 8)


def test_data_do_not_steer_the_terminal(tmp_path, capsys):
    names = ["\x1b[31m[bold]red", "yes"]
    with LogitWriter(tmp_path / "c", classes=2, label_names=names, fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0], HASHES[:1], LOGITS[:1])
        writer.finish()
    for command in ("info", "head", "stats"):
        _, out, _ = run(capsys, command, tmp_path / "c")
        assert "\x1b" not in out
        assert "[31m[bold]red" in out


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


def test_verify_for_scripts(cache, capsys):
    size = sum(path.stat().st_size for path in cache.glob("*/*.parquet"))
    expected = {"path": str(cache), "level": "full", "shards": 2, "rows": 4, "bytes": size}
    assert run_json(capsys, "verify", cache) == expected


def against(world, *options):
    return ("--against", world / "teacher", "--task", world / "task", *options)


def test_verify_against_the_teacher(world, capsys):
    code, out, _ = run(capsys, "verify", world / "cache", *against(world))
    assert code == 0
    assert "whole (full: 2 shards, 12 rows" in out
    assert "gives the same logits on 12 rows" in out
    found = run_json(capsys, "verify", world / "cache", *against(world, "--rows", 4, "--split", "train"))[
        "against"
    ]
    assert (found["rows"], found["other_fingerprints"]) == (4, [])
    assert found["difference"] < 1e-5


def test_verify_against_another_teacher(world, tmp_path, capsys):
    def change(logits):
        logits[3, 1] += 0.1 * (1 + abs(logits[3, 1]))
        return logits

    wrong = edited(world / "cache", tmp_path / "wrong", change)
    code, out, err = run(capsys, "verify", wrong, *against(world))
    assert (code, out) == (1, "")
    assert "split 'train', row id 3: the teacher gives other logits than the cache" in err
    assert "1 of 6 rows differ" in err
    assert len(err.splitlines()) == 1
    code, _, _ = run(capsys, "verify", wrong, *against(world, "--tolerance", 0.2))
    assert code == 0


def test_verify_draws_rows_from_the_seed(world, tmp_path, capsys):
    wrong = edited(world / "cache", tmp_path / "wrong", lambda logits: logits + np.float32(1))
    named = []
    for seed in (0, 0, 1, 2):
        _, _, err = run(capsys, "verify", wrong, *against(world, "--rows", 1, "--seed", seed))
        assert "1 of 1 rows differ" in err
        named.append(re.search(r"row id (\d)", err).group(1))
    assert named[0] == named[1]
    assert len(set(named)) > 1


def test_verify_against_names_other_fingerprints(world, tmp_path, capsys):
    whole = LogitCache(world / "cache")
    part, prints = whole.split("train"), whole.manifest.fingerprints.model_copy(update={"weights": "others"})
    with LogitWriter(tmp_path / "c", classes=2, label_names=["[no]", "yes"], fingerprints=prints) as writer:
        writer.write("train", part.ids, part.row_hashes, part.logits + np.float32(1))
        writer.finish()
    _, _, err = run(capsys, "verify", tmp_path / "c", *against(world))
    assert "other fingerprints: weights" in err


def test_stats(cache, capsys):
    _, out, _ = run(capsys, "stats", cache)
    assert re.search(r"entropy .nats., mean", out)
    assert re.search(r"\[no\] *\S *2 *\S *1", out)  # predicted in train and in validation
    assert "agreement" not in out


def test_stats_for_scripts(world, capsys):
    found = run_json(capsys, "stats", world / "cache", "--task", world / "task")
    cache = LogitCache(world / "cache")
    assert list(found["splits"]) == ["train", "validation"]
    for split, values in found["splits"].items():
        scores = cache.manifest.scores[split]
        assert {
            name: values["labels"][name] for name in ("accuracy", "nll", "brier", "ece")
        } == pytest.approx({name: scores[name] for name in ("accuracy", "nll", "brier", "ece")})
        assert values["rows"] == 6
        assert sum(values["predictions"].values()) == 6


def test_stats_with_the_task(world, capsys):
    _, out, _ = run(capsys, "stats", world / "cache", "--task", world / "task")
    for expected in ("accuracy", "ece", "train: agreement", "validation: predicted"):
        assert expected in out


def test_stats_of_another_task(cache, world, capsys):
    code, _, err = run(capsys, "stats", cache, "--task", world / "task")
    assert code == 1
    assert "is another row than in" in err


def test_diff(cache, tmp_path, capsys):
    other = edited(
        cache, tmp_path / "other", lambda logits: np.array([[0, log(3)], [0, 0], [7, 0]], np.float32)
    )
    found = run_json(capsys, "diff", cache, other)
    assert (found["a"], found["b"], list(found["splits"])) == (str(cache), str(other), ["train"])
    train = found["splits"]["train"]
    assert train["rows"] == 3
    assert train["disagreement"] == pytest.approx(2 / 3)
    _, out, _ = run(capsys, "diff", cache, other)
    assert "0.6667" in out
    assert "KL(a||b) (nats), mean" in out
    assert "where they differ most" in out


def test_diff_without_a_common_split(cache, tmp_path, capsys):
    with LogitWriter(
        tmp_path / "c", classes=2, label_names=["[no]", "yes"], fingerprints=FINGERPRINTS
    ) as writer:
        writer.write("test", [0], HASHES[:1], LOGITS[:1])
        writer.finish()
    code, _, err = run(capsys, "diff", cache, tmp_path / "c")
    assert code == 1
    assert "no split in common" in err


def test_ensemble(cache, tmp_path, capsys):
    other = edited(cache, tmp_path / "b", lambda logits: logits + 2)
    first = edited(cache, tmp_path / "a", lambda logits: logits)
    code, out, _ = run(capsys, "ensemble", tmp_path / "mean", first, other)
    assert (code, out) == (0, f"{tmp_path / 'mean'}: the mean logits of 2 caches, 3 rows\n")
    assert np.allclose(LogitCache(tmp_path / "mean").split("train").logits, LOGITS + 1)
    weights = ("--weight", 3, "--weight", 1, "--overwrite")
    found = run_json(capsys, "ensemble", tmp_path / "mean", first, other, *weights)
    assert found["rows"] == {"train": 3}
    assert np.allclose(LogitCache(tmp_path / "mean").split("train").logits, LOGITS + 0.5)
    run(capsys, "ensemble", tmp_path / "p", first, other, "--of", "probabilities")
    probabilities = np.exp(LogitCache(tmp_path / "p").split("train").logits)
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_ensemble_keeps_what_is_there(cache, tmp_path, capsys):
    """Who forgets OUT would overwrite the first cache."""
    others = [edited(cache, tmp_path / name, lambda logits: logits) for name in "ab"]
    before = (cache / "manifest.json").read_bytes()
    code, _, err = run(capsys, "ensemble", cache, *others)
    assert code == 1
    assert "is there already" in err
    assert (cache / "manifest.json").read_bytes() == before


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


def test_export_for_scripts(cache, tmp_path, capsys):
    out = str(tmp_path / "out.csv")
    expected = {"path": out, "format": "csv", "splits": ["validation"], "rows": 1}
    assert run_json(capsys, "export", cache, out, "--split", "validation") == expected


def test_export_in_a_named_format(cache, tmp_path, capsys):
    run(capsys, "export", cache, tmp_path / "rows.txt", "--format", "jsonl")
    assert json.loads((tmp_path / "rows.txt").read_text().splitlines()[0])["id"] == 0


def test_export_a_data_set(cache, tmp_path, capsys):
    from datasets import load_from_disk

    code, out, err = run(capsys, "export", cache, f"{tmp_path}/deep/set/")
    assert (code, out, err) == (0, f"{tmp_path}/deep/set/: 4 rows\n", "")
    found = load_from_disk(str(tmp_path / "deep" / "set"))
    assert list(found) == ["train", "validation"]
    assert found["train"].column_names == ["id", "row_hash", "logits"]
    assert found["train"]["row_hash"][:] == HASHES.tolist()
    assert np.array_equal(np.array(found["train"]["logits"][:], np.float32), LOGITS)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]


def test_export_a_data_set_with_the_tasks_columns(world, tmp_path, capsys):
    from datasets import load_from_disk

    options = ("--task", world / "task", "--format", "dataset", "--split", "train")
    run(capsys, "export", world / "cache", tmp_path / "set", *options)
    found = load_from_disk(str(tmp_path / "set"))["train"]
    assert found["text"][:] == TEXTS
    assert found.features["label"].names == ["[no]", "yes"]
    assert found["label"][:] == [0, 1] * 3
    assert np.array_equal(
        np.array(found["logits"][:], np.float32), LogitCache(world / "cache").split("train").logits
    )


def test_a_data_set_overwrites_nothing(cache, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    code, _, err = run(capsys, "export", cache, f"{tmp_path}/mine/")
    assert code == 1
    assert "is there already" in err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "nowhere"), "nowhere: no such folder"),
        (("head", "CACHE", "--split", "test"), "no split 'test'"),
        (("export", "CACHE", "out.xlsx"), "expected a name ending in .csv, .jsonl, .parquet"),
        (("export", "CACHE", "out.csv", "--task", "x"), "only a data set gets the task's columns"),
        (("check", "nowhere.yaml"), "the file does not exist"),
        (("head", "CACHE", "--task", "nowhere"), "nowhere: no card.json"),
        (("stats", "CACHE", "--split", "test"), "no split 'test'"),
        (("diff", "CACHE", "nowhere"), "nowhere: no such folder"),
        (("ensemble", "out", "CACHE"), "two caches or more, found 1"),
        (("ensemble", "CACHE", "CACHE", "CACHE", "--overwrite"), "one of the ensemble's caches"),
        (("verify", "CACHE", "--against", "x"), "go together"),
        (("verify", "CACHE", "--task", "x"), "go together"),
    ],
)
def test_mistakes(cache, capsys, arguments, message):
    code, _, err = run(capsys, *(cache if argument == "CACHE" else argument for argument in arguments))
    assert code == 1
    assert message in err


@pytest.mark.parametrize(
    "arguments",
    [
        *(("store", "gc", "--keep", number) for number in ("inf", "nan", "-1", "1e300")),
        *(("verify", "CACHE", "--tolerance", number) for number in ("inf", "nan", "-1", "2")),
        *(("verify", "CACHE", option, "-1") for option in ("--rows", "--seed")),
        *(
            ("ensemble", "out", "CACHE", "CACHE", "--weight", number)
            for number in ("inf", "nan", "-1", "1e308")
        ),
        *(
            (command, "--jobs", number)
            for command in ("repro", "settle")
            for number in ("0", "-1", 400 * "9")
        ),
        *(("head", "CACHE", "--rows", number) for number in ("0", "-1", "inf", 5000 * "9")),
        *(("adopt", "--sample", number) for number in ("0", "inf")),
        ("adopt", "--seed", "-1"),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_a_number_that_an_option_cannot_take(cache, capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCACHE_STORE", str(tmp_path / "store"))
    code, out, err = run(capsys, *(cache if argument == "CACHE" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert f"Invalid value for '{arguments[-2]}'" in err


@pytest.mark.parametrize(
    "arguments", [("head", "CACHE", "--rows", 30 * "9"), ("store", "gc", "--keep", "1e9", "--json")]
)
def test_a_number_may_be_larger_than_what_there_is(cache, capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("KDCACHE_STORE", str(tmp_path / "store"))
    assert run(capsys, *(cache if argument == "CACHE" else argument for argument in arguments))[0] == 0


def test_verify_against_what_is_no_teacher(world, capsys):
    options = ("--against", world / "bert", "--task", world / "task")
    code, _, err = run(capsys, "verify", world / "cache", *options)
    assert code == 1
    assert "no teacher.json" in err


def test_python_dash_m(tmp_path):
    command = [sys.executable, "-m", "kdcache", "check", str(tmp_path / "none.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr
