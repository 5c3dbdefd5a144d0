"""A study of language modelling from its documents to its trials, and what of it stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.checkpoints import fingerprints
from kdcache.errors import CacheError
from kdcache.logits.tokens import TokenCache
from kdcache.results.checking import check_results
from kdcache.results.gather import read_trials
from kdcache.results.teachers import bytes_per_token
from kdcache.study import Study
from kdcache.system.files import read_json
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.adopt import adopt
from kdcache.trials.layout import LOGITS, MODEL, TEACHER, Layout
from kdcache.trials.likelihoods import document_difference, path_of, read_documents
from kdcache.trials.missing import cache_identity, trials_to_run
from kdcache.trials.plan import Planner
from kdcache.trials.result import finished_result
from kdcache.trials.run import run_trial
from kdcache.trials.same import check_same
from kdcache.trials.scores import trial_scores
from tests.language import run_project, write_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("language")
    run_project(root, write_project(root))
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy, for what changes it; its documents and its checkpoint stay where they are."""
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copy(finished / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def changed(finished: Path, project: Path, **changes: Any) -> Study:
    study = write_project(finished, **changes)
    shutil.move(finished / "params.yaml", project / "params.yaml")
    write_project(finished)
    return study


def trial(root: Path, student: str, method: str, seed: int = 0) -> Path:
    return Layout(root).trial("docs", student, method, seed)


def test_nothing_runs_twice(finished: Path, project: Path) -> None:
    assert run_project(project, write_project(finished)) == []


def test_a_teacher_of_no_epochs_is_its_checkpoint(finished: Path) -> None:
    taught = Layout(finished).teacher("docs", "raw")
    record = read_json(taught / TEACHER)
    assert (record["steps"], record["losses"]) == (0, [])
    kept, given = (fingerprints.of_weights(folder) for folder in (taught, finished / "gpt2"))
    weights = [torch_weights(folder) for folder in (taught, finished / "gpt2")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert kept != given  # only for `use_cache` in its config


def torch_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_teacher_that_learned_is_better_and_its_cache_says_how_good_it_is(finished: Path) -> None:
    layout = Layout(finished)
    nll = {}
    for name in ("big", "raw"):
        rows = TokenCache(layout.cache("docs", name)).split("validation").columns
        nll[name] = -rows["label_logprob"].values.sum() / rows["loss"].values.sum()
        scored = read_json(layout.teacher("docs", name) / TEACHER)["metrics"]["nll"]
        assert nll[name] == pytest.approx(scored, rel=1e-3)  # 11 bits a token
    assert nll["big"] < nll["raw"] - 0.5


def test_the_bytes_of_a_token_are_those_of_the_shards(finished: Path) -> None:
    layout = Layout(finished)
    sizes = bytes_per_token(write_project(finished), layout.data)
    assert set(sizes) == {("docs", "big"), ("docs", "raw")}
    folder = layout.cache("docs", "big")
    whole = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    tokens = sum(
        len(TokenCache(folder).split(split).columns["tokens"].values) for split in ("train", "validation")
    )
    assert sizes["docs", "big"] == pytest.approx(whole / tokens, rel=1e-3)


def test_scores_follow_from_the_likelihoods(finished: Path) -> None:
    task, folder = PreparedTask(Layout(finished).task("docs")), trial(finished, "tiny", "kd")
    scores, documents = trial_scores(folder, task), read_documents(path_of(folder, "validation"))
    size = sum(len(text.encode()) for text in task.rows("validation")["text"].to_pylist())
    assert scores["nll"] == pytest.approx(documents.nll.values.mean(), rel=1e-6)
    assert scores["bits_per_byte"] == pytest.approx(documents.nll.values.sum() / np.log(2) / size, rel=1e-6)
    assert set(scores) == {"nll", "bits_per_byte", "ece"}


def test_students_learn_and_distillation_changes_what_they_learn(finished: Path) -> None:
    losses = {
        method: finished_result(trial(finished, "tiny", method)).losses
        for method in ("base", "kd", "self_kd")
    }
    assert losses["base"][1] < losses["base"][0]
    assert len({tuple(of_one) for of_one in losses.values()}) == 3


def test_a_baseline_keeps_its_own_distributions_only_where_self_kd_learns_from_them(
    finished: Path, project: Path
) -> None:
    assert TokenCache(trial(finished, "tiny", "base") / LOGITS).splits == ["train"]
    assert not (trial(finished, "tiny", "kd") / LOGITS).exists()
    study = changed(finished, project, distillers={"kd": {"soft_labels": "teacher", "alpha": 0.9}})
    plans = Planner(study, Layout(project)).trials("docs", "tiny", "base")
    assert [plan.keep_train_logits for plan in plans] == [False, False]
    assert trials_to_run(study, Layout(project), "docs", "tiny", "base") == []  # what is there stays


def test_another_estimator_makes_the_cache_anew_and_what_learned_from_it(
    finished: Path, project: Path
) -> None:
    teachers = {"big": {**_teacher(finished), "cache": {"estimator": "topk", "k": 5}}}
    study = changed(finished, project, teachers=teachers)
    assert run_project(project, study) == [
        "cache big", *(f"{student}/kd/{seed}" for student in ("tiny", "tiny-scratch") for seed in (0, 1)),
    ]  # fmt: skip


def test_what_is_stored_of_a_teacher_is_part_of_a_caches_place_in_the_store(finished: Path) -> None:
    plan = Planner(write_project(finished), Layout(finished)).cache("docs", "big")
    other = replace(plan, model=plan.model.model_copy(update={"cache": None}))
    assert cache_identity(plan) != cache_identity(other)


def test_another_estimator_of_a_students_own_makes_its_baseline_anew(finished: Path, project: Path) -> None:
    model = (
        write_project(finished).students["tiny"].model_dump(exclude={"keep", "tasks", "revision", "layers"})
    )
    students = {"tiny": {**model, "cache": {"estimator": "rs", "n": 20}}}
    study = changed(finished, project, students=students)
    assert run_project(project, study) == [
        f"tiny/{method}/{seed}" for method in ("base", "self_kd") for seed in (0, 1)
    ]


def test_damaged_likelihoods_are_made_again(finished: Path, project: Path) -> None:
    path = path_of(trial(project, "tiny", "label_smoothing", 1), "validation")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CacheError, match="damaged"):
        trial_scores(path.parent.parent, PreparedTask(Layout(project).task("docs")))
    assert run_project(project, write_project(finished)) == ["tiny/label_smoothing/1"]


def test_likelihoods_of_another_trial_are_noticed(finished: Path, project: Path) -> None:
    """They are whole, and of the right documents."""
    own, other = (path_of(trial(project, "tiny", "kd", seed), "validation") for seed in (0, 1))
    before = own.read_bytes()
    shutil.copy(other, own)
    study, layout = write_project(finished), Layout(project)
    results = read_trials(study, layout.data / "trials")
    with pytest.raises(
        CacheError, match=r"seed-0/likelihoods/validation\.parquet: has other likelihoods than"
    ):
        check_results(study, layout, results)
    assert run_project(project, study) == ["tiny/kd/0"]
    assert own.read_bytes() == before
    check_results(study, layout, read_trials(study, layout.data / "trials"))


def test_run_again_every_bit_is_the_same(finished: Path, project: Path) -> None:
    study, layout = write_project(finished), Layout(project)
    planner = Planner(study, layout)
    trials = [planner.trial("docs", "tiny", method, 0) for method in ("base", "kd")]
    check_same(
        [planner.teacher("docs", "big")], [planner.cache("docs", "big")], trials,
        lambda plans: [run_trial(plan) for plan in plans] and None,
    )  # fmt: skip


def test_a_kept_student_is_the_model_that_was_scored_and_writes_texts(finished: Path, tmp_path: Path) -> None:
    plan = Planner(write_project(finished), Layout(finished)).trial("docs", "tiny", "kd", 0)
    run_trial(replace(plan, folder=tmp_path / "trial", keep_model=True))
    folder = tmp_path / "trial" / MODEL
    kept, scored = (read_documents(path_of(of, "validation")) for of in (tmp_path / "trial", plan.folder))
    assert document_difference("validation", scored, kept) is None
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = PreparedTask(plan.task_folder).rows("validation")["text"][0].as_py()
    tokens = [0, *tokenizer(text)["input_ids"]][:16]
    with torch.no_grad():
        logs = model(torch.tensor([tokens])).logits[0].log_softmax(1)
    nll = [-float(logs[at, token]) for at, token in enumerate(tokens[1:])]
    np.testing.assert_allclose(kept.nll.rows()[0][: len(nll)], nll, rtol=1e-4)
    assert 'pipeline("text-generation", "FOLDER")' in (folder / "README.md").read_text()
    assert len(model.generate(torch.tensor([tokens[:3]]), max_new_tokens=4, pad_token_id=0)[0]) <= 7


def test_finished_results_are_stamped_when_only_the_code_is_another(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.trials import code

    inner = code.of_packages
    monkeypatch.setattr(code, "of_packages", lambda *names, **more: f"refactored {inner(*names, **more)}")
    study = write_project(finished)
    done = adopt(study, Layout(project), lambda plans: [run_trial(plan) for plan in plans] and None, sample=0)
    assert (done.teachers, done.caches, done.trials) == (2, 2, 16)
    assert run_project(project, study) == []


def test_a_student_with_another_tokenizer_cannot_learn_from_a_teacher(finished: Path, project: Path) -> None:
    longer = {**write_project(finished).tasks["docs"].model_dump(exclude_unset=True), "max_length": 12}
    study = changed(finished, project, tasks={"docs": longer})
    planner = Planner(study, Layout(finished))
    plan = planner.trial("docs", "tiny", "kd", 0)  # the cache is of sequences of 16 tokens
    prepare_task(study.tasks["docs"], project / "shorter", "docs")
    with pytest.raises(CacheError, match="need the same tokenizer and max_length"):
        run_trial(replace(plan, folder=project / "trial", task_folder=project / "shorter"))


def _teacher(root: Path) -> dict[str, Any]:
    return write_project(root).teachers["big"].model_dump(exclude={"tasks", "revision", "layers"})
