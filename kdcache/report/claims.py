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
from kdcache.results.reading import Metrics, flags

VERDICTS = ("better", "worse", "equivalent", "inconclusive")
NAMED_AT_MOST = 2  # winners that are named in a sentence; more are counted


@dataclass(frozen=True)
class Claim:
    """A question, its short answer, the verdict on the claim behind it, the numbers, and what to know."""

    question: str
    answer: str
    verdict: str  # supported, contradicted or inconclusive
    sentence: str
    beside: str = ""
    tested: str = ""  # the claim behind the verdict, in a few words


Words: TypeAlias = tuple[str, str]  # the sentence, and what to know beside it
Wording: TypeAlias = Callable[[dict[str, Any], Metrics], Words]


def claims(metrics: Metrics) -> list[Claim]:
    """The claims of summary.json in its order; one that this module does not know keeps its own sentence."""
    return [_claim(claim, metrics) for claim in metrics.summary.get("claims", [])]


def _claim(claim: dict[str, Any], metrics: Metrics) -> Claim:
    verdict = str(claim["verdict"])
    if claim["id"] not in KNOWN:
        return Claim(str(claim["question"]), verdict.capitalize(), verdict, str(claim["sentence"]))
    known = KNOWN[claim["id"]]
    answer = known.answers.get(verdict, "Not settled")
    return Claim(known.question, answer, verdict, *known.words(claim, metrics), tested=known.tested)


def in_short(metrics: Metrics) -> str:
    """The study in two sentences: what is settled and what is not, and all verdicts counted."""
    verdicts = {str(claim["id"]): str(claim["verdict"]) for claim in metrics.summary.get("claims", [])}
    asked = [(known, verdicts[name]) for name, known in KNOWN.items() if name in verdicts]
    shown = [known.shown[verdict] for known, verdict in asked if verdict in known.shown]
    left = [known.topic for known, verdict in asked if verdict not in known.shown]
    parts = [f"This study shows that {wording.listing(shown)}."] if shown else []
    if left and shown:
        parts.append(f"It leaves open {_either(left)}.")
    elif left:
        parts.append("This study settles none of its questions." if len(left) > 1 else "The answer is open.")
    return " ".join([*parts, _counted(metrics.comparisons)]).strip()


def _either(topics: list[str]) -> str:
    return " and ".join(", ".join(part) for part in (topics[:-1], topics[-1:]) if part)


def _counted(rows: pd.DataFrame) -> str:
    """ "Of 12 differences from the baseline, from −0.84 to +0.64 points, 1 is equivalent and 11 inconclusive."."""
    counts = ((name, int((rows["verdict"] == name).sum())) for name in VERDICTS)
    said = wording.listing(f"{n} {name}" for name, n in counts if n)
    known = rows["difference"].dropna()
    if known.empty:
        return ""
    span = f"{wording.signed(known.min())} to {wording.signed(known.max())} points"
    return f"{wording.count(len(rows), 'difference')} from the baseline, {span}: {said}."


def _of_init(init: str, metrics: Metrics) -> pd.DataFrame:
    rows = metrics.comparisons.assign(negligible=flags(metrics.comparisons, "negligible"))
    return rows[rows["init"] == init]


def _pretrained(claim: dict[str, Any], metrics: Metrics) -> Words:
    rows = _of_init("pretrained", metrics)
    within, beyond, open_ = (int(claim[key]) for key in ("within_margin", "beyond_margin", "undecided"))
    shown = f"{_share(within, len(rows))} shown to lie within {margins(rows)} of plain fine-tuning"
    others = [f"{n} {what}" for n, what in ((beyond, "beyond it"), (open_, "undecided")) if n]
    text = ", ".join([shown, *others])
    beside = " ".join(part for part in (_wider(rows, beyond, open_), _limits(rows)) if part)
    return f"{text}. {_extremes(rows)}".strip(), beside


def _wider(rows: pd.DataFrame, beyond: int, undecided: int) -> str:
    """Why a comparison can be better in the table and undecided here."""
    found = rows[rows["verdict"].isin(["better", "worse"]) & ~rows["negligible"]]
    if found.empty or not undecided:
        return ""
    verb = "may be" if beyond else "is" if len(found) == 1 else "are"
    words = wording.listing(f"{n} {name}" for name, n in Counter(found["verdict"]).items())
    return (
        f"“Undecided” is about the margin, with all {len(rows)} comparisons together: the {words} in the table, "
        f"where each family is corrected alone, {verb} among them."
    )


def _scratch(claim: dict[str, Any], metrics: Metrics) -> Words:
    rows = _of_init("scratch", metrics)
    won = rows[rows["verdict"] == "better"].sort_values("difference", ascending=False)
    text = f"{_share(len(won), len(rows))} better than plain fine-tuning"
    if len(won):
        most = ", most of all" if len(won) > NAMED_AT_MOST else ":"
        text += f"{most} {wording.listing(_named(row) for row in won.head(NAMED_AT_MOST).itertuples())}"
    together = int(claim["better"])
    if together != len(won):  # what the answer goes by
        remain = f"{together or 'none'} {'remain' if together > 1 else 'remains'}"
        text += f". Corrected over all {len(rows)} together, {remain} better"
    return f"{text}.", " ".join(part for part in (_others(rows), _limits(rows)) if part)


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
    test = f"one-sided p {_stated(claim['p'])}" if claim["p"] is not None else "no test possible"
    return text, f"From {_units(claim, metrics)}, {test}. {_one_by_one(claim, metrics)}".strip()


def pairs(metrics: Metrics) -> set[tuple[str, str, str]]:
    """(task, scratch student, pretrained student) of every pair that the interaction was asked of."""
    rows = metrics.summary.get("interaction", [])
    return {(row["task"], row["scratch"], row["pretrained"]) for row in rows if row["scope"] == "pair"}


def pooled(n: int, metrics: Metrics) -> str:
    """What a pool of pairs is about: "6 pairs of students on 2 tasks", "3 pairs of students, all on digits"."""
    tasks = sorted({task for task, _, _ in pairs(metrics)})
    on = f", all on {tasks[0]}" if len(tasks) == 1 else f" on {wording.count(len(tasks), 'task')}"
    return f"{wording.count(n, 'pair')} of students{on}"


def _units(claim: dict[str, Any], metrics: Metrics) -> str:
    """How many values the test has, and what they can speak of: pairs that share a task say nothing of another."""
    n, unit = int(claim["n"]), str(claim["unit"]).removesuffix("s")
    return pooled(n, metrics) if unit == "pair" else wording.count(n, unit)


def _one_by_one(claim: dict[str, Any], metrics: Metrics) -> str:
    """For which regularizers the pairs of students show it, each tested and corrected."""
    found = Counter(row["regularizer"] for row in claim["per_regularizer_supported"])
    if not found:
        return "No regularizer shows it in any pair of students."
    said = (f"{name} in {n} of {len(pairs(metrics))}" for name, n in found.most_common())
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


def _teacher(claim: dict[str, Any], metrics: Metrics) -> Words:
    """KD against the mean of the teacher-free, from the pooled rows of summary.json."""
    free = [str(name) for name in claim.get("teacher_free", [])]
    rows = metrics.summary.get("teacher_needed", [])
    pooled = [row for row in rows if row["scope"] == "pooled" and row["init"] == "all"]
    if not pooled or not free:
        return str(claim["sentence"]), ""
    against = free[0] if len(free) == 1 else f"the mean of {wording.listing(free)}"
    found = wording.listing(_advantage(row) for row in pooled)
    counts = wording.listing(f"{claim[name]} {name}" for name in VERDICTS if claim.get(name))
    seeds = wording.count(int(pooled[0]["seeds"]), "seed")
    beside = f"From {seeds}, over all tasks and students. One by one, corrected together: {counts or 'none'}."
    return f"Against {against}, {found}.", beside


def _advantage(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return f"{row['regularizer']} cannot be compared: no seed has all its trials"
    gain = f"{wording.signed(row['difference'])} points {wording.interval(row['ci_low'], row['ci_high'])}"
    return f"{row['regularizer']} {gain}, {wording.verdict_words(row['verdict'], row['negligible'])}"


@dataclass(frozen=True)
class Known:
    """A claim that this module has words for; the questions are the reader's.

    `answers` and `shown` by verdict; a verdict that is in neither is not settled. For the first claim "supported"
    (no effect beyond the margin) answers No.
    """

    question: str
    tested: str
    topic: str
    answers: dict[str, str]
    shown: dict[str, str]
    words: Wording


KNOWN: dict[str, Known] = {
    "pretrained_within_margin": Known(
        "Does any regularizer make a real difference to a pretrained student?",
        "none beyond the margin",
        "whether any regularizer matters to a pretrained student",
        {"supported": "No", "contradicted": "Yes"},
        {
            "supported": "no regularizer moves a pretrained student beyond the margin",
            "contradicted": "some regularizers move a pretrained student beyond the margin",
        },
        _pretrained,
    ),
    "scratch_some_better": Known(
        "Does any help a student trained from scratch?",
        "some better from scratch",
        "whether any helps from scratch",
        {"supported": "Yes", "contradicted": "No"},
        {
            "supported": "some regularizers help a student trained from scratch",
            "contradicted": "no regularizer helps a student trained from scratch",
        },
        _scratch,
    ),
    "interaction": Known(
        "Do they help more from scratch than pretrained?",
        "more gain from scratch",
        "whether they help more from scratch than pretrained",
        {"supported": "Yes", "contradicted": "No"},
        {"supported": "regularizers help more from scratch than pretrained"},
        _interaction,
    ),
    "teacher_needed": Known(
        "Is a teacher needed: does distillation beat what needs none?",
        "KD above the teacher-free",
        "whether a teacher is needed",
        {"supported": "Yes", "contradicted": "No"},
        {
            "supported": "distillation beats the teacher-free regularizers on average",
            "contradicted": "distillation does not beat the teacher-free regularizers by the margin",
        },
        _teacher,
    ),
}
