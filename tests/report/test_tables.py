"""The tables' values, worked out by hand from the sample's round numbers."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kdcache.errors import ComparisonError
from kdcache.report import comparisons, costs, interactions, tables
from kdcache.results.reading import Metrics, read_metrics
from kdcache.statistics import wording
from kdcache.study import Study
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write(tmp_path))


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_main_table_has_regularizers_by_students(metrics: Metrics) -> None:
    (table,) = tables.main_tables(metrics, samples.study())
    assert [column.student for column in table.columns] == ["bert-tiny", "bert-tiny-scratch", "vit-tiny"]
    assert table.tasks == [("bbc-headlines", "accuracy", 2), ("digits", "accuracy", 1)]
    assert [row.name for row in table.rows] == ["base", "label_smoothing", "tf_reg", "kd", "self_kd"]
    kd = table.rows[3].cells[0]
    assert kd is not None
    assert (kd.score, kd.difference, plain(kd.interval)) == ("80.5 ± 0.2", "+0.45", "[0.15, 0.75]")
    assert (kd.words, kd.sign) == ("better, negligible", "▲")


def test_with_looks_the_baseline_is_shown_at_the_seeds_of_each_comparison(metrics: Metrics) -> None:
    """Its cell has those of the comparison with most seeds; a comparison with fewer has its own."""
    fields = samples.study().model_dump(mode="json", exclude_unset=True)
    fields["seeds"], fields["comparison"]["looks"] = 10, [5, 10]
    rows = metrics.comparisons
    later = (rows["student"] == "bert-tiny") & (rows["regularizer"] == "kd")
    rows.loc[later, ["seeds", "baseline_mean"]] = 10, 81.2
    (table,) = tables.main_tables(metrics, Study.model_validate(fields))
    shown = [(row.cells[0].score.split()[0], row.cells[0].words) for row in table.rows if row.cells[0]]
    assert shown[0] == ("81.2", "baseline, at 10 seeds")
    assert shown[3] == ("80.5", "better, negligible, at 10 seeds")
    assert shown[1][1].endswith(", at 5 seeds (baseline 80.0)")


def test_wide_tables_are_cut_between_tasks(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COLUMNS_AT_ONCE", 2)
    cut = tables.main_tables(metrics, samples.study())
    assert [[column.student for column in table.columns] for table in cut] == [
        *(["bert-tiny", "bert-tiny-scratch"], ["vit-tiny"])
    ]


def test_a_regularizer_that_the_study_dropped_is_in_no_table(metrics: Metrics) -> None:
    study = samples.study()
    left = {name: method for name, method in study.distillers.items() if name != "self_kd"}
    (table,) = tables.main_tables(metrics, study.model_copy(update={"distillers": left}))
    assert [row.name for row in table.rows] == ["base", "label_smoothing", "tf_reg", "kd"]


def test_teacher_costs(metrics: Metrics) -> None:
    cost = costs.costs(metrics, samples.study())
    small, resnet = cost.teachers
    # kd on two students with five seeds; 2 x 104 s; 100 s + 10 trials x 8 epochs x 4 s
    assert (small.readers, small.once) == ("10 trials of 2 students", "104 s")
    assert (small.per_student, small.online) == ("3.5 min", "7.0 min")
    # 40 passes a student against the one that fills the cache
    assert (small.passes, small.break_even) == ("80 passes", "student 1")
    # one student: nothing saved per student; 100 s + 5 trials x 8 epochs x 4 s
    assert (resnet.readers, resnet.once, resnet.per_student) == ("5 trials of 1 student", "104 s", "104 s")
    assert resnet.online == "4.3 min"
    # 75 trials of 11..15 s, 13 s on average
    assert (cost.teacher_seconds, cost.trial_seconds, cost.readers) == (208.0, 975.0, 15)
    assert [(row.trials, row.each) for row in cost.students] == [("25", "13 s")] * 3


def test_a_method_s_own_teacher_is_read_in_place_of_the_students(metrics: Metrics) -> None:
    study = samples.study()
    kd = study.distillers["kd"].model_copy(update={"teacher": ("resnet",)})
    study = study.model_copy(update={"distillers": {**study.distillers, "kd": kd}})
    small, resnet = costs.costs(metrics, study).teachers
    assert (small.readers, resnet.readers) == ("0 trials of 0 students", "5 trials of 1 student")


def test_each_member_of_an_ensemble_is_read_and_a_trial_is_counted_once(metrics: Metrics) -> None:
    study = samples.study()
    vit = study.students["vit-tiny"].model_copy(update={"tasks": None, "teacher": ("resnet", "huge")})
    study = study.model_copy(update={"students": {**study.students, "vit-tiny": vit}})
    huge = metrics.cost[metrics.cost["model"] == "resnet"].assign(model="huge", seconds=50.0)
    everything = pd.concat([metrics.cost, huge], ignore_index=True)
    cost = costs.costs(replace(metrics, cost=everything), study)
    assert [(row.teacher, row.readers) for row in cost.teachers] == [
        ("bert-small", "10 trials of 2 students"),
        ("resnet", "5 trials of 1 student"),
        ("huge", "5 trials of 1 student"),
    ]
    assert cost.readers == 15


@pytest.mark.parametrize(
    ("seeds", "epochs", "student"), [(1, 1, "student 2"), (1, 2, "student 1"), (2, 1, "student 1")]
)
def test_the_cache_pays_from_the_second_pass_on(
    metrics: Metrics, seeds: int, epochs: int, student: str
) -> None:
    study = samples.study()
    short = study.students["vit-tiny"].model_copy(update={"epochs": epochs})
    few = metrics.cost[metrics.cost["seed"].isna() | (metrics.cost["seed"] < seeds)]
    cost = costs.costs(
        replace(metrics, cost=few),
        study.model_copy(update={"students": study.students | {"vit-tiny": short}}),
    )
    assert cost.teachers[1].break_even == student


def test_the_views_of_an_augmented_task_are_paid_once_too(metrics: Metrics) -> None:
    caching = metrics.cost[(metrics.cost["kind"] == "cache") & (metrics.cost["model"] == "resnet")]
    views = caching.assign(kind="views", seconds=160.0)
    cost = costs.costs(replace(metrics, cost=pd.concat([metrics.cost, views])), samples.study())
    resnet = cost.teachers[1]
    # 100 s of training, 4 s and 160 s of logits; online still 100 s + 5 trials x 8 epochs x 4 s: 160 s a student
    assert (resnet.cached, resnet.once, resnet.online) == ("2.7 min", "4.4 min", "4.3 min")
    assert (resnet.break_even, cost.teacher_seconds) == ("student 2", 368.0)


def test_the_unlabelled_rows_are_paid_once_and_passed_by_who_uses_them(metrics: Metrics) -> None:
    caching = metrics.cost[(metrics.cost["kind"] == "cache") & (metrics.cost["model"] == "resnet")]
    more = caching.assign(kind="unlabelled", seconds=6.0)
    study, rows = samples.study(), replace(metrics, cost=pd.concat([metrics.cost, more]))
    # 100 s of training, 4 s and 6 s of logits; online 100 s + 5 trials x 8 epochs x 4 s
    ignored = costs.costs(rows, study).teachers[1]
    assert (ignored.cached, ignored.once, ignored.online) == ("10 s", "110 s", "4.3 min")
    use = study.distillers["kd"].model_copy(update={"unlabelled": "use"})
    study = study.model_copy(update={"distillers": {**study.distillers, "kd": use}})
    # 100 s + 5 x 8 x (4 + 6) s
    assert costs.costs(rows, study).teachers[1].online == "8.3 min"


def test_a_teacher_that_nobody_reads_never_pays(metrics: Metrics) -> None:
    unread = metrics.cost[metrics.cost["regularizer"] != "kd"]
    assert [
        row.break_even for row in costs.costs(replace(metrics, cost=unread), samples.study()).teachers
    ] == [*("–", "–")]


def test_every_inconclusive_comparison_has_its_reason(metrics: Metrics) -> None:
    rows = {(row.group, row.regularizer): row for row in tables.open_questions(metrics.comparisons, 0.95)}
    assert len(rows) == 4
    both = rows["bbc-headlines: bert-tiny", "tf_reg"]  # [−2.30, 1.50] against ±1
    assert both.why == "the 95% interval holds both 0 and differences beyond both ends of the margin"
    gains = rows["digits: vit-tiny", "kd"]  # [−0.50, 1.70]
    assert gains.why == "the 95% interval holds both 0 and gains beyond the margin"
    assert plain(gains.interval) == "[−0.50, 1.70]"
    assert gains.detectable == "1.49"  # 1.35 x 1.10, rounded half to even in binary


def test_the_level_of_the_interval_is_written_as_it_is(metrics: Metrics) -> None:
    questions = tables.open_questions(metrics.comparisons, 1 - 0.005)
    assert questions
    assert all("the 99.5% interval" in question.why for question in questions)


def test_models_that_learned_nothing_are_open_for_that_reason(metrics: Metrics) -> None:
    place = metrics.comparisons.index[metrics.comparisons["verdict"] == "inconclusive"][0]
    metrics.comparisons.loc[place, ["outcome", "note"]] = ["nothing learned", "no seed does better"]
    assert tables.open_questions(metrics.comparisons, 0.95)[0].why == "no seed does better"


def test_an_interval_clear_of_zero_can_be_inconclusive(metrics: Metrics) -> None:
    metrics.comparisons.loc[[0, 1], "verdict"] = "inconclusive"
    metrics.comparisons.loc[0, ["ci_low", "ci_high"]] = [0.01, 2.0]
    metrics.comparisons.loc[1, ["ci_low", "ci_high", "note"]] = [float("nan"), float("nan"), "one seed"]
    first, second, *_ = tables.open_questions(metrics.comparisons, 0.95)
    assert first.why == "the 95% interval excludes 0 taken alone, but not after the correction"
    assert (second.why, second.interval) == ("one seed", "no interval")


def test_seeds_to_settle_say_what_they_would_show(metrics: Metrics) -> None:
    metrics.comparisons["settled_by"] = ""
    metrics.comparisons["seeds_to_settle"] = float("nan")
    metrics.comparisons.loc[1, ["settled_by", "seeds_to_settle"]] = ["equivalence", 12.0]
    metrics.comparisons.loc[4, "settled_by"] = "more than 1000 seeds"
    first, second, third, _ = tables.open_questions(metrics.comparisons, 0.95)
    assert (first.settle, second.settle, third.settle) == ("12 (equivalence)", "more than 1000", "–")


def test_every_comparison_can_be_sorted_and_searched(metrics: Metrics) -> None:
    metrics.comparisons.loc[0, "sd"] = float("nan")
    metrics.comparisons.loc[0, "t_p"] = float("nan")
    headings, rows = comparisons.comparison_lines(metrics.comparisons)
    assert "Cliff’s delta" not in headings  # a column without numbers in the sample
    first = dict(zip(headings, rows[0].numbers, strict=True))
    assert (first["difference"].text, first["difference"].key) == ("+0.10", "0.1")
    assert (first["paired t p"].text, first["paired t p"].key) == ("–", "")
    assert rows[0].words == "bbc-headlines bert-tiny label_smoothing pretrained equivalent"
    assert len(rows) == 12


def test_online_each_teacher_runs_in_every_epoch_of_its_readers(metrics: Metrics) -> None:
    """Training and one pass (4 s) for each of 8 epochs of 10 and of 5 trials."""
    cost = costs.costs(metrics, samples.study())
    expected = [wording.seconds(100 + trials * 8 * 4) for trials in (10, 5)]
    assert [teacher.online for teacher in cost.teachers] == expected
    assert cost.device == "cpu"


def test_a_pool_of_one_pair_is_left_out(metrics: Metrics) -> None:
    (row,) = interactions.interaction_lines(metrics)
    assert row.group == "bbc-headlines: bert-tiny-scratch against bert-tiny"
    assert (row.difference, row.p, row.n, row.verdict) == ("+1.95", "0.004", "5 seeds", "supported")


def test_names_that_look_like_missing_values_stay_names(tmp_path: Path) -> None:
    samples.write(tmp_path)
    for name in ("trials", "comparisons", "cost"):
        path = tmp_path / f"{name}.csv"
        path.write_text(path.read_text().replace("digits", "null"))
    assert list(read_metrics(tmp_path).comparisons["task"])[-1] == "null"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trials.csv", None, "missing; run the compare stage"),
        ("trials.csv", "", "expected a CSV table"),
        ("cost.csv", "kind,task\n", "expected the columns model"),
        ("summary.json", "{", "expected JSON"),
        ("summary.json", "[]", "expected a JSON object, found list"),
        ("summary.json", None, "missing"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    path = samples.write(tmp_path) / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ComparisonError, match=f"{file}.*{message}"):
        read_metrics(tmp_path)
