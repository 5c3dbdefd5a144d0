"""The sentences that a reader sees first."""

from pathlib import Path

import pytest

from kdcache.report.claims import claims
from kdcache.report.inputs import Metrics, read_metrics
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
    # tf_reg alone is inconclusive: 1.35 x 1.90
    assert claim.beside == "An inconclusive one would have shown a true difference of 2.6 points (80% power)."


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
    assert claim.beside.startswith("1 worse, 3 equivalent and 3 inconclusive.")


def test_interaction(metrics: Metrics) -> None:
    claim = claims(metrics)[2]
    assert claim.answer == "Not settled"
    assert plain(claim.sentence).endswith("a difference of +0.42 [−0.50, 1.35].")
    assert claim.beside == "From 5 seeds, one-sided p = 0.130. Pair by pair it is shown for kd in 1 of 1."


def test_an_interaction_without_trials_says_so(metrics: Metrics) -> None:
    metrics.summary["claims"][2]["interaction"] = None
    assert claims(metrics)[2].sentence == "No seed has all the trials that this comparison needs."


def test_an_unknown_claim_keeps_its_own_words(metrics: Metrics) -> None:
    new = {"id": "teacher_needed", "question": "Is it?", "verdict": "contradicted", "sentence": "It is not."}
    metrics.summary["claims"] = [new]
    (claim,) = claims(metrics)
    assert (claim.question, claim.answer, claim.sentence) == ("Is it?", "Contradicted", "It is not.")
