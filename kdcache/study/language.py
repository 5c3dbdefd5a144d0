"""Mistakes of studies with language modelling: what a token cache, or a loss at every token, cannot do, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from pydantic import ValidationError

from kdcache.study.estimates import TokenEstimate
from kdcache.study.methods import Regularizer
from kdcache.study.models import Model, Student
from kdcache.study.schema import Study
from kdcache.study.tuning import RECIPE, applied
from kdcache.study.values import Schedule
from kdcache.system.quoting import quoted


def language_mistakes(study: Study) -> Iterator[str]:
    """A line for each mistake, with its path in the file.

    Args:
        study: as far as it could be read; see `mistakes.Entries`.
    """
    tasks = {name for name, task in study.tasks.items() if task.language_modelling}
    others = [name for name in study.tasks if name not in tasks]
    yield from _models(study, tasks, others)
    for group, methods in (("regularizers", study.regularizers), ("distillers", study.distillers)):
        for name, method in methods.items():
            if others and method.tail is not None:
                yield f"{group}.{name}.tail: is about token caches, and {quoted(others[0])} is not language modelling"
            for key, variant in ((f"{group}.{name}", method), *_tried(study, name, method)) if tasks else ():
                why = _undefined(variant) or _unlearnable(study, tasks, variant)
                if why:
                    yield f"{key}: task {quoted(min(tasks))} is language modelling: {why}"
                    break


def _tried(study: Study, name: str, method: Regularizer) -> Iterator[tuple[str, Regularizer]]:
    """The method with each value of its own that tuning may try, and the value's place in the file."""
    values = study.tuning.values(name) if study.tuning is not None else {}
    for key in (key for key in values if key not in RECIPE):
        for value in values[key]:
            with suppress(ValidationError):  # a mistake of its own
                yield f"tuning.space.{name}.{key}: {value:g}", applied(method, {key: value})


def _models(study: Study, tasks: set[str], others: list[str]) -> Iterator[str]:
    groups: dict[str, Mapping[str, Model]] = {"teachers": study.teachers, "students": study.students}
    for group, models in groups.items():
        for name, model in models.items():
            key, labelled = f"{group}.{name}", [task for task in others if study.applies(model, task)]
            if model.cache is not None and not any(study.applies(model, task) for task in tasks):
                yield f"{key}.cache: says what is stored of a language model; no task of it is language modelling"
            if model.epochs == 0 and model.init == "scratch":
                yield f"{key}.epochs: 0 with init: scratch is a model that has learned nothing"
            elif model.epochs == 0 and labelled:
                yield (
                    f"{key}.epochs: 0 is for language modelling; the head for task {quoted(labelled[0])} has to be "
                    "trained"
                )


def _undefined(method: Regularizer) -> str | None:
    """Why a method has no loss at every token; None if it has one."""
    if method.is_base:
        return None
    if method.function is not None:
        return "an own function is given logits [B, K] of classes; none is defined at every token"
    if method.divergence in ("mse", "dkd"):
        return f"divergence: {method.divergence} needs the teacher's logits of every token, which no token cache keeps"
    if method.unlabelled == "use":
        return "there are no unlabelled rows: every token is its own label"
    if method.soft_labels == "uniform_others":
        return "soft_labels: uniform_others has no loss in closed form here; use uniform"
    if method.variant == "released":
        return "variant: released has no loss in closed form here; use variant: paper"
    if method.soft_labels in ("uniform", "designed") and method.divergence != "kl":
        return f"divergence: {method.divergence} has no loss in closed form here; use kl"
    if method.soft_labels == "uniform" and method.temperature != 1:
        return "uniform soft labels have a loss in closed form at temperature 1 alone"
    if method.soft_labels == "designed" and isinstance(method.temperature, Schedule):
        return "a temperature that changes has no loss in closed form here; use a number"
    return None


def _unlearnable(study: Study, tasks: set[str], method: Regularizer) -> str | None:
    """Why the caches of a distiller do not hold what it needs; None if they do."""
    if method.soft_labels not in ("teacher", "self"):
        return None
    for name, student in study.students.items():
        if any(study.applies(student, task) for task in tasks):
            for key, estimate in _caches(study, name, student, method):
                why = _not_in(method, estimate)
                if why:
                    return f"{key}: {why}"
            if len(method.teachers_of(student)) > 1:
                return f"students.{name} has several teachers; sparse distributions have no common tokens to average"
    return None


def _caches(
    study: Study, name: str, student: Student, method: Regularizer
) -> Iterator[tuple[str, TokenEstimate]]:
    """For each cache from which a student learns by the method: the key that declares it, and what is stored in it."""
    if method.soft_labels == "self":
        yield f"students.{name}.cache", student.estimate
    for teacher in method.teachers_of(student):
        if teacher in study.teachers:  # or it is a mistake of its own
            yield f"teachers.{teacher}.cache", study.teachers[teacher].estimate


def _not_in(method: Regularizer, estimate: TokenEstimate) -> str | None:
    kind = estimate.estimator
    if method.tail is not None and kind != "topk":
        return f"tail is what becomes of the probability that a top-k cache lacks; a {kind} cache lacks none"
    if kind == "full":
        return None
    if method.divergence == "reverse_kl":
        return (
            "reverse KL needs the teacher's log-probability of every token that the student may give; a "
            f"{kind} cache has those of some: write estimator: full"
        )
    if method.temperature != estimate.temperature:
        return (
            f"a {kind} cache serves the temperature that it was made at, {estimate.temperature:g}: another one needs "
            "every token's probability; write temperature: at both, the same, or estimator: full"
        )
    return None
