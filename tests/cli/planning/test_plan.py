"""What a study has to run, counted by hand, and what of it is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdcache.cli.planning.estimates import Speed, describe
from kdcache.cli.planning.plan import Plan, plan_study
from kdcache.cli.planning.runs import Size
from kdcache.errors import KdcacheError, TaskError
from kdcache.logits import Cost, Fingerprints, LogitWriter
from kdcache.study import load_study
from kdcache.system.files import write_json
from kdcache.tasks.prepare import prepare_task
from kdcache.trials.plan import TeacherPlan, TrialPlan
from kdcache.trials.result import TrialResult, write_result
from stages import teach, train
from tests.tiny_models import save_checkpoint

RECIPE = {"learning_rate": 0.01, "checkpoint": "bert", "init": "scratch"}
STUDY: dict[str, Any] = {
    "seeds": [0, 1],
    "tasks": {
        name: {
            "source": {"files": {"train": "train.csv", "validation": "validation.csv"}},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 8,
        }
        for name in ("films", "plays")
    },
    "teachers": {"big": {**RECIPE, "epochs": 2, "batch_size": 4}},
    "students": {
        "small": {**RECIPE, "epochs": 3, "batch_size": 3, "teacher": "big"},
        "smaller": {**RECIPE, "epochs": 1, "batch_size": 16, "teacher": "big", "tasks": ["films"]},
    },
    "regularizers": {"smooth": {"soft_labels": "uniform", "alpha": 0.1}, "base": {}},
    "distillers": {
        "kd": {"soft_labels": "teacher", "alpha": 0.5},
        "self_kd": {"soft_labels": "self", "alpha": 0.5},
    },
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}
DATA = Path("data")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study's files, where nothing has run yet."""
    monkeypatch.chdir(tmp_path)
    write_files()
    return tmp_path


def write_files() -> None:
    """10 train rows, 4 validation rows, and a model."""
    for split, count in (("train", 10), ("validation", 4)):
        rows = [f"the dog sat number {row},{row % 2}" for row in range(count)]
        Path(f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    save_checkpoint(Path("bert"), "bert")


def planned(changes: Any = None, **options: Any) -> Plan:
    """The plan of the study, after `changes` {"students.small.epochs": 4}."""
    study = yaml.safe_load(yaml.safe_dump(STUDY))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        part = study
        for parent in parents:
            part = part[parent]
        part[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(study))
    return plan_study(load_study(), DATA, **options)


def states(plan: Plan) -> dict[str, int]:
    counts = describe(plan)
    return {
        f"{part}.{state}": count
        for part in ("teachers", "trials")
        for state, count in counts[part].items()
        if count and state != "total"
    }


# ---- counted by hand ----


def prepare_films() -> None:
    planned()
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")


def test_stages_trials_and_steps(here: Path) -> None:
    prepare_films()
    found = describe(planned({"tasks": {"films": STUDY["tasks"]["films"]}}))
    # 1 prepare, 1 teach, 1 cache, 2 students x 2 regularizers, 2 x 2 distillers, tune, compare, report
    assert found["stages"] == {
        "prepare": 1, "teach": 1, "cache": 1, "train": 4, "tune": 1, "distill": 4, "compare": 1, "report": 1,
        "total": 14, "not_applicable": 0,
    }  # fmt: skip
    assert found["teachers"]["total"] == 1
    assert found["trials"] == {"total": 16, "done": 0, "unkept": 0, "stale": 0, "unchecked": 0, "missing": 16}
    # big: 2 epochs of 3 batches of 4; small: 3 epochs of 4 batches of 3; smaller: 1 of 1; each 4 methods x 2 seeds
    assert [job["steps_each"] for job in found["jobs"]] == [[6], [12], [1]]
    assert found["steps"] == {"total": 6 + 8 * 12 + 8 * 1, "left": 110}
    # Logits of 2 classes, 16 + 2 * 4 bytes a row: 10 + 4 rows of big; each student 2 x (10 + 4) of base, 6 x 4 others
    assert found["disk_bytes"] == {"logits": 24 * (14 + 2 * (28 + 24)), "teachers": None, "students": 0}
    assert found["seconds"] == {"total": None, "left": None}
    assert found["notes"] == []


def test_pairs_that_do_not_apply_are_stages_without_trials(here: Path) -> None:
    found = describe(planned({"teachers.big.tasks": ["films"], "students.small.tasks": ["films"]}))
    # On plays nothing applies: teach, cache, and 2 students x 4 methods
    assert found["stages"]["not_applicable"] == 2 + 8
    assert found["stages"]["total"] == 2 + 2 + 2 + 1 + 8 + 8 + 2
    assert found["trials"]["total"] == 16
    assert [(job["task"], job["model"]) for job in found["jobs"]] == [
        ("films", "big"), ("films", "small"), ("films", "smaller"),
    ]  # fmt: skip


def test_hours_from_speeds(here: Path) -> None:
    prepare_films()
    plan = planned({"tasks": {"films": STUDY["tasks"]["films"]}})
    speeds = {
        ("teacher", "films", "big"): Speed(0.5, 0.01, "cpu", "calibration", parameters=1000),
        ("student", "films", "small"): Speed(0.25, 0.001, "cpu", "calibration", parameters=10),
    }
    found = describe(plan, speeds)
    # big is scored on 4 rows and cached on 14; small predicts 2 x 14 rows of base and 6 x 4 of the others
    big, small = 6 * 0.5 + 18 * 0.01, 8 * 12 * 0.25 + 52 * 0.001
    assert [job["seconds_left"] for job in found["jobs"]] == pytest.approx([big, small, None])
    assert found["seconds"] == {"total": None, "left": None}
    assert found["seconds_known"]["left"] == pytest.approx(big + small)
    assert found["disk_bytes"]["teachers"] == 4000
    both = describe(plan, {**speeds, ("student", "films", "smaller"): Speed(1.0, 0.0, "H100", "calibration")})
    assert both["seconds"]["total"] == pytest.approx(big + small + 8 * 1.0)
    assert both["devices"] == ["H100", "cpu"]


def test_rows_of_a_task_that_is_not_prepared(here: Path) -> None:
    prepare_films()
    found = describe(planned())
    assert found["rows"] == {"films": {"train": 10, "evaluated": 4}, "plays": None}
    assert found["steps"] == {"total": None, "left": None}
    assert [note for note in found["notes"] if "plays" in note] == [
        "task plays: not prepared as the study says, so its rows and steps are unknown "
        "(dvc repro prepare@plays, or --rows)"
    ]
    given = describe(planned(rows={"plays": Size(100, 50, 3)}))
    assert given["notes"] == []
    # films as above; on plays big: 2 epochs of 25 batches, small: 8 x 3 of 34
    assert given["steps"]["total"] == 110 + 50 + 8 * 102
    films, plays = 24 * (14 + 2 * 52), (16 + 3 * 4) * (150 + 2 * 150 + 6 * 50)
    assert given["disk_bytes"]["logits"] == films + plays
    with pytest.raises(TaskError, match="no task 'operas' in the study; there are: films, plays"):
        planned(rows={"operas": Size(1, 1)})
    with pytest.raises(TaskError, match="'films' is prepared, so its rows are known"):
        planned(rows={"films": Size(1, 1)})


def test_views_of_augmented_images_are_cached_too(here: Path) -> None:
    digits = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    task = {**digits, "augment": {"flip": 0.5, "views": 3}}
    found = describe(planned({"tasks": {"films": task}}, rows={"films": Size(100, 50, 10)}))
    # Of each train row 1 + 3 logits: 450 rows of big, 2 x 450 of each student's base, 6 x 50 of its other trials
    assert found["disk_bytes"]["logits"] == (16 + 10 * 4) * (450 + 2 * (900 + 300))


REST = {**STUDY["tasks"]["films"], "train_size": 6, "unlabelled": "rest"}
KD_MORE = {"soft_labels": "teacher", "alpha": 0.5, "unlabelled": "use"}


def test_who_uses_unlabelled_rows_takes_more_steps(here: Path) -> None:
    changes = {"tasks": {"films": REST}, "distillers.kd_more": KD_MORE, "students.small.batch_size": 4}
    planned(changes)
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")
    found = describe(planned(changes))
    assert found["rows"] == {"films": {"train": 6, "evaluated": 4, "unlabelled": 4}}
    # big: 2 epochs of 2 batches of 4; small: 3 epochs of 2, or of 3 with the 4 unlabelled rows; smaller: 1 of 1
    assert [job["steps_each"] for job in found["jobs"]] == [[4], [6, 9], [1]]
    assert found["steps"]["total"] == 4 + 8 * 6 + 2 * 9 + 10 * 1
    # 6 + 4 + 4 rows of big; each student 2 x (6 + 4) of base, 8 x 4 others
    assert found["disk_bytes"]["logits"] == 24 * (14 + 2 * (20 + 32))


def test_how_many_rows_are_unlabelled_must_be_told_of_a_task_that_is_not_prepared(here: Path) -> None:
    changes = {"tasks": {"films": REST}, "distillers.kd_more": KD_MORE}
    unknown = describe(planned(changes, rows={"films": Size(6, 4, 2)}))
    assert unknown["notes"] == [
        "task films: how many unlabelled rows it has is unknown (the fourth number of --rows)"
    ]
    assert [job["steps_each"] for job in unknown["jobs"]] == [[4], None, None]
    assert unknown["steps"]["total"] is None
    given = describe(planned(changes, rows={"films": Size(6, 4, 2, unlabelled=4)}))
    assert (given["notes"], given["steps"]["total"]) == ([], 4 + 8 * 6 + 2 * 3 * 4 + 10)


def test_a_hub_model_that_is_not_here_is_named_and_not_fetched(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *args, **_: pytest.fail(f"the network was asked for {args}")
    )
    found = describe(planned({"students.small.checkpoint": "owner/model", "students.small.revision": "main"}))
    assert [note for note in found["notes"] if "checkpoint" in note] == [
        "checkpoint owner/model at revision main: not on this machine; it is downloaded when it is first used"
    ]


# ---- what is there ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on films as its stages leave it: they decide on identities, and training is left out."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("kdcache.trials.teach.teach", pretend_to_teach)
        patch.setattr("kdcache.engine.run_trials", pretend_to_run_all)
        write_files()
        prepare_films()
        teach.main(["--task", "films", "--teacher", "big"])
        for method in ("base", "smooth", "kd", "self_kd"):
            for student in ("small", "smaller"):
                train.main(["--task", "films", "--student", student, "--regularizer", method])
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it, to change."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


RUN = {"steps": 12, "seconds": 1.2, "device": "cpu", "precision": "float32"}


def pretend_to_teach(plan: TeacherPlan) -> dict[str, Any]:
    logits = DATA / "logits" / "films" / plan.teacher
    write_logits(logits, ("train", "validation"), weights=plan.identity)
    write_json(logits / "teacher.json", {**RUN, "identity": plan.identity})
    plan.folder.mkdir(parents=True, exist_ok=True)
    return {"metrics": {}}


def pretend_to_run_all(plans: Sequence[TrialPlan], *_: Any, **__: Any) -> None:
    for plan in plans:
        pretend_to_run(plan)


def pretend_to_run(plan: TrialPlan) -> None:
    write_logits(plan.folder / "logits", plan.splits, weights=plan.identity)
    names = {"task": plan.task, "student": plan.student, "regularizer": plan.regularizer, "seed": plan.seed}
    about = {"family": "bert", "init": "scratch", "checkpoint": "bert", "layers": None, "teacher": "big"}
    outcome = {"params": {}, "metrics": {}, "losses": [], "peak_memory_mb": 1.0, "versions": {}}
    write_result(plan.folder, TrialResult(identity=plan.identity, **names, **about, **outcome, **RUN))  # type: ignore[arg-type]


def write_logits(folder: Path, splits: Iterable[str], weights: str) -> None:
    prints = Fingerprints(data="d", weights=weights, preprocessing="p", code="c")
    value = sum(weights.encode())  # other weights give other logits
    with LogitWriter(folder, classes=2, label_names=["0", "1"], fingerprints=prints) as writer:
        for split in splits:
            writer.write(split, [0, 1], np.array([1, 2], np.uint64), np.full((2, 2), value, np.float32))
        writer.finish(cost=Cost(seconds=1.0, rows_per_second=50.0, device="cpu"))


FILMS = {"tasks": {"films": STUDY["tasks"]["films"]}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"teachers.done": 1, "trials.done": 16}),
        ({"seeds": [0, 1, 2]}, {"teachers.done": 1, "trials.done": 16, "trials.missing": 8}),
        # Two students, two seeds of KD
        ({"distillers.kd.alpha": 0.7}, {"teachers.done": 1, "trials.done": 12, "trials.stale": 4}),
        ({"students.small.epochs": 4}, {"teachers.done": 1, "trials.done": 8, "trials.stale": 8}),
        # Another teacher: its trials are KD's
        ({"teachers.big.epochs": 3}, {"teachers.stale": 1, "trials.done": 12, "trials.stale": 4}),
        # The teacher that the students have anyway
        ({"distillers.kd.teacher": "big"}, {"teachers.done": 1, "trials.done": 16}),
        # A name and a place are not part of an identity
        ({"students.small.tasks": ["films"]}, {"teachers.done": 1, "trials.done": 16}),
        # of 4 methods one seed's model, and none of what learns from these trials runs again
        ({"students.small.keep": [1]}, {"teachers.done": 1, "trials.done": 12, "trials.unkept": 4}),
    ],
)
def test_what_a_change_makes_run_again(done: None, changes: dict[str, Any], expected: dict[str, int]) -> None:
    assert states(planned({**FILMS, **changes})) == expected


def test_without_the_task_or_the_checkpoint_identities_are_unknown(done: None) -> None:
    Path("bert").rename("elsewhere")
    assert states(planned(FILMS)) == {"teachers.unchecked": 1, "trials.unchecked": 16}
    Path("elsewhere").rename("bert")
    shutil.rmtree(DATA / "tasks")
    plan = planned(FILMS)
    assert states(plan) == {"teachers.unchecked": 1, "trials.unchecked": 16}
    assert describe(plan)["steps"] == {"total": None, "left": None}


@pytest.mark.parametrize(("key", "value"), [("max_length", 9), ("train_size", 6), ("label_noise", 0.5)])
def test_a_task_that_was_prepared_otherwise_counts_as_not_prepared(done: None, key: str, value: Any) -> None:
    plan = planned({"tasks": {"films": {**STUDY["tasks"]["films"], key: value}}})
    assert states(plan) == {"teachers.unchecked": 1, "trials.unchecked": 16}
    assert plan.sizes == {"films": None}
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")
    assert states(planned({"tasks": {"films": {**STUDY["tasks"]["films"], key: value}}})) == {
        "teachers.stale": 1,
        "trials.stale": 16,
    }


@pytest.mark.parametrize(
    "source",
    [
        {"builtin": "bbc_headlines"},
        {"hub": "owner/films", "revision": "main"},
    ],
)
def test_a_task_of_another_source_counts_as_not_prepared(done: None, source: dict[str, str]) -> None:
    plan = planned({"tasks": {"films": {**STUDY["tasks"]["films"], "source": source}}})
    assert states(plan) == {"teachers.unchecked": 1, "trials.unchecked": 16}


def test_the_rest_of_train_counts_as_not_prepared_until_it_is(done: None) -> None:
    task, folder = {**STUDY["tasks"]["films"], "train_size": 6}, DATA / "tasks" / "films"
    planned({"tasks": {"films": task}})
    prepare_task(load_study().tasks["films"], folder)
    assert planned({"tasks": {"films": REST}}).sizes["films"] is None
    prepare_task(load_study().tasks["films"], folder)
    assert planned({"tasks": {"films": REST}}).sizes["films"] == Size(6, 4, 2, unlabelled=4)
    assert planned({"tasks": {"films": task}}).sizes["films"] is None


def test_unlabelled_rows_make_only_what_uses_them_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.trials.teach.teach", pretend_to_teach)
    monkeypatch.setattr("kdcache.engine.run_trials", pretend_to_run_all)
    plain = {"tasks": {"films": {**STUDY["tasks"]["films"], "train_size": 6}}}
    more = {"tasks": {"films": REST}, "distillers.kd_more": KD_MORE}
    planned(plain)
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")
    teach.main(["--task", "films", "--teacher", "big"])
    for method in ("base", "smooth", "kd", "self_kd"):
        for student in ("small", "smaller"):
            train.main(["--task", "films", "--student", student, "--regularizer", method])
    planned(more)
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")
    # The teacher is not trained again for the logits that are not there
    to_come = "teacher big on films: is done, but its logits of the unlabelled rows are to come"
    assert states(planned(more)) == {"teachers.done": 1, "trials.done": 16, "trials.missing": 4}
    assert planned(more).notes == (to_come,)
    write_logits(DATA / "logits" / "films" / "big" / "unlabelled", ["unlabelled"], weights="w")
    assert states(planned(more)) == {"teachers.done": 1, "trials.done": 16, "trials.missing": 4}
    assert planned(more).notes == ()
    for student in ("small", "smaller"):
        train.main(["--task", "films", "--student", student, "--regularizer", "kd_more"])
    assert states(planned(more)) == {"teachers.done": 1, "trials.done": 20}
    write_logits(DATA / "logits" / "films" / "big" / "unlabelled", ["unlabelled"], weights="others")
    assert states(planned(more)) == {"teachers.done": 1, "trials.done": 16, "trials.stale": 4}
    shutil.rmtree(DATA / "logits" / "films" / "big" / "unlabelled")
    assert states(planned(more)) == {"teachers.done": 1, "trials.done": 16, "trials.unchecked": 4}
    assert planned(more).notes == (to_come,)


def test_other_wrong_labels_count_as_not_prepared(done: None) -> None:
    noisy = {**STUDY["tasks"]["films"], "label_noise": 0.5}
    planned({"tasks": {"films": noisy}})
    prepare_task(load_study().tasks["films"], DATA / "tasks" / "films")
    assert planned({"tasks": {"films": noisy}}).sizes["films"] is not None
    assert planned({"tasks": {"films": {**noisy, "noise_seed": 1}}}).sizes["films"] is None


def test_what_a_stage_would_not_keep_is_missing(done: None) -> None:
    trials = DATA / "trials" / "films" / "small"
    (trials / "smooth" / "seed-0" / "logits" / "manifest.json").unlink()
    (trials / "smooth" / "seed-1" / "result.json").write_text("{}")
    assert states(planned(FILMS)) == {"teachers.done": 1, "trials.done": 14, "trials.missing": 2}
    # Self-KD of a seed learns from that seed's baseline; what it will be, nobody knows before that has run
    shutil.rmtree(trials / "base" / "seed-0")
    expected = {"teachers.done": 1, "trials.done": 12, "trials.missing": 3, "trials.unchecked": 1}
    assert states(planned(FILMS)) == expected
    (DATA / "logits" / "films" / "big" / "manifest.json").unlink()
    assert states(planned(FILMS))["teachers.missing"] == 1


def test_the_checkpoint_from_a_mirror_gives_the_same_identities(
    done: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mirror/owner").mkdir(parents=True)
    Path("bert").rename("mirror/owner/model")
    monkeypatch.setenv("KDCACHE_MIRROR", "mirror")
    models = {"checkpoint": "owner/model", "revision": "main"}
    changes = {
        f"{part}.{key}": value
        for part in ("teachers.big", "students.small", "students.smaller")
        for key, value in models.items()
    }
    assert states(planned({**FILMS, **changes})) == {"teachers.done": 1, "trials.done": 16}


def test_finished_runs_say_how_fast_they_were(done: None) -> None:
    for method in ("base", "smooth", "kd", "self_kd"):  # seed 0: 0.1 s a step; seed 1: 0.3 s
        file = DATA / "trials" / "films" / "small" / method / "seed-1" / "result.json"
        write_json(file, {**json.loads(file.read_text()), "seconds": 3.6, "device": "gpu"})
    found = describe(planned({**FILMS, "seeds": [0, 1, 2]}))
    small = found["jobs"][1]
    assert (small["seconds_a_step"], small["device"]) == (pytest.approx(0.2), "cpu, gpu")
    # 4 trials of seed 2: 12 steps each, and 10 + 4 rows of base and 3 x 4 of the others, 50 a second
    assert small["seconds_left"] == pytest.approx(4 * 12 * 0.2 + 26 / 50)
    assert small["speed_from"] == "finished runs"


def test_a_damaged_card_is_an_error(done: None) -> None:
    (DATA / "tasks" / "films" / "card.json").write_text("{")
    with pytest.raises(KdcacheError, match=r"card\.json"):
        planned(FILMS)


# ---- tuning ----


def test_the_trials_and_teachers_of_tuning_are_counted(here: Path) -> None:
    prepare_films()
    films = {"tasks": {"films": STUDY["tasks"]["films"]}}
    without = describe(planned(films))
    space = {"all": {"epochs": [1, 2]}}
    found = describe(planned({**films, "tuning": {"seeds": [9], "budget": 2, "space": space}}))
    assert "tuning" not in without
    assert found["trials"] == without["trials"]
    # 2 students x 4 methods x 2 settings x 1 seed; 8 of 10 rows are learned from
    assert (found["tuning"]["trials"]["missing"], found["tuning"]["teachers"]["missing"]) == (16, 1)
    # big: 2 epochs of 2 batches; small: (1 + 2) epochs of 3 batches, smaller: of 1, each for 4 methods
    assert found["steps"]["total"] - without["steps"]["total"] == 4 + 4 * 9 + 4 * 3


def test_the_settings_of_teachers_are_counted_too(here: Path) -> None:
    prepare_films()
    films = {"tasks": {"films": STUDY["tasks"]["films"]}}
    tuning = {"seeds": [9], "budget": 2, "space": {"all": {"epochs": [1, 2]}}}
    without = describe(planned({**films, "tuning": tuning}))
    found = describe(planned({**films, "tuning": {**tuning, "teachers": {"epochs": [1, 3]}}}))
    assert found["tuning"]["trials"] == without["tuning"]["trials"]
    assert found["tuning"]["teachers"]["missing"] == 3  # two settings, and the one that is learned from
    assert found["steps"]["total"] - without["steps"]["total"] == (1 + 3) * 2  # epochs of 2 batches


def test_what_tuning_chose_is_what_runs(done: None) -> None:
    planned(FILMS)
    chosen = load_study().with_chosen({("films", "small", "smooth"): {"epochs": 5}})
    plan = plan_study(chosen, DATA)
    assert states(plan) == {"teachers.done": 1, "trials.done": 14, "trials.stale": 2}
    assert describe(plan)["jobs"][1]["steps_each"] == [12, 20]  # 3 epochs of 4 batches of 3 rows, or 5
    better = load_study().with_chosen({}, {("films", "big"): {"epochs": 3}})
    assert states(plan_study(better, DATA))["teachers.stale"] == 1
