"""What a study file names: each thing that would fail later is an error now, with its path in the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.cli.named import find_mistakes
from kdcache.errors import TaskError
from kdcache.study import Task, load_study
from kdcache.tasks import image_files
from kdcache.tasks.prepare import check_source
from tests.tasks.test_images import png
from tests.tiny_models import TEXTS, save_checkpoint

STUDY: dict[str, Any] = {
    "seeds": [0],
    "tasks": {
        "mine": {
            "source": {"files": {"train": "rows.csv", "validation": "rows.csv"}},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 8,
        }
    },
    "teachers": {},
    "students": {"s": {"checkpoint": "bert", "learning_rate": 0.001, "epochs": 1, "batch_size": 8}},
    "regularizers": {"base": {}},
    "distillers": {},
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture
def project(tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [f'"{text}",{"xy"[row % 2]}' for row, text in enumerate(TEXTS)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "bert").symlink_to(bert)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDCACHE_MIRROR", raising=False)
    return tmp_path


def looked(**changes: Any) -> tuple[list[str], list[str]]:
    """The mistakes of a study with these changes (`students__s__layers=9`), and what was not looked at."""
    study = yaml.safe_load(yaml.safe_dump(STUDY))
    for path, value in changes.items():
        *above, last = path.split("__")
        part = study
        for key in above:
            part = part[key]
        part[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(study))
    return find_mistakes(load_study("params.yaml"))


def test_what_is_right(project: Path) -> None:
    assert looked() == ([], [])
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks__mine__source": {"files": {"train": "rows.csv", "validation": "no.csv"}}},
         "tasks.mine: validation: no.csv: the file does not exist (paths count from the working directory)"),
        ({"tasks__mine__source": {"saved": "bert"}}, "tasks.mine: bert: holds no dataset_dict.json"),
        ({"tasks__mine__text": ["sentence"]},
         "tasks.mine: train: rows.csv: no column 'sentence'; there are: text, label"),
        ({"tasks__mine__max_length": 2**20},
         "students.s.checkpoint: bert: the model has positions for 32 tokens, a task of it has max_length: 1048576; "),
        ({"tasks__mine__train_size": 100}, "tasks.mine: train_size: 100"),
        ({"tasks__mine__positive": "z"}, "tasks.mine: positive: z is to be one of two classes; there are x, y"),
        ({"students__s__checkpoint": "nowhere"}, "students.s.checkpoint: checkpoint 'nowhere': no such folder"),
        ({"students__s__checkpoint": "."}, "students.s.checkpoint: .: no config.json"),
        ({"students__s__layers": 99}, "students.s.checkpoint: bert: layers: 99 asked for, but the checkpoint has "),
        ({"regularizers__own": {"function": "no.such:loss"}},
         "regularizers.own.function: no.such:loss: cannot import no.such: ModuleNotFoundError"),
        ({"regularizers__own": {"function": "mine:other"}},
         "regularizers.own.function: mine:other: the module mine has no"),
        ({"regularizers__own": {"function": "mine:few"}},
         "regularizers.own.function: mine:few: must take three arguments"),
    ],
)  # fmt: skip
def test_one_mistake(project: Path, changes: dict[str, Any], message: str) -> None:
    (project / "mine.py").write_text("def few(logits):\n    return logits.sum()\n")
    mistakes, unseen = looked(**changes)
    assert [mistake[: len(message)] for mistake in mistakes] == [message]
    assert unseen == []


@pytest.mark.parametrize("group", ["teachers", "students"])
def test_class_weights_are_as_many_as_classes(project: Path, group: str) -> None:
    model = {"checkpoint": "bert", "init": "scratch", "learning_rate": 0.001, "epochs": 1, "batch_size": 2}
    assert looked(**{group: {"s": {**model, "class_weights": [1, 5]}, "s2": model}})[0] == []
    assert looked(**{group: {"s": {**model, "class_weights": [1, 5, 2]}, "s2": model}})[0] == [
        f"{group}.s.class_weights: expected one for each of the 2 classes of task 'mine', found 3"
    ]


def test_every_mistake_at_once(project: Path) -> None:
    (project / "rows.csv").write_text("text,label\na,x\n,y\n")
    mistakes, _ = looked(students__s__checkpoint="nowhere")
    assert [mistake.partition(":")[0] for mistake in mistakes] == ["tasks.mine", "students.s.checkpoint"]
    assert "text column 'text' is empty in 1 row (row 1)" in mistakes[0]


def test_a_model_without_what_reads_the_rows(project: Path) -> None:
    """A BERT for images, and a checkpoint without a tokenizer for texts."""
    for split in ("train", "validation"):
        for name in ("x", "y"):
            (project / "pictures" / split / name).mkdir(parents=True)
            (project / "pictures" / split / name / "1.png").write_bytes(png([[1]]))
    bare = project / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((project / "bert" / "config.json").read_bytes())
    pictures = {"source": {"folder": "pictures"}, "image": "image", "metrics": ["accuracy"]}
    assert looked(tasks__mine=pictures)[0] == [
        "students.s.checkpoint: bert: no image size (`size` in preprocessor_config.json or `image_size` in "
        "config.json); give it one, or say which tasks the model is for (`tasks: [...]`)"
    ]
    mistakes = looked(students__s__checkpoint="bare", students__s__init="scratch")[0]
    assert [mistake[:50] for mistake in mistakes] == ["students.s.checkpoint: bare: no tokenizer (tokeniz"]


PICTURES = {"source": {"folder": "pictures"}, "image": "image", "metrics": ["accuracy"]}


def vit(project: Path, name: str = "vit") -> Path:
    """A pretrained ViT, and pictures."""
    for split in ("train", "validation"):
        for label in ("x", "y"):
            (project / "pictures" / split / label).mkdir(parents=True)
            (project / "pictures" / split / label / "1.png").write_bytes(png([[1]]))
    return save_checkpoint(project / name, "vit")


@pytest.mark.parametrize("group", ["teachers", "students"])
def test_a_pretrained_model_of_images_without_its_image_processor(project: Path, group: str) -> None:
    settings = vit(project) / "preprocessor_config.json"
    model = {"checkpoint": "vit", "learning_rate": 0.001, "epochs": 1, "batch_size": 2}

    def mistakes(**changes: Any) -> list[str]:
        groups = {"students": {"s2": model}, group: {"s2": {**model, **changes}}}
        return looked(tasks__mine=PICTURES, **groups)[0]

    assert mistakes() == []
    settings.unlink()
    expected = f"{group}.s2.checkpoint: vit/preprocessor_config.json: image_mean: expected a list of numbers"
    assert expected in [mistake[: len(expected)] for mistake in mistakes()]
    if group == "students":
        assert mistakes(init="scratch") == []


def test_a_hub_cache_into_which_another_program_downloaded_a_part(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`AutoModel.from_pretrained` downloads no preprocessor_config.json, a stage does."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    (vit(project, commit) / "preprocessor_config.json").unlink()
    monkeypatch.setattr("kdcache.checkpoints.find._kept", lambda name, revision: project / commit)
    changes = {"students__s__revision": "main", "students__s__checkpoint": "some/vit"}
    assert looked(tasks__mine=PICTURES, **changes) == ([], ["students.s.checkpoint"])


def test_lora_where_the_class_is_read_through_a_pooler_that_is_missing(project: Path) -> None:
    save_checkpoint(project / "masked", "bert", kind="ForMaskedLM")
    lora = {"students__s__lora": {"rank": 2, "alpha": 2}}
    assert looked(**lora) == ([], [])
    assert looked(students__s__checkpoint="masked") == ([], [])
    mistakes, _ = looked(students__s__checkpoint="masked", **lora)
    assert [mistake[:70] for mistake in mistakes] == [
        "students.s.checkpoint: masked: lora: expected weights of the pooler, t"
    ]


def test_a_pipe_in_a_checkpoint(project: Path, bert: Path) -> None:
    (project / "bert").unlink()
    shutil.copytree(bert, project / "bert")
    (project / "bert" / "model.safetensors").unlink()
    os.mkfifo(project / "bert" / "model.safetensors")
    mistakes, _ = looked()
    assert len(mistakes) == 1
    assert mistakes[0].startswith(
        "students.s.checkpoint: bert/model.safetensors: is a pipe, socket or device; put a regular file there"
    )


def test_f1_chooses_settings_of_two_classes(project: Path) -> None:
    tuning = {"seeds": [9], "budget": 1, "metric": "f1", "space": {"base": {"epochs": [1]}}}
    assert looked(tuning=tuning)[0] == []
    rows = (project / "rows.csv").read_text().replace(",y", ",z", 1)
    (project / "rows.csv").write_text(rows)
    assert looked(tuning=tuning)[0] == [
        "tuning.metric: f1 is for two classes, task 'mine' has 3; use macro_f1"
    ]


def test_images_past_the_first_are_not_decoded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "TOGETHER", 1)  # bytes in one batch
    names = [f"{row}.png" for row in range(4)]
    for name in names:
        (project / name).write_bytes(png([[1]]))
    (project / "3.png").write_bytes(b"damaged")
    (project / "rows.csv").write_text("image,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    source = STUDY["tasks"]["mine"]["source"]
    task = Task.model_validate({"source": source, "image": "image", "metrics": ["accuracy"]})
    check_source(task, most_images=3)
    with pytest.raises(TaskError, match=r"row 3: 3\.png: cannot be decoded"):
        check_source(task, most_images=4)


def test_only_the_hub_has_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = {"hub": "nyu-mll/glue", "name": "rte", "revision": "main"}
    changes = {"students__s__revision": "main", "students__s__checkpoint": "nobody/such-model-for-a-test"}
    assert looked(tasks__mine__source=hub, **changes) == ([], ["tasks.mine", "students.s.checkpoint"])


def test_torch_is_not_imported_and_mistakes_are_printed(project: Path) -> None:
    looked(tasks__mine__text=["sentence"])
    code = (
        "import sys\nfrom kdcache.cli import main\n"
        "try:\n    main(['check'])\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (1, "False")
    assert done.stderr.splitlines() == [
        "kdcache: params.yaml: 1 mistake",
        "  tasks.mine: train: rows.csv: no column 'sentence'; there are: text, label",
    ]
