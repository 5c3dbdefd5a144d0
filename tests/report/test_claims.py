"""The sentences that a reader sees first."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kdcache.report.claims import claims, in_short
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write(tmp_path))


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_pretrained(metrics: Metrics) -> None:
    claim = claims(metrics)[0]
    assert claim.answer == "Not settled"
    assert claim.sentence == (
        "3 of 4 comparisons are shown to lie within 1 point of plain fine-tuning, 1 undecided. "
        "Differences run from −0.40 to +0.45 points."
    )
    assert claim.tested == "none beyond the margin"
    # tf_reg alone is inconclusive: 1.35 x 1.90
    assert claim.note == "An inconclusive one would have shown a true difference of 2.56 points (80% power)."


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([15], "about 15 seeds would settle it."),
        ([30, 14, 15], "about 14 to 30 seeds would settle each."),
        ([14, 14], "about 14 seeds would settle each."),
        ([14, None, 30], "about 14 to more than 1,000 seeds would settle each."),
        ([None], "more than 1,000 seeds would settle it."),
        ([None, None], "more than 1,000 seeds would settle each."),
    ],
)
def test_inconclusive_comparisons_say_how_many_seeds_would_settle_them(
    metrics: Metrics, seeds: list[int | None], said: str
) -> None:
    rows = metrics.comparisons
    rows["verdict"], rows["seeds_to_settle"] = "equivalent", 7.0  # what is settled is not asked about
    rows["settled_by"] = "equivalence"
    open_ = rows.index[rows["init"] == "pretrained"][: len(seeds)]
    rows.loc[open_, "verdict"] = "inconclusive"
    rows.loc[open_, "seeds_to_settle"] = pd.Series(seeds, index=open_, dtype=float)
    assert claims(metrics)[0].note.endswith(f"(80% power). As estimated, {said}")
    rows["settled_by"] = ""  # an older file
    assert "would settle" not in claims(metrics)[0].note


def test_no_effect_beyond_the_margin_answers_no(metrics: Metrics) -> None:
    metrics.summary["claims"][0] |= {"verdict": "supported", "within_margin": 4, "undecided": 0}
    claim = claims(metrics)[0]
    assert claim.answer == "No"
    assert claim.sentence.startswith(
        "All 4 comparisons are shown to lie within 1 point of plain fine-tuning."
    )


def test_scratch_names_the_winners(metrics: Metrics) -> None:
    claim = claims(metrics)[1]
    assert claim.answer == "Yes"
    assert plain(claim.sentence) == (
        "1 of 8 comparisons is better than plain fine-tuning: "
        "kd with bert-tiny-scratch on bbc-headlines, +2.40 [1.30, 3.50]."
    )
    assert claim.note.startswith("1 worse, 3 equivalent and 3 inconclusive.")


def test_winners_that_are_none_together_are_not_settled_and_it_says_why(metrics: Metrics) -> None:
    metrics.summary["claims"][1] |= {"verdict": "inconclusive", "better": 0}
    claim = claims(metrics)[1]
    assert claim.answer == "Not settled"
    assert plain(claim.sentence).endswith(
        "on bbc-headlines, +2.40 [1.30, 3.50]. Corrected over all 8 together, none remains better."
    )


def test_winners_of_the_claim_that_are_none_in_a_wider_family(metrics: Metrics) -> None:
    scratch = metrics.comparisons["init"] == "scratch"
    metrics.comparisons.loc[scratch & (metrics.comparisons["verdict"] == "better"), "verdict"] = (
        "inconclusive"
    )
    sentence = claims(metrics)[1].sentence
    assert sentence == (
        "None of 8 comparisons is better than plain fine-tuning. Corrected over these 8 alone, 1 is better."
    )


def test_interaction(metrics: Metrics) -> None:
    claim = claims(metrics)[2]
    assert claim.answer == "Not settled"
    assert plain(claim.sentence).endswith("a difference of +0.42 [−0.50, 1.35].")
    assert claim.note == (
        "From 5 seeds, tested one-sided: above 0 with p = 0.130, below 1 point with p = 0.094. "
        "Pair by pair a larger gain is shown for kd in 1 of 1."
    )


def test_an_interaction_with_looks_has_the_p_values_that_its_verdict_is_made_from(metrics: Metrics) -> None:
    claim = metrics.summary["claims"][2]
    claim |= {"p_corrected": 0.52, "below_p_corrected": 0.376}  # at a look with a quarter of alpha
    said = "with p = 0.094 (0.520 and 0.376 for the look’s share of alpha). Pair by pair"
    assert said in claims(metrics)[2].note
    del claim["below_p"]  # a file from before it
    said = (
        "From 5 seeds, tested one-sided: above 0 with p = 0.130 (0.520 for the look’s share of alpha). Pair"
    )
    assert claims(metrics)[2].note.startswith(said)


def test_an_interaction_that_is_denied_is_less_than_the_margin(metrics: Metrics) -> None:
    metrics.summary["claims"][2]["verdict"] = "contradicted"
    claim = claims(metrics)[2]
    assert claim.answer == "Not by the margin"
    assert plain(claim.sentence).endswith(
        "a difference of +0.42 [−0.50, 1.35], shown to be less than 1 point (one-sided)."
    )


def test_a_larger_gain_that_is_less_than_the_margin_says_so(metrics: Metrics) -> None:
    metrics.summary["claims"][2] |= {"verdict": "supported", "negligible": True}
    claim = claims(metrics)[2]
    assert (claim.answer, "shown to be less than 1 point" in claim.sentence) == ("Yes", True)
    metrics.summary["claims"][2]["negligible"] = False
    assert "shown to be less" not in claims(metrics)[2].sentence


@pytest.mark.parametrize("place", ["interaction", "teacher_needed"])
def test_a_claim_that_is_open_because_nobody_learned_says_so(metrics: Metrics, place: str) -> None:
    said = "a / raw: no seed of either does better than one answer for every row, 47.3"
    metrics.comparisons["look"], metrics.comparisons["stopped_by"] = 2, "equivalence"
    metrics.summary["decided"] = {"settle": "claims"}
    metrics.summary["study"] = {"looks": [2, 4]}
    for asked in metrics.summary["claims"][2:]:
        asked["look"] = 1
    number = 2 if place == "interaction" else 3
    metrics.summary["claims"][number] |= {"verdict": "inconclusive", "seeds_to_settle": 30}
    if place == "interaction":
        metrics.summary["claims"][2]["note"] = f"1 of 5 seeds lack one of the four trials; {said}"
    else:
        metrics.summary["teacher_needed"] = [samples.TEACHER | {"note": said}]
    claim = claims(metrics)[number]
    assert claim.answer == "Undecided"
    assert claim.note.endswith(f"More seeds would not help: {said}.")
    assert "would settle" not in claim.sentence


def test_an_open_interaction_says_how_many_seeds_would_settle_it(metrics: Metrics) -> None:
    claim = metrics.summary["claims"][2]
    claim |= {"seeds_to_settle": 34, "seeds_declared": 34}
    would_take = "[−0.50, 1.35]. As estimated, about 34 seeds would settle it"
    assert plain(claims(metrics)[2].sentence).endswith(f"{would_take}.")
    claim["seeds_declared"] = 33
    assert plain(claims(metrics)[2].sentence).endswith(f"{would_take}, more than the 33 of this study.")
    claim["seeds_to_settle"] = 5  # an early look, which had a part of alpha only
    assert "would settle it" not in claims(metrics)[2].sentence
    claim["seeds_to_settle"] = None
    more = "[−0.50, 1.35]. As estimated, more than 1,000 seeds would settle it."
    assert plain(claims(metrics)[2].sentence).endswith(more)
    claim |= {"seeds_to_settle": 34, "verdict": "supported"}
    assert "would settle it" not in claims(metrics)[2].sentence


def test_an_open_interaction_of_a_pool_says_how_many_pairs_would_settle_it(metrics: Metrics) -> None:
    """Each pair of students is one value, so seeds are not what it lacks."""
    claim = metrics.summary["claims"][2]
    claim |= {"unit": "pairs", "n": 3, "seeds_declared": 5}
    claim.pop("pairs_to_settle", None)
    assert "would settle it" not in claims(metrics)[2].sentence  # a file from before `pairs_to_settle`
    claim |= {"pairs_to_settle": 12, "n": 2}
    assert (
        "would settle it" not in claims(metrics)[2].sentence
    )  # the spread of two pairs says next to nothing
    claim["n"] = 3
    would_take = "As estimated, about 12 pairs of students would settle it."
    assert plain(claims(metrics)[2].sentence).endswith(f"[−0.50, 1.35]. {would_take}")


@pytest.mark.parametrize(("stopped_by", "answer"), [("maximum", "Undecided"), ("", "Not settled")])
def test_where_every_comparison_has_ended_nobody_gets_more_seeds(
    metrics: Metrics, stopped_by: str, answer: str
) -> None:
    metrics.comparisons["look"], metrics.comparisons["stopped_by"] = 2, "equivalence"
    metrics.comparisons.loc[0, "stopped_by"] = stopped_by
    claim = claims(metrics)[2]
    assert claim.answer == answer
    assert claim.note.endswith("With “settle: claims” they would, up to the last look.") == (
        answer == "Undecided"
    )


@pytest.mark.parametrize(("look", "answer"), [(1, "Not settled"), (2, "Undecided")])
def test_a_claim_that_goes_on_alone_is_undecided_at_the_last_look(
    metrics: Metrics, look: int, answer: str
) -> None:
    metrics.comparisons["look"], metrics.comparisons["stopped_by"] = 2, "equivalence"
    metrics.summary.update(decided={"settle": "claims"}, study={"looks": [5, 12]})
    metrics.summary["claims"][2]["look"] = look
    claim = claims(metrics)[2]
    assert claim.answer == answer
    assert "settle: claims" not in claim.note
    assert claim.note.endswith("have all the seeds that the study declares.") == (answer == "Undecided")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (
            ("bbc-headlines", "bbc-headlines"),
            "From 2 pairs of students, all on bbc-headlines, tested one-sided",
        ),
        (("bbc-headlines", "digits"), "From 2 pairs of students on 2 tasks, tested one-sided"),
    ],
)
def test_a_pool_says_what_it_speaks_of(metrics: Metrics, tasks: tuple[str, str], said: str) -> None:
    row = samples.interaction()[0]
    rows = [row | {"task": task, "scratch": name} for task, name in zip(tasks, "ab", strict=True)]
    asked = [claim | {"unit": "pairs", "n": 2} for claim in samples.claims() if claim["id"] == "interaction"]
    pooled = replace(metrics, summary={"claims": asked, "interaction": rows})
    assert claims(pooled)[0].note.startswith(said)


def test_an_interaction_without_trials_says_so(metrics: Metrics) -> None:
    metrics.summary["claims"][2]["interaction"] = None
    assert claims(metrics)[2].sentence == "No seed has all the trials that this comparison needs."


def test_an_unknown_claim_keeps_its_own_words(metrics: Metrics) -> None:
    new = {"id": "a_new_one", "question": "Is it?", "verdict": "contradicted", "sentence": "It is not."}
    metrics.summary["claims"] = [new]
    (claim,) = claims(metrics)
    assert (claim.question, claim.answer, claim.sentence) == ("Is it?", "Contradicted", "It is not.")


def test_better_in_the_table_beside_undecided_is_explained(metrics: Metrics) -> None:
    metrics.comparisons.loc[2, "negligible"] = (
        False  # kd on bert-tiny: better, not shown to be within the margin
    )
    assert claims(metrics)[0].note.startswith(
        "“Undecided” is about the margin, with all 4 comparisons together: the 1 better in the table, "
        "where each family is corrected alone, is among them."
    )


def test_what_is_beyond_the_margin_is_not_among_the_undecided(metrics: Metrics) -> None:
    rows, claim = metrics.comparisons, metrics.summary["claims"][0]
    pretrained = rows.index[rows["init"] == "pretrained"][:2]
    rows.loc[pretrained, ["verdict", "negligible"]] = ["worse", False]
    claim |= {"beyond_margin": 1, "undecided": 1}
    assert (
        "together: one of the 2 worse in the table, where each family is corrected alone, may be among"
        in (claims(metrics)[0].note)
    )
    claim |= {"beyond_margin": 2}
    assert "among them" not in claims(metrics)[0].note


def test_teacher(metrics: Metrics) -> None:
    claim = claims(metrics)[3]
    assert (claim.answer, claim.verdict, claim.tested) == ("No", "contradicted", "KD above the teacher-free")
    assert plain(claim.sentence) == (
        "Against the mean of label_smoothing and tf_reg, kd −0.32 points [−0.61, −0.02], worse, negligible."
    )
    assert claim.note == (
        "From 5 seeds, over all tasks and students. One by one, corrected together: 1 worse and 5 inconclusive."
    )


def test_a_teacher_without_trials_says_so(metrics: Metrics) -> None:
    metrics.summary["teacher_needed"] = [samples.TEACHER | {"difference": None, "verdict": "inconclusive"}]
    assert "kd cannot be compared: no seed has all its trials" in claims(metrics)[3].sentence


def test_in_short(metrics: Metrics) -> None:
    assert in_short(metrics) == (
        "This study shows that some regularizers help a student trained from scratch and distillation does not beat "
        "the teacher-free regularizers by the margin. It leaves open whether any regularizer matters to a pretrained "
        "student and whether they help more from scratch than pretrained. "
        "12 differences from the baseline, −2.10 to +2.40 points: 2 better, 1 worse, 5 equivalent and 4 inconclusive."
    )


def test_in_short_when_nothing_is_settled(metrics: Metrics) -> None:
    for claim in metrics.summary["claims"]:
        claim["verdict"] = "inconclusive"
    assert in_short(metrics).startswith("This study settles none of its questions. 12 differences")


def test_in_short_without_comparisons(metrics: Metrics) -> None:
    metrics.summary["claims"] = []
    assert in_short(replace(metrics, comparisons=metrics.comparisons.iloc[:0])) == ""
