"""The section of answers, one a claim, which the report begins with; `kdcache.statistics.claim_words` has the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdcache.report import calibration, costs, declared
from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics
from kdcache.statistics.claim_words import ClaimInWords, ClaimRows, put_in_short, put_into_words
from kdcache.study import Study


@dataclass(frozen=True)
class AnswersSection(WithoutCharts):
    """The first screen: the claims, what the study cost, and how certain the claims are."""

    template: ClassVar[str] = "sections/answers.html.j2"
    claims: list[ClaimInWords]
    cost: str
    certainty: str
    likelihood: str


def make_section(metrics: Metrics, study: Study) -> AnswersSection:
    spent = costs.costs(metrics, study)
    return AnswersSection(
        claims=claims(metrics),
        cost=costs.in_a_sentence(spent),
        certainty=declared.certainty(metrics, study),
        likelihood=calibration.likelihood(metrics),
    )


def claims(metrics: Metrics) -> list[ClaimInWords]:
    """The claims of summary.json in its order, in words."""
    rows = claim_rows(metrics)
    return [put_into_words(claim, rows) for claim in metrics.summary.get("claims", [])]


def claim_rows(metrics: Metrics) -> ClaimRows:
    """The rows behind the claims."""
    return ClaimRows.of_summary(metrics.comparisons, metrics.summary)


def in_short(metrics: Metrics) -> str:
    """The study in short: what is settled, what is not, and all verdicts counted."""
    verdicts = {str(claim["id"]): str(claim["verdict"]) for claim in metrics.summary.get("claims", [])}
    return put_in_short(verdicts, metrics.comparisons)
