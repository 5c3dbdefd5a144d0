"""A study's claims in words; the only place for them: summary.json, the report and the README all use it.

`claims.py` decides the verdicts. Here the verdicts and numbers become a question, a short answer and a sentence. The
numbers are read from the files, so older files get the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from kdcache.statistics import power, wording
from kdcache.statistics.judging import VERDICTS
from kdcache.statistics.learned import unlearned_of
from kdcache.study.metrics import POINTS, Unit, unit_of

NONE_GOES_ON = "No comparison with the baseline goes on, so nobody gets more seeds."
WITH_CLAIMS = "With “settle: claims” they would, up to the last look."
AT_THE_LAST_LOOK = "Its configurations have all the seeds that the study declares."
WITH_LOOKS = ("interaction", "teacher_needed")  # the claims for which `settle: claims` goes on
NAMED_AT_MOST = 2  # winners that are named in a sentence; more are counted
Numbers: TypeAlias = Mapping[str, Any]  # the numbers of a claim, or of a row of summary.json


@dataclass(frozen=True)
class ClaimRows:
    """The rows behind the claims, from the files: comparisons.csv, and two lists of summary.json.

    With `settle: claims` an open claim goes on up to `last_look`; without, it is None.
    """

    comparisons: pd.DataFrame
    interactions: list[dict[str, Any]]
    teacher_needed: list[dict[str, Any]]
    last_look: int | None = None

    @classmethod
    def of_summary(cls, comparisons: pd.DataFrame, summary: Numbers) -> ClaimRows:
        """The rows in comparisons.csv and summary.json; a summary of an older version may lack some."""
        goes_on = summary.get("decided", {}).get("settle") == "claims"
        last_look = len(summary["study"]["looks"]) if goes_on else None
        return cls(comparisons, summary.get("interaction", []), summary.get("teacher_needed", []), last_look)

    def of_init(self, init: str) -> pd.DataFrame:
        """The comparisons of pretrained students, or of those from scratch."""
        return self.comparisons[self.comparisons["init"] == init]

    @property
    def none_goes_on(self) -> bool:
        """Whether this is a study with looks in which every comparison has ended."""
        rows = self.comparisons
        if "look" not in rows or rows.empty:
            return False
        return bool(rows["look"].max() > 1 and (rows["stopped_by"] != "").all())

    @property
    def pairs(self) -> set[tuple[str, str, str]]:
        """(task, scratch student, pretrained student) of every pair for which the interaction was tested."""
        rows = (row for row in self.interactions if row["scope"] == "pair")
        return {(row["task"], row["scratch"], row["pretrained"]) for row in rows}

    @property
    def pooled(self) -> list[dict[str, Any]]:
        """The rows of `teacher_needed` over all tasks and students."""
        return [row for row in self.teacher_needed if row["scope"] == "pooled" and row["init"] == "all"]

    def pool(self, pairs: int) -> str:
        """The pairs of a pool in words: "6 pairs of students on 2 tasks", "3 pairs of students, all on digits"."""
        tasks = sorted({task for task, _, _ in self.pairs})
        on = f", all on {tasks[0]}" if len(tasks) == 1 else f" on {wording.count(len(tasks), 'task')}"
        return f"{wording.count(pairs, 'pair')} of students{on}"


@dataclass(frozen=True)
class ClaimInWords:
    """A question, its short answer, the verdict on the claim behind it, a sentence of numbers, and a side note."""

    question: str
    answer: str
    verdict: str  # supported, contradicted or inconclusive
    sentence: str
    note: str = ""
    tested: str = ""  # the claim behind the verdict, in a few words


Words: TypeAlias = tuple[str, str]  # the sentence, and the side note


def put_into_words(claim: Numbers, rows: ClaimRows) -> ClaimInWords:
    """A claim of summary.json in words; a claim that this module does not know keeps its words from the file."""
    verdict = str(claim["verdict"])
    if claim["id"] not in KNOWN:
        return ClaimInWords(str(claim["question"]), verdict.capitalize(), verdict, str(claim["sentence"]))
    known = KNOWN[claim["id"]]
    text, note = known.words(claim, rows)
    answer = known.answers.get(verdict)
    ended = _why_ended(claim, rows) if answer is None else ""
    if ended:
        answer, note = "Undecided", f"{note} {ended}".strip()
    return ClaimInWords(known.question, answer or "Not settled", verdict, text, note, known.tested)


def _why_ended(claim: Numbers, rows: ClaimRows) -> str:
    """Why an open claim gets no more seeds; nothing if it does, or if it has no looks."""
    if not rows.none_goes_on:
        return ""
    if claim["id"] not in WITH_LOOKS:
        return NONE_GOES_ON
    unlearned = _unlearned(claim, rows)
    if unlearned:
        return f"More seeds would not help: {unlearned}."
    if rows.last_look is None:
        return f"{NONE_GOES_ON} {WITH_CLAIMS}"
    return AT_THE_LAST_LOOK if claim["look"] == rows.last_look else ""


def _unlearned(claim: Numbers, rows: ClaimRows) -> str:
    """Where nobody learned anything, if that is why the claim is open."""
    if claim["id"] == "interaction":
        return unlearned_of([str(claim.get("note", ""))])
    return unlearned_of(str(row.get("note", "")) for row in rows.pooled)


def put_in_short(verdicts: Mapping[str, str], comparisons: pd.DataFrame) -> str:
    """The study in short: what is settled, what is not, and all verdicts counted.

    Args:
        verdicts: the claims' verdicts, by the claims' ids.
    """
    asked = [(known, verdicts[name]) for name, known in KNOWN.items() if name in verdicts]
    shown = [known.shown[verdict] for known, verdict in asked if verdict in known.shown]
    unanswered = [known.topic for known, verdict in asked if verdict not in known.shown]
    parts = [f"This study shows that {wording.listing(shown)}."] if shown else []
    if unanswered and shown:
        parts.append(f"It leaves open {_either(unanswered)}.")
    elif unanswered:
        parts.append(
            "This study settles none of its questions." if len(unanswered) > 1 else "The answer is open."
        )
    return " ".join([*parts, _counted(comparisons)]).strip()


def _either(topics: list[str]) -> str:
    return " and ".join(", ".join(part) for part in (topics[:-1], topics[-1:]) if part)


def _counted(rows: pd.DataFrame) -> str:
    """Such as "12 differences from the baseline, −0.84 to +0.64 points: 1 equivalent and 11 inconclusive."."""
    counts = ((name, int((rows["verdict"] == name).sum())) for name in VERDICTS)
    said = wording.listing(f"{n} {name}" for name, n in counts if n)
    known = rows["difference"].dropna()
    if known.empty:
        return ""
    unit = _unit(rows)
    span = f"{wording.gain(known.min(), unit)} to {wording.gain(known.max(), unit)} {unit.plural}"
    return f"{wording.count(len(rows), 'difference')} from the baseline, {span}: {said}."


def _pretrained(claim: Numbers, all_rows: ClaimRows) -> Words:
    rows = all_rows.of_init("pretrained")
    within, beyond, open_ = (int(claim[key]) for key in ("within_margin", "beyond_margin", "undecided"))
    margins = wording.margins(rows["margin"], _unit(rows))
    shown = f"{_share(within, len(rows))} shown to lie within {margins} of plain fine-tuning"
    others = [f"{n} {position}" for n, position in ((beyond, "beyond it"), (open_, "undecided")) if n]
    text = ", ".join([shown, *others])
    note = " ".join(part for part in (_wider(rows, beyond, open_), _limits(rows)) if part)
    return f"{text}. {_extremes(rows)}".strip(), note


def _wider(rows: pd.DataFrame, beyond: int, undecided: int) -> str:
    """The explanation why a comparison can be better in the table and undecided in this claim."""
    decided = rows[rows["verdict"].isin(["better", "worse"]) & ~rows["negligible"].astype(bool)]
    left = len(decided) - beyond  # those beyond the margin are decided in the table as well
    if left < 1 or not undecided:
        return ""
    some = ("one of " if left == 1 else "some of ") if beyond else ""
    verb = "may be" if beyond else "is" if len(decided) == 1 else "are"
    words = wording.listing(f"{n} {name}" for name, n in Counter(decided["verdict"]).items())
    return (
        f"“Undecided” is about the margin, with all {len(rows)} comparisons together: {some}the {words} in the table, "
        f"where each family is corrected alone, {verb} among them."
    )


def _scratch(claim: Numbers, all_rows: ClaimRows) -> Words:
    rows = all_rows.of_init("scratch")
    won = rows[rows["verdict"] == "better"].sort_values("difference", ascending=False)
    text = f"{_share(len(won), len(rows))} better than plain fine-tuning"
    if len(won):
        most = ", most of all" if len(won) > NAMED_AT_MOST else ":"
        text += f"{most} {wording.listing(_named(row) for row in won.head(NAMED_AT_MOST).itertuples())}"
    together = int(claim["better"])
    if together > len(won):  # the families of the table are wider than the claim
        alone = "alone" if len(rows) == 1 else f"over these {len(rows)} alone"
        text += f". Corrected {alone}, {together} {'are' if together > 1 else 'is'} better"
    elif together < len(won):  # the answer depends on `together`
        remain = f"{together or 'none'} {'remain' if together > 1 else 'remains'}"
        text += f". Corrected over all {len(rows)} together, {remain} better"
    return f"{text}.", " ".join(part for part in (_others(rows), _limits(rows)) if part)


def _share(n: int, total: int) -> str:
    """Such as "All 8 comparisons are", "1 of 8 comparisons is" or "None of 8 comparisons is"."""
    if total == 1:
        return f"The only comparison is{'' if n else ' not'}"
    if n == total:
        return f"All {n} comparisons are"
    return f"{n or 'None'} of {wording.count(total, 'comparison')} {'are' if n > 1 else 'is'}"


def _interaction(claim: Numbers, rows: ClaimRows) -> Words:
    if claim["interaction"] is None:
        return "No seed has all the trials that this comparison needs.", ""
    unit = _unit(rows.comparisons)
    difference = wording.with_interval(
        wording.gain(claim["interaction"], unit), wording.gains(claim["ci_low"], claim["ci_high"], unit)
    )
    text = (
        f"Averaged over regularizers, {wording.gain(claim['gain_scratch'], unit)} {unit.plural} from scratch and "
        f"{wording.gain(claim['gain_pretrained'], unit)} pretrained: a difference of {difference}{_shown(claim, unit)}."
        f"{_would_take(claim)}"
    )
    return text, f"From {_units(claim, rows)}, {_tests(claim, unit)}. {_one_by_one(claim, rows)}".strip()


def _shown(claim: Numbers, unit: Unit) -> str:
    """That the difference is less than the margin, where that is shown: the interval is stricter than the test."""
    if claim["verdict"] != "contradicted" and not claim.get("negligible"):  # older files lack it
        return ""
    return f", shown to be less than {wording.amount(claim['margin'], unit)} (one-sided)"


def _tests(claim: Numbers, unit: Unit) -> str:
    """Both one-sided tests with their p-values; with looks also the p-values that the verdict is made from."""
    if claim["p"] is None:
        return "no test possible"
    asked = {"p": "above 0"}
    if "below_p" in claim:  # older files lack it
        asked["below_p"] = f"below {wording.amount(claim['margin'], unit)}"
    said = ", ".join(f"{of} with p {_stated(claim[name])}" for name, of in asked.items())
    corrected = {name: claim.get(f"{name}_corrected", claim[name]) for name in asked}
    if corrected == {name: claim[name] for name in asked}:
        return f"tested one-sided: {said}"
    of_look = wording.listing(wording.p_value(p) for p in corrected.values())
    return f"tested one-sided: {said} ({of_look} for the look’s share of alpha)"


def _would_take(claim: Numbers) -> str:
    """How many seeds, or pairs of students, would answer an open interaction; nothing where it is answered."""
    key = f"{claim['unit']}_to_settle"
    if claim["verdict"] != "inconclusive" or claim["p"] is None or key not in claim:  # older files lack a key
        return ""
    if unlearned_of([claim.get("note", "")]):
        return ""
    kind, needed = "pairs of students" if claim["unit"] == "pairs" else "seeds", claim[key]
    if needed is None:
        return f" As estimated, more than {power.MOST_SEEDS:,} {kind} would settle it."
    if kind != "seeds" and claim["n"] <= 2:
        return ""  # the spread of two values says next to nothing
    if needed <= claim["n"]:
        return ""  # an early look has only part of alpha: it can leave open what a single look at its seeds would show
    most = claim["seeds_declared"]
    beyond = f", more than the {most} of this study" if kind == "seeds" and needed > most else ""
    return f" As estimated, about {needed} {kind} would settle it{beyond}."


def _units(claim: Numbers, rows: ClaimRows) -> str:
    """How many values the test has, and what they are about: pairs on one task say nothing about other tasks."""
    n, unit = int(claim["n"]), str(claim["unit"]).removesuffix("s")
    return rows.pool(n) if unit == "pair" else wording.count(n, unit)


def _one_by_one(claim: Numbers, rows: ClaimRows) -> str:
    """For which regularizers single pairs of students show the interaction, each tested and corrected."""
    counts = Counter(row["regularizer"] for row in claim["per_regularizer_supported"])
    if not counts:
        return "No regularizer is shown to gain more from scratch in any pair of students."
    said = (f"{name} in {n} of {len(rows.pairs)}" for name, n in counts.most_common())
    return f"Pair by pair a larger gain is shown for {wording.listing(said)}."


def _stated(p: float) -> str:
    text = wording.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _extremes(rows: pd.DataFrame) -> str:
    known = rows["difference"].dropna()
    if known.empty:
        return ""
    unit = _unit(rows)
    ends = (wording.gain(end, unit) for end in (known.min(), known.max()))
    return f"Differences run from {' to '.join(ends)} {unit.plural}."


def _unit(rows: pd.DataFrame) -> Unit:
    """The unit in which a study's comparisons are judged; points if the rows do not say."""
    return unit_of(str(rows["metric"].iloc[0])) if len(rows) and "metric" in rows else POINTS


def _named(row: Any) -> str:
    unit = unit_of(getattr(row, "metric", ""))
    ends = wording.gains(row.ci_low, row.ci_high, unit)
    gain = wording.with_interval(wording.gain(row.difference, unit), ends)
    return f"{row.regularizer} with {row.student} on {row.task}, {gain}"


def _others(rows: pd.DataFrame) -> str:
    """How many comparisons are not better, and how many are better but negligible."""
    small = int((rows["negligible"].astype(bool) & (rows["verdict"] == "better")).sum())
    said = [f"{small} of the better ones negligible"] if small else []
    counts = (
        (name, int((rows["verdict"] == name).sum())) for name in ("worse", "equivalent", "inconclusive")
    )
    said += [f"{n} {name}" for name, n in counts if n]
    return f"{wording.listing(said)}.".capitalize() if said else ""


def _limits(rows: pd.DataFrame) -> str:
    """How large an effect the inconclusive comparisons could have missed, and how many seeds would settle them."""
    missed = rows[(rows["verdict"] == "inconclusive") & rows["detectable"].notna()]
    if missed.empty:
        return ""
    unit = _unit(rows)
    low, high = (
        wording.size(limit, unit) for limit in (missed["detectable"].min(), missed["detectable"].max())
    )
    span = low if low == high else f"{low} to {high}"
    text = f"An inconclusive one would have shown a true difference of {span} {unit.plural} (80% power)."
    return f"{text}{_would_settle(missed)}"


def _would_settle(rows: pd.DataFrame) -> str:
    """With how many seeds open comparisons would be settled, either way; nothing where a file does not have it."""
    seeds = rows.loc[rows["settled_by"].fillna("") != "", "seeds_to_settle"]
    if seeds.empty:
        return ""
    most = [f"more than {power.MOST_SEEDS:,}"] if seeds.isna().any() else []
    known = [f"{number:.0f}" for number in sorted({seeds.min(), seeds.max()}) if pd.notna(number)]
    span = " to ".join([known[0], *(most or known[1:])] if known else most)
    about, each = "about " if known else "", "it" if len(seeds) == 1 else "each"
    return f" As estimated, {about}{span} seeds would settle {each}."


def _teacher(claim: Numbers, rows: ClaimRows) -> Words:
    """KD against the mean of the teacher-free regularizers, from the pooled rows of summary.json."""
    free = [str(name) for name in claim.get("teacher_free", [])]
    pooled = rows.pooled
    if not pooled or not free:
        return str(claim.get("sentence", "")), ""
    against = free[0] if len(free) == 1 else f"the mean of {wording.listing(free)}"
    said = wording.listing(_advantage(row) for row in pooled)
    counts = wording.listing(f"{claim[name]} {name}" for name in VERDICTS if claim.get(name))
    seeds = wording.count(int(pooled[0]["seeds"]), "seed")
    note = f"From {seeds}, over all tasks and students. One by one, corrected together: {counts or 'none'}."
    return f"Against {against}, {said}.", note


def _advantage(row: Numbers) -> str:
    if row["difference"] is None:
        return f"{row['regularizer']} cannot be compared: no seed has all its trials"
    unit = unit_of(row.get("metric", ""))
    ends = wording.gains(row["ci_low"], row["ci_high"], unit)
    gain = wording.with_interval(f"{wording.gain(row['difference'], unit)} {unit.plural}", ends)
    return f"{row['regularizer']} {gain}, {wording.verdict_words(row['verdict'], row['negligible'])}"


@dataclass(frozen=True)
class Known:
    """The words for a claim that this module knows; its question is asked as a reader would ask it.

    `answers` and `shown` are keyed by verdict; a verdict that is in neither leaves the question open. For the first
    claim, "supported" (no effect beyond the margin) gives the answer No.
    """

    question: str
    tested: str
    topic: str
    answers: dict[str, str]
    shown: dict[str, str]
    words: Callable[[Numbers, ClaimRows], Words]


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
        {"supported": "Yes", "contradicted": "Not by the margin"},
        {
            "supported": "regularizers help more from scratch than pretrained",
            "contradicted": "regularizers do not help more from scratch than pretrained by the margin",
        },
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
