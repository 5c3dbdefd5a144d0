"""Mistakes between entries of params.yaml, such as an unknown teacher, or a missing margin for a task's metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import product
from math import prod

from pydantic import ValidationError

from kdcache.study.language import language_mistakes
from kdcache.study.methods import Regularizer
from kdcache.study.metrics import CLASSIFICATION_METRICS, LANGUAGE_METRICS, REGRESSION_METRICS, unit_of
from kdcache.study.models import Model
from kdcache.study.schema import Comparison, Study
from kdcache.study.task import Source, Task
from kdcache.study.tuning import ALL, MOST_POINTS, RECIPE, Tuning, applied
from kdcache.system.quoting import listed, quoted

CACHED = ("teacher", "self")  # soft labels that come from cached logits
MOST_STAGES = 100_000


@dataclass(frozen=True)
class Entries:
    """The entries of a study file that may have mistakes.

    Args:
        sound: the entries without mistakes of their own, or whose mistakes do not affect other entries.
        names: the names of all entries, by group.
    """

    sound: Study
    names: Mapping[str, list[str]]


def mistakes_between(entries: Entries) -> Iterator[str]:
    """One line for each mistake, with its path in the file."""
    yield from _unknown_tasks(entries)
    yield from _unusable_teachers(entries)
    yield from _unknown_seeds_to_keep(entries)
    yield from _methods_in_the_wrong_group(entries)
    yield from _methods_that_need_classes(entries)
    yield from language_mistakes(entries.sound)
    yield from _tasks_without_unlabelled_rows(entries)
    yield from _unusable_class_weights(entries)
    yield from _reserved_names(entries)
    yield from _unusable_baseline(entries)
    yield from _missing_margins(entries)
    yield from _several_units(entries)
    yield from _unusable_tuning(entries)
    yield from _stages_of_one_name(entries.names)


def _unknown_tasks(entries: Entries) -> Iterator[str]:
    study, tasks = entries.sound, set(entries.names["tasks"])
    groups: dict[str, Mapping[str, Model]] = {"teachers": study.teachers, "students": study.students}
    known = listed(entries.names["tasks"])
    for group, models in groups.items() if tasks else ():
        for name, model in models.items():
            for task in model.tasks or ():
                if task not in tasks:
                    yield f"{group}.{name}.tasks: no task {quoted(task)} (there are: {known})"


def _unusable_teachers(entries: Entries) -> Iterator[str]:
    study, known = entries.sound, listed(entries.names["teachers"])
    needing = [
        f"distillers.{name}"
        for name, method in study.distillers.items()
        if method.soft_labels == "teacher" and not method.own_teachers
    ]
    for name, student in study.students.items():
        key = f"students.{name}.teacher"
        if needing and not student.teachers:
            yield f"{key}: missing, but {listed(needing)} needs a teacher (there are: {known})"
        yield from _unusable_of(entries, key, student.teachers, _tasks_of(entries, student))
    tasks = set().union(*(_tasks_of(entries, student) for student in study.students.values()))
    for name, method in study.distillers.items():
        if method.soft_labels == "teacher":
            yield from _unusable_of(entries, f"distillers.{name}.teacher", method.own_teachers, tasks)


def _unknown_seeds_to_keep(entries: Entries) -> Iterator[str]:
    seeds = entries.sound.seeds  # empty if the key itself has mistakes
    for name, student in entries.sound.students.items() if seeds else ():
        if isinstance(student.keep, tuple):
            for seed in sorted(set(student.keep) - set(seeds)):
                yield f"students.{name}.keep: no seed {seed} (there are: {listed(seeds)})"


def _unusable_of(entries: Entries, key: str, teachers: Iterable[str], tasks: Set[str]) -> Iterator[str]:
    """Mistakes about teachers that do not exist, or that are not declared for all of these tasks."""
    known, sound = entries.names["teachers"], entries.sound.teachers
    for teacher in teachers:
        if teacher not in known:
            yield f"{key}: no teacher {quoted(teacher)} (there are: {listed(known)})"
        elif teacher in sound and (missing := tasks - _tasks_of(entries, sound[teacher])):
            names = listed(quoted(task) for task in entries.names["tasks"] if task in missing)
            yield f"{key}: {quoted(teacher)} is not declared for task {names}"


def _tasks_of(entries: Entries, model: Model) -> Set[str]:
    every = entries.names["tasks"]
    return set(every) if model.tasks is None else set(model.tasks).intersection(every)


def _methods_in_the_wrong_group(entries: Entries) -> Iterator[str]:
    study, regularizers = entries.sound, set(entries.names["regularizers"])
    for name in entries.names["distillers"]:
        if name in regularizers:
            yield f"distillers.{name}: the name is also a regularizer's; names must differ"
    for name, method in study.regularizers.items():
        if method.soft_labels in CACHED:
            key = f"regularizers.{name}.soft_labels"
            yield f"{key}: {method.soft_labels!r} needs cached logits; move it to distillers"
    for name, method in study.distillers.items():
        if method.soft_labels not in CACHED:
            source = repr(method.soft_labels) if method.soft_labels else "none"
            yield f"distillers.{name}.soft_labels: a distiller needs teacher or self, found {source}"


def _methods_that_need_classes(entries: Entries) -> Iterator[str]:
    study = entries.sound
    regression = next((name for name, task in study.tasks.items() if task.regression), None)
    groups = {"regularizers": study.regularizers, "distillers": study.distillers}
    for group, methods in groups.items():
        for name, method in methods.items():
            if regression is not None and _needs_classes(method):
                yield (
                    f"{group}.{name}: task {quoted(regression)} is a regression (one output), where only base, "
                    "teacher/self soft labels with divergence: mse and an own function are defined"
                )


def _needs_classes(method: Regularizer) -> bool:
    return not (method.is_base or method.function or method.divergence == "mse")


def _tasks_without_unlabelled_rows(entries: Entries) -> Iterator[str]:
    study = entries.sound
    users = [f"distillers.{name}" for name, method in study.distillers.items() if method.unlabelled == "use"]
    for name, task in study.tasks.items():
        read = isinstance(getattr(task, "source", None), Source)  # otherwise the task itself has mistakes
        if users and read and not task.has_unlabelled:
            yield (
                f"tasks.{name}: has no unlabelled rows for {listed(users)}; give it `unlabelled: rest` beside "
                "train_size, or its source a split named unlabelled"
            )


def _unusable_class_weights(entries: Entries) -> Iterator[str]:
    study = entries.sound
    own = [name for name, method in {**study.regularizers, **study.distillers}.items() if method.function]
    groups: dict[str, Mapping[str, Model]] = {"teachers": study.teachers, "students": study.students}
    for group, models in groups.items():
        for name, model in models.items():
            if model.class_weights is None:
                continue
            key = f"{group}.{name}.class_weights"
            tasks = _tasks_of(entries, model)
            for task in (name for name in study.tasks if name in tasks):
                if study.tasks[task].regression or study.tasks[task].language_modelling:
                    kind = "a regression" if study.tasks[task].regression else "language modelling"
                    yield f"{key}: task {quoted(task)} is {kind} and has no classes"
                    break
            if own and group == "students":
                yield f"{key}: has no effect on {quoted(own[0])}, whose function has to weigh the classes itself"


def _reserved_names(entries: Entries) -> Iterator[str]:
    for group in ("regularizers", "distillers"):
        if ALL in entries.names[group]:
            yield f"{group}.{ALL}: means every method, in tables and in tuning.space; rename it"


def _unusable_baseline(entries: Entries) -> Iterator[str]:
    comparison: Comparison | None = entries.sound.comparison  # None if `comparison` itself has mistakes
    known = entries.names["regularizers"]
    if comparison is None:
        return
    key, baseline = "comparison.baseline", quoted(comparison.baseline)
    if comparison.baseline in entries.names["distillers"]:
        yield f"{key}: {baseline} is a distiller; name a regularizer (there are: {listed(known)})"
    elif known and comparison.baseline not in known:
        yield f"{key}: no regularizer {baseline} (there are: {listed(known)})"
    elif not entries.sound.regularizers.get(comparison.baseline, Regularizer()).is_base:
        yield (
            f"{key}: {baseline} is a label regularizer; name one without soft labels and function, plain fine-tuning, "
            "which all others are compared with"
        )


def _missing_margins(entries: Entries) -> Iterator[str]:
    comparison: Comparison | None = entries.sound.comparison
    if comparison is None:
        return
    for name, task in entries.sound.tasks.items():
        if task.metrics[0] not in comparison.margin:
            metric = quoted(task.metrics[0])
            yield f"comparison.margin: no margin for {metric}, the first metric of task {quoted(name)}"


def _several_units(entries: Entries) -> Iterator[str]:
    """Refuse first metrics with different units: a study's statements about all of its tasks have one unit."""
    units = {name: unit_of(task.metrics[0]) for name, task in entries.sound.tasks.items()}
    first = next(iter(units), None)
    other = next((name for name, unit in units.items() if first and unit != units[first]), None)
    if first and other:
        yield (
            f"tasks.{other}.metrics: judged in {units[other].plural}, but task {quoted(first)} in "
            f"{units[first].plural}; the first metrics of one study are of one unit, so write two studies"
        )


def _unusable_tuning(entries: Entries) -> Iterator[str]:
    study, tuning = entries.sound, entries.sound.tuning
    if tuning is None:
        return
    names = [*entries.names["regularizers"], *entries.names["distillers"]]
    shared = [seed for seed in tuning.seeds if seed in study.seeds]
    if shared:
        yield f"tuning.seeds: {listed(shared)} also in seeds; the seeds that choose are not to be those that judge"
    for name in tuning.space:
        if name != ALL and name not in names:
            yield f"tuning.space: no method {quoted(name)} (there are: {ALL}, {listed(names)})"
    for name, task in study.tasks.items():
        if tuning.metric is not None and not _has_score(task, tuning.metric):
            yield f"tuning.metric: {quoted(tuning.metric)} is not defined for task {quoted(name)}"
    yield from _unusable_space_of_teachers(entries, tuning)
    sizes = [size for name in names for size in tuning.values(name).get("batch_size", [])]
    yield from _too_small_batches("tuning.space", sizes, "students", study.students)
    groups = {"regularizers": study.regularizers, "distillers": study.distillers} if tuning.space else {}
    for group, methods in groups.items():
        for name, method in methods.items():
            yield from _unusable_space(tuning, group, name, method)


def _too_small_batches(
    key: str, sizes: list[float], group: str, models: Mapping[str, Model]
) -> Iterator[str]:
    for name, model in models.items():
        if sizes and min(sizes) < model.accumulate:
            parts = f"{group}.{name}.accumulate: {model.accumulate}"
            yield f"{key}: batch_size {min(sizes):g} cannot be computed in as many parts as {parts}"


def _has_score(task: Task, metric: str) -> bool:
    if task.language_modelling:
        return metric in LANGUAGE_METRICS
    return metric in (REGRESSION_METRICS if task.regression else CLASSIFICATION_METRICS)


def _unusable_space_of_teachers(entries: Entries, tuning: Tuning) -> Iterator[str]:
    if tuning.teachers is None:
        return
    if not tuning.teachers.values:
        yield "tuning.teachers: lists no value; give at least one key, such as epochs: [2, 4, 8]"
    if not entries.names["teachers"]:
        yield "tuning.teachers: there are no teachers to tune; leave it out"
    for name, teacher in entries.sound.teachers.items():
        if teacher.epochs == 0:
            yield f"tuning.teachers: teachers.{name} has epochs: 0, it is as its checkpoint is; leave one of them out"
    batches = tuning.teachers.values.get("batch_size", [])
    yield from _too_small_batches("tuning.teachers", batches, "teachers", entries.sound.teachers)
    for name, task in entries.sound.tasks.items():
        if task.regression:
            yield (
                f"tuning.teachers: teachers are chosen by nll, which a regression such as task {quoted(name)} does not "
                "have; leave it out, and declare the teacher's values"
            )
    points = prod(map(len, tuning.teachers.values.values()))
    if points > MOST_POINTS:
        yield f"tuning.teachers: {points:,} settings; at most {MOST_POINTS:,} can be looked at, so leave out values"


def _unusable_space(tuning: Tuning, group: str, name: str, method: Regularizer) -> Iterator[str]:
    """Mistakes in a method's space: values that the method cannot take, and fewer settings than the budget."""
    key, values = f"tuning.space.{name}", tuning.values(name)
    for own, tried in values.items():
        for value in tried if own not in RECIPE else ():
            first = {other: choices[0] for other, choices in values.items() if other not in RECIPE}
            try:
                applied(method, {**first, own: value})
            except ValidationError as error:
                said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
                yield f"{key}.{own}: {value:g} cannot be set in {group}.{name}: {said}"
                return
    points = tuning.points(name)
    if points < tuning.budget:
        yield (
            f"tuning.budget: {tuning.budget}, but {group}.{name} has only {points} settings in its space "
            f"({listed(values) or 'no key'}), and every method is to have as many; add values, or write budget: "
            f"{points}"
        )
    if points > MOST_POINTS:
        yield f"{key}: {points:,} settings; at most {MOST_POINTS:,} can be looked at, so leave out values"


def _stages_of_one_name(names: Mapping[str, list[str]]) -> Iterator[str]:
    """Names that DVC would join (with '-') to the same stage name; it silently drops the second such stage."""
    for last in ("teachers", "regularizers", "distillers"):
        groups = ["tasks", last] if last == "teachers" else ["tasks", "students", last]
        stages: dict[str, tuple[str, ...]] = {}
        if (count := prod(len(names[group]) for group in groups)) > MOST_STAGES:
            yield f"{', '.join(groups)}: {count} combinations, each a stage; at most {MOST_STAGES} can be looked at"
            continue
        for combination in product(*(names[group] for group in groups)):
            stage = "-".join(combination)
            if stage in stages:
                first, second = (" + ".join(parts) for parts in (stages[stage], combination))
                yield f"{', '.join(groups)}: {first} and {second} both become {quoted(stage)}; rename one"
                break
            stages[stage] = combination
