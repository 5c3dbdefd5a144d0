"""Numbers and verdicts in words; the page, the README and the figures all use these."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kdcache.study import Regularizer, Schedule, Study
from kdcache.study.metrics import POINTS, Unit

MINUS = "\N{MINUS SIGN}"
NONE = "–"
# A verdict is never shown by colour alone: it also has a word and a sign.
SIGNS = {"better": "▲", "worse": "▼", "equivalent": "≈", "inconclusive": "?"}
SIGNS |= {"supported": "✓", "contradicted": "✕"}
METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "nll": "NLL",
    "bits_per_byte": "bits per byte",
}


def metric(name: str) -> str:
    """A metric's name as people write it."""
    return METRIC_NAMES.get(name, name)


def missing(value: float | None) -> bool:
    """Whether a table's cell holds no number."""
    return value is None or math.isnan(value)


def number(value: float | None, digits: int = 1) -> str:
    """A number with fixed decimals and a true minus sign, never "-0.0"; a dash if there is no number."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{_rounded(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def _rounded(value: float, digits: int) -> float:
    """Like Python's `round`, but one number always reads the same.

    NumPy makes 1.62 of 1.615, Python 1.61; and 0.715 may come as 0.7150000000000001 where it was computed, and as 0.715
    from a file. So noise beyond the ninth decimal goes first.
    """
    return round(round(float(value), 9), digits)


def signed(value: float | None, digits: int = 2) -> str:
    """Like `number`, with a plus sign in front of gains."""
    text = number(value, digits)
    return f"+{text}" if value is not None and text[0].isdigit() and _rounded(value, digits) > 0 else text


def mean_sd(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """Such as "79.8 ± 0.6"; the mean alone if there is no standard deviation (one seed)."""
    return number(mean, digits) if missing(sd) else f"{number(mean, digits)} ± {number(sd, digits)}"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Such as "[−0.10, 0.85]"; words if there is no interval (one seed)."""
    return (
        "no interval" if missing(low) else f"[{number(low, digits)},\N{NO-BREAK SPACE}{number(high, digits)}]"
    )


def with_interval(text: str, interval: str) -> str:
    """Such as "+0.35 points [−0.10, 0.85]", or "+0.35 points, no interval"."""
    return f"{text} {interval}" if interval.startswith("[") else f"{text}, {interval}"


def p_value(value: float | None) -> str:
    """Three decimals, or "< 0.001": few seeds do not give more precision."""
    if value is None or math.isnan(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def exact_p_value(value: float | None) -> str:
    """Four decimals, for p-values that are ratios of counts; five below 0.0001, and never 0."""
    if value is None or math.isnan(value):
        return NONE
    if value < 0.00001:
        return "< 0.00001"
    return number(value, 4 if value >= 0.0001 else 5)


def one_decimal(value: float | None) -> str:
    return number(value, 1)


def two_decimals(value: float | None) -> str:
    return number(value, 2)


def whole_number(value: float | None) -> str:
    return number(value, 0)


def configuration(task: str, student: str) -> str:
    """The name of a student on a task: "digits: vit-tiny"."""
    return f"{task}: {student}"


def seconds(value: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if value is None or math.isnan(value):
        return NONE
    if value < 120:
        return f"{number(value, 1 if value < 10 else 0)} s"
    return f"{number(value / 60)} min" if value < 7200 else f"{number(value / 3600)} h"


def megabytes(value: float | None) -> str:
    """Mebibytes, or gibibytes from 2,048 on."""
    if value is None or math.isnan(value):
        return NONE
    return f"{number(value, 0)} MB" if value < 2048 else f"{number(value / 1024)} GB"


def score(mean: float | None, unit: Unit, sd: float | None = None) -> str:
    """A score in its unit, with its standard deviation where there is one: "79.8 ± 0.6", "5.124 ± 0.003"."""
    return mean_sd(mean, sd, unit.digits)


def gain(value: float | None, unit: Unit) -> str:
    """A difference in its unit, with its sign: "+0.64", "+0.0123"."""
    return signed(value, unit.digits + 1)


def gains(low: float | None, high: float | None, unit: Unit) -> str:
    """The interval of a difference in its unit."""
    return interval(low, high, unit.digits + 1)


def size(value: float | None, unit: Unit) -> str:
    """The size of a difference in its unit, without a sign."""
    return number(value, unit.digits + 1)


def amount(value: float, unit: Unit = POINTS) -> str:
    """ "1 point", "0.5 points", "0.01 nats": what was declared, as it was."""
    return f"{value:g} {unit.singular if value == 1 else unit.plural}"


def margins(values: Iterable[float], unit: Unit = POINTS) -> str:
    """Declared margins, each once: "1 point", "0.5 points and 1 point"."""
    return listing(amount(value, unit) for value in sorted({value for value in values if not missing(value)}))


def count(n: int, noun: str, plural: str = "") -> str:
    """Such as "1 seed" or "5 seeds"; give `plural` if it is not the noun with an s."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or noun + 's'}"


def listing(items: Iterable[str]) -> str:
    """Such as "a", "a and b" or "a, b and c"."""
    names = list(items)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def verdict_words(verdict: str, negligible: bool) -> str:
    """The verdict, with "negligible" if a significant difference lies within the margin."""
    return f"{verdict}, negligible" if negligible else verdict


def outcome_words(verdict: str, negligible: bool, outcome: str) -> str:
    """The verdict, or why there is none: "undecided at the maximum", "not settled yet (look 2 of 4)".

    Args:
        outcome: from comparisons.csv; empty in older files.
    """
    return outcome if verdict == "inconclusive" and outcome else verdict_words(verdict, negligible)


def recipe(method: Regularizer) -> str:
    """A regularizer in a few words: "teacher logits, α 0.5, τ 2"."""
    if method.is_base:
        return "hard labels only"
    names = {
        "uniform": "uniform labels",
        "uniform_others": "uniform over the other classes",
        "designed": f"designed labels ({method.correct:g} correct)" if method.correct else "designed labels",
        "teacher": f"logits of {listing(method.own_teachers)}" if method.teacher else "teacher’s logits",
        "self": "own earlier logits",
    }
    parts = [names[method.soft_labels] if method.soft_labels else str(method.function)]
    parts += [f"α\N{NO-BREAK SPACE}{_over_time(method.alpha)}"] if method.alpha else []
    parts += [f"τ\N{NO-BREAK SPACE}{_over_time(method.temperature)}"] if method.temperature != 1 else []
    parts += [f"β\N{NO-BREAK SPACE}{method.beta:g}"] if method.beta is not None else []
    parts += [method.divergence.replace("_", " ")] if method.divergence != "kl" else []
    parts += ["released variant"] if method.variant == "released" else []
    parts += (
        [f"tail {method.tail}d" if method.tail == "renormalise" else f"tail in one {method.tail}"]
        if method.tail
        else []
    )
    parts += ["unlabelled rows too"] if method.unlabelled == "use" else []
    return ", ".join(parts)


def recipe_of(study: Study, name: str) -> str:
    """A method of a study in a few words; tuned values are only named: "teacher logits, tuned α, τ"."""
    method = study.method(name)
    values = study.tuning.values(name) if study.tuning else {}
    if not values:
        return recipe(method)
    fields = type(method).model_fields
    plain = {key: fields[key].default for key in values if key in fields}
    named = listing(
        {"alpha": "α", "temperature": "τ", "beta": "β"}.get(key, key.replace("_", " ")) for key in values
    )
    return f"{recipe(method.model_copy(update=plain))}, tuned {named}"


def _over_time(value: float | Schedule[float]) -> str:
    """Such as "0.5", or "1 to 0" for a value that changes during training."""
    return f"{value.start:g} to {value.end:g}" if isinstance(value, Schedule) else f"{value:g}"
