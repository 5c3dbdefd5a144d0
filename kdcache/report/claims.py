"""The answer, one sentence a claim, with its numbers: what the report says first.

Which claims there are and their verdicts comes from `summary.json`; this module puts them into words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from kdcache.report import wording
from kdcache.report.inputs import Metrics, flags

NAMED_AT_MOST = 2  # winners that are named in a sentence; more are counted


@dataclass(frozen=True)
class Claim:
    """A question, its short answer, the verdict on the claim behind it, the numbers, and what to know."""

    question: str
    answer: str
    verdict: str  # supported, contradicted or inconclusive
    sentence: str
    beside: str = ""


Words: TypeAlias = tuple[str, str]  # the sentence, and what to know beside it
Wording: TypeAlias = Callable[[dict[str, Any], Metrics], Words]


def claims(metrics: Metrics) -> list[Claim]:
    """The claims of summary.json in its order; one that this module does not know keeps its own sentence."""
    return [_claim(claim, metrics) for claim in metrics.summary.get("claims", [])]


def _claim(claim: dict[str, Any], metrics: Metrics) -> Claim:
    verdict = str(claim["verdict"])
    if claim["id"] not in KNOWN:
        return Claim(str(claim["question"]), verdict.capitalize(), verdict, str(claim["sentence"]))
    question, answers, words = KNOWN[claim["id"]]
    return Claim(question, answers.get(verdict, "Not settled"), verdict, *words(claim, metrics))


def _of_init(init: str, metrics: Metrics) -> pd.DataFrame:
    rows = metrics.comparisons.assign(negligible=flags(metrics.comparisons, "negligible"))
    return rows[rows["init"] == init]


def _pretrained(claim: dict[str, Any], metrics: Metrics) -> Words:
    rows = _of_init("pretrained", metrics)
    within, beyond, open_ = (int(claim[key]) for key in ("within_margin", "beyond_margin", "undecided"))
    shown = f"{_share(within, len(rows))} shown to lie within {margins(rows)} of plain fine-tuning"
    others = [f"{n} {what}" for n, what in ((beyond, "beyond it"), (open_, "undecided")) if n]
    text = ", ".join([shown, *others])
    return f"{text}. {_extremes(rows)}".strip(), _limits(rows)


def _scratch(claim: dict[str, Any], metrics: Metrics) -> Words:
    rows = _of_init("scratch", metrics)
    won = rows[rows["verdict"] == "better"].sort_values("difference", ascending=False)
    text = f"{_share(len(won), len(rows))} better than plain fine-tuning"
    if len(won):
        most = ", most of all" if len(won) > NAMED_AT_MOST else ":"
        text += f"{most} {wording.listing(_named(row) for row in won.head(NAMED_AT_MOST).itertuples())}"
    together = int(claim["better"])
    beside = [_others(rows)]
    if together != len(won):
        beside.append(f"Corrected over all {len(rows)} together, {together or 'none'} remain better.")
    return f"{text}.", " ".join(part for part in [*beside, _limits(rows)] if part)


def _share(n: int, total: int) -> str:
    """ "All 8 comparisons are", "1 of 8 comparisons is", "None of 8 comparisons is"."""
    if n == total:
        return "The only comparison is" if n == 1 else f"All {n} comparisons are"
    return f"{n or 'None'} of {wording.count(total, 'comparison')} {'are' if n > 1 else 'is'}"


def _interaction(claim: dict[str, Any], metrics: Metrics) -> Words:
    if claim["interaction"] is None:
        return "No seed has all the trials that this comparison needs.", ""
    text = (
        f"Averaged over regularizers, {wording.signed(claim['gain_scratch'])} points from scratch and "
        f"{wording.signed(claim['gain_pretrained'])} pretrained: a difference of "
        f"{wording.signed(claim['interaction'])} {wording.interval(claim['ci_low'], claim['ci_high'])}."
    )
    count = wording.count(int(claim["n"]), str(claim["unit"]).removesuffix("s"))
    test = f"one-sided p {_stated(claim['p'])}" if claim["p"] is not None else "no test possible"
    return text, f"From {count}, {test}. {_one_by_one(claim, metrics)}".strip()


def _one_by_one(claim: dict[str, Any], metrics: Metrics) -> str:
    """For which regularizers the pairs of students show it, each tested and corrected."""
    rows = metrics.summary.get("interaction", [])
    pairs = {(row["task"], row["scratch"], row["pretrained"]) for row in rows if row["scope"] == "pair"}
    found = Counter(row["regularizer"] for row in claim["per_regularizer_supported"])
    if not found:
        return "No regularizer shows it in any pair of students."
    said = (f"{name} in {n} of {len(pairs)}" for name, n in found.most_common())
    return f"Pair by pair it is shown for {wording.listing(said)}."


def _stated(p: float) -> str:
    text = wording.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _extremes(rows: pd.DataFrame) -> str:
    known = rows["difference"].dropna()
    if known.empty:
        return ""
    return f"Differences run from {wording.signed(known.min())} to {wording.signed(known.max())} points."


def _named(row: Any) -> str:
    gain = f"{wording.signed(row.difference)} {wording.interval(row.ci_low, row.ci_high)}"
    return f"{row.regularizer} with {row.student} on {row.task}, {gain}"


def _others(rows: pd.DataFrame) -> str:
    """How many came out otherwise than better; small but significant ones are told apart."""
    small = int((rows["negligible"] & (rows["verdict"] == "better")).sum())
    said = [f"{small} of the better ones negligible"] if small else []
    counts = (
        (name, int((rows["verdict"] == name).sum())) for name in ("worse", "equivalent", "inconclusive")
    )
    said += [f"{n} {name}" for name, n in counts if n]
    return f"{wording.listing(said)}.".capitalize() if said else ""


def _limits(rows: pd.DataFrame) -> str:
    """How large an effect the inconclusive comparisons could have missed."""
    limits = rows.loc[rows["verdict"] == "inconclusive", "detectable"].dropna()
    if limits.empty:
        return ""
    low, high = wording.number(limits.min(), 1), wording.number(limits.max(), 1)
    span = low if low == high else f"{low} to {high}"
    return f"An inconclusive one would have shown a true difference of {span} points (80% power)."


def margins(rows: pd.DataFrame) -> str:
    """The declared margins of some comparisons: "1 point", "0.5 points and 1 point"."""
    return wording.listing(wording.points(value) for value in sorted(set(rows["margin"].dropna())))


# The questions are the reader's; for the first, "supported" (no effect beyond the margin) answers No.
KNOWN: dict[str, tuple[str, dict[str, str], Wording]] = {
    "pretrained_within_margin": (
        "Does any regularizer make a real difference to a pretrained student?",
        {"supported": "No", "contradicted": "Yes"},
        _pretrained,
    ),
    "scratch_some_better": (
        "Does any help a student trained from scratch?",
        {"supported": "Yes", "contradicted": "No"},
        _scratch,
    ),
    "interaction": (
        "Do they help more from scratch than pretrained?",
        {"supported": "Yes", "contradicted": "No"},
        _interaction,
    ),
}
