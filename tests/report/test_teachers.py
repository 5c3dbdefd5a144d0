"""The teachers in the page: their numbers in words, and what limits a study."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from kdcache.report import charts, page, teachers
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


def read(folder: Path, **changes: object) -> Metrics:
    samples.write_all(folder)
    samples.teachers().assign(**changes).to_csv(folder / "teachers.csv", index=False)
    return read_metrics(folder)


def test_a_row_per_teacher(tmp_path: Path) -> None:
    section = teachers.make_section(read(tmp_path), samples.study())
    assert section is not None
    first = section.rows[0]
    assert (first.train, first.validation, first.majority) == ("100.0", "81.5", "24.0")
    assert (first.entropy, first.most, first.confidence) == ("0.03", "of 1.61", "0.995")
    assert (first.student, first.student_score, first.gap) == ("bert-tiny", "80.0", "+1.50")


def test_nearly_hard_labels_and_a_teacher_below_its_student_are_warned_of(tmp_path: Path) -> None:
    hard, below = teachers.warnings(read(tmp_path), samples.study())
    assert hard.startswith("The soft labels of bert-small on bbc-headlines are nearly hard")
    assert "0.030 nats on train, of 1.61" in hard
    assert below.startswith("resnet on digits is not better than its student vit-tiny")


def test_a_gap_within_the_margin_is_little(tmp_path: Path) -> None:
    said = teachers.warnings(read(tmp_path, gap=0.75, entropy=1.0), samples.study())
    assert [text.split(" than")[0] for text in said] == [
        "bert-small on bbc-headlines is only 0.75 points better",
        "resnet on digits is only 0.75 points better",
    ]
    assert not teachers.warnings(read(tmp_path, gap=1.01, entropy=1.0), samples.study())


def test_a_model_at_chance_is_named(tmp_path: Path) -> None:
    """bert-tiny-scratch has 73 points by plain fine-tuning, bert-small 81.5; the margin is one point."""
    majority = pd.Series([80.6, 10.0])
    said = teachers.warnings(read(tmp_path, gap=2, entropy=1.0, majority=majority), samples.study())
    assert [text.split(" is at chance")[0] for text in said] == [
        "bert-small on bbc-headlines",
        "bert-tiny on bbc-headlines, by plain fine-tuning,",
        "bert-tiny-scratch on bbc-headlines, by plain fine-tuning,",
    ]


def test_a_regression_has_no_entropy(tmp_path: Path) -> None:
    section = teachers.make_section(read(tmp_path, entropy=None, confidence=None, classes=1), samples.study())
    assert section is not None
    assert (section.rows[0].entropy, section.rows[0].most) == ("–", "")


def test_it_stands_right_after_the_answers(tmp_path: Path) -> None:
    metrics = read(tmp_path)
    panels: list[charts.Panel] = []
    first, second = page.make_sections(metrics, samples.study(), panels)[:2]
    assert (first.template, second.template) == ("sections/answers.html.j2", "sections/teachers.html.j2")
    assert "nearly hard" in page.render(metrics, samples.study(), panels)


def test_without_the_file_there_is_nothing(tmp_path: Path) -> None:
    assert teachers.make_section(read_metrics(samples.write(tmp_path)), samples.study()) is None


def test_a_sentence_for_the_first_screen(tmp_path: Path) -> None:
    metrics = read(tmp_path)
    assert teachers.in_a_sentence(metrics) == (
        "bert-small on bbc-headlines 81.5 in accuracy (100.0 on train), +1.50 points over its best student; "
        "resnet on digits 94.0 in accuracy (97.0 on train), −1.00 points over its best student."
    )
    alone = replace(metrics, teachers=metrics.teachers.head(1).assign(gap=None))
    assert teachers.in_a_sentence(alone) == "bert-small on bbc-headlines 81.5 in accuracy (100.0 on train)."
    many = replace(metrics, teachers=pd.concat([metrics.teachers] * 2))
    assert teachers.in_a_sentence(many) == (
        "4, on validation 81.5 to 94.0 in accuracy; the table below has each."
    )
    assert teachers.in_a_sentence(replace(metrics, teachers=metrics.teachers.head(0))) == ""
