"""What a study has to run, and how much of that is there already. `estimates` says how long it takes.

This only looks at files: it downloads nothing. It imports torch only for the tokenizers that count documents' tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.checkpoints.find import find_local
from kdcache.cli.planning.documents import Counting
from kdcache.cli.planning.runs import Job, Run, Size, State
from kdcache.cli.planning.tuning import tuning_jobs
from kdcache.errors import CacheError, KdcacheError, TaskError
from kdcache.logits.opening import open_cache
from kdcache.logits.places import PLAIN, VIEWS
from kdcache.study import UNLABELLED, Model, Regularizer, Student, Study, Task, Teacher
from kdcache.system.files import read_json
from kdcache.tasks.asked import differences
from kdcache.tasks.card import CARD, TaskCard, read_card
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.identity import Parts, common_parts, content_of, identity_of, learned_from, training_parts
from kdcache.trials.layout import LIKELIHOODS, LOGITS, MODEL, TEACHER, trial_folder
from kdcache.trials.result import TrialResult, read_cost, read_result

Start: TypeAlias = tuple[str, str | None, str, int | None]  # see `_start`


@dataclass(frozen=True)
class Plan:
    """A study's jobs, the sizes of its tasks (None if unknown), and notes on what is unknown."""

    study: Study
    sizes: Mapping[str, Size | None]
    jobs: tuple[Job, ...]
    notes: tuple[str, ...] = field(default=())


def plan_study(study: Study, data: Path, rows: Mapping[str, Size] | None = None) -> Plan:
    """Count what the study has to run, and look up which results exist.

    Args:
        data: the folder that holds `tasks/`, `teachers/`, `logits/`, `trials/` and `tuning/`. It need not exist.
        rows: sizes of tasks that are not prepared.

    Raises:
        KdcacheError: `rows` names an unknown task, or one that is prepared already.
    """
    cards = {name: prepared_card(task, data / "tasks" / name) for name, task in study.tasks.items()}
    _check_rows(study, rows or {}, cards)
    sizes = {task: _size(card) if card else (rows or {}).get(task) for task, card in cards.items()}
    local = {_start(model): find_local(model) for model in _models(study)}
    lookup = partial(_Lookup, study, data, local)
    lookups = {task: lookup(task, cards[task], sizes[task]) for task in study.tasks}
    own = [job for task in lookups.values() for job in task.jobs()]
    tuned = tuning_jobs(study, data, {name: task.size_for for name, task in lookups.items()})
    jobs = (*tuned, *own)
    notes = [*_notes(study, sizes, local), *(note for task in lookups.values() for note in task.notes())]
    return Plan(study, sizes, jobs, tuple(notes))


def _models(study: Study) -> list[Model]:
    return [*study.teachers.values(), *study.students.values()]


def _start(model: Model) -> Start:
    """Where a model starts. Tuning changes its recipe, but not this."""
    return model.checkpoint, model.revision, model.init, model.layers


def prepared_card(task: Task, folder: Path) -> TaskCard | None:
    """The card of a prepared task; None if the task is not prepared, or differs from the study's declaration.

    Raises:
        TaskError: the card is damaged.
    """
    card = read_card(folder) if (folder / CARD).is_file() else None
    return None if card is None or any(differences(card, task)) else card


def _size(card: TaskCard) -> Size:
    evaluated = sum(card.rows[split] for split in card.evaluated)
    return Size(card.rows["train"], evaluated, card.classes, card.rows.get(UNLABELLED))


def _check_rows(study: Study, rows: Mapping[str, Size], cards: Mapping[str, TaskCard | None]) -> None:
    for task in rows:
        if task not in study.tasks:
            raise TaskError(f"rows: no task {task!r} in the study; there are: {', '.join(study.tasks)}")
        if cards[task] is not None:
            raise TaskError(f"rows: task {task!r} is prepared, so its rows are known; leave it out")


def _notes(
    study: Study, sizes: Mapping[str, Size | None], local: Mapping[Start, Checkpoint | None]
) -> Iterator[str]:
    for task, size in sizes.items():
        if size is None:
            fix = f"dvc repro prepare@{task}, or --rows"
            yield f"task {task}: not prepared as the study says, so its rows and steps are unknown ({fix})"
        elif study.tasks[task].language_modelling:
            continue  # each tokenizer counts other rows in it
        elif size.unlabelled is None and study.tasks[task].has_unlabelled:
            yield f"task {task}: how many unlabelled rows it has is unknown (the fourth number of --rows)"
    absent = {(checkpoint, revision): None for (checkpoint, revision, *_), at in local.items() if at is None}
    for checkpoint, revision in absent:
        at = f" at revision {revision}" if revision else ""
        yield f"checkpoint {checkpoint}{at}: not on this machine; it is downloaded when it is first used"


@dataclass(frozen=True)
class _Lookup:
    """Looks up the existing results of one task."""

    study: Study
    data: Path
    local: Mapping[Start, Checkpoint | None]
    task: str
    card: TaskCard | None
    size: Size | None
    common: dict[tuple[Model, str | None], Parts] = field(default_factory=dict)

    def jobs(self) -> Iterator[Job]:
        for name, run in self._taught.items():
            teacher = self.study.teacher(self.task, name)
            yield Job("teacher", self.task, name, teacher, (run,), self.size_for(teacher))
        for name, student in self.study.students.items():
            if self.study.applies(student, self.task):
                runs = tuple(self._trials(name, student))
                yield Job("student", self.task, name, student, runs, self.size_for(student))

    def notes(self) -> Iterator[str]:
        """Notes on what tokenizers found, and on finished teachers that only lack logits of the unlabelled rows."""
        yield from self._counting.notes(self.task)
        if self.study.tasks[self.task].has_unlabelled:
            for name, run in self._taught.items():
                if run.state == "done" and not _are_whole(run.logits / UNLABELLED, (PLAIN,)):
                    yield f"teacher {name} on {self.task}: is done, but its logits of the unlabelled rows are to come"

    def size_for(self, model: Model) -> Size | None:
        """The task's numbers, in the rows that a model takes (sequences for a language model)."""
        return self._counting.size(model, self.local[_start(model)]) if self._documents else self.size

    @cached_property
    def _counting(self) -> Counting:
        task = PreparedTask(self.data / "tasks" / self.task) if self.card and self._documents else None
        told = None if self.card else self.size
        return Counting(task, told, self.study.tasks[self.task].max_length or 0)

    def _steps(self, model: Model, method: Regularizer) -> int | None:
        """Optimizer steps of a run. Every epoch has each row once, and unlabelled rows too if the method uses them."""
        size, more = self.size_for(model), self._unlabelled if method.unlabelled == "use" else 0
        if size is None or more is None:
            return None
        return model.epochs * math.ceil((size.train + more) / model.batch_size)

    @property
    def _documents(self) -> bool:
        """Whether the rows are documents, for which likelihoods are kept instead of logits."""
        return self.study.tasks[self.task].language_modelling

    @property
    def views(self) -> int:
        """The number of augmented views of each train row; 0 without `augment`."""
        augment = self.study.tasks[self.task].augment
        return 0 if augment is None else augment.views

    @property
    def _parts(self) -> tuple[str, ...]:
        """The places of the caches of labelled rows in a folder of logits."""
        return (PLAIN, VIEWS) if self.views else (PLAIN,)

    @property
    def _unlabelled(self) -> int | None:
        """The number of rows without labels; None if unknown."""
        if not self.study.tasks[self.task].has_unlabelled:
            return 0
        return None if self.size is None else self.size.unlabelled

    def _train_logits(self, size: Size) -> int:
        """How many rows of train logits a teacher or a baseline's trial keeps: not augmented, and in each view."""
        return size.train * (1 + self.views)

    @cached_property
    def _taught(self) -> dict[str, Run]:
        return {
            name: self._teacher(name, self.study.teacher(self.task, name))
            for name, teacher in self.study.teachers.items()
            if self.study.applies(teacher, self.task)
        }

    def _teacher(self, name: str, teacher: Teacher) -> Run:
        """A teacher's run. It is done if its logits of the labelled rows exist: other logits need no new training."""
        folder = self.data / "logits" / self.task / name
        record = _record(folder) if _are_whole(folder, self._parts) else None
        record = record and {
            **_finished(self.data / "teachers" / self.task / name, record),
            "identity": record["identity"],
        }
        state: State = "missing"
        if record is not None:
            state = _state(record["identity"], self._identity(teacher, Regularizer(), teacher.seed))
        steps, more = self._steps(teacher, Regularizer()), self._unlabelled
        size = self.size_for(teacher)
        if size is None or more is None:
            return Run(state, steps, None, None, record, folder)
        kept = self._train_logits(size) + size.evaluated + more * max(1, self.views)
        predicted = kept + size.evaluated  # each is scored once, then cached
        return Run(state, steps, predicted, size.cache_bytes(kept), record, folder)

    def _trials(self, name: str, student: Student) -> list[Run]:
        """The runs of all methods and seeds. The baseline's come first, since Self-KD learns from it."""
        baseline = self.study.comparison.baseline
        seeds = {method: self.study.seeds_of(self.task, name, method) for method in self.study.methods()}
        own = {seed: self._trial(name, student, baseline, seed) for seed in seeds.pop(baseline)}
        pairs = [(method, seed) for method, of_method in seeds.items() for seed in of_method]
        return [
            *own.values(),
            *(self._trial(name, student, method, seed, own[seed]) for method, seed in pairs),
        ]

    def _trial(self, name: str, student: Student, method: str, seed: int, own: Run | None = None) -> Run:
        folder = trial_folder(self.data / "trials" / self.task / name / method, seed)
        student, how = self.study.as_tuned(self.task, name, method)
        result = _result(folder, self._parts if own is None else (PLAIN,), self._documents)
        state: State = "missing"
        if result is not None:
            state = self._trial_state(result, student, how, seed, own)
        if state == "done" and student.keeps(seed) and not (folder / MODEL).is_dir():
            state = "unkept"
        finished = _finished(folder, result.model_dump()) if result else None
        predicted, kept = self._outputs(student, is_baseline=own is None)
        return Run(state, self._steps(student, how), predicted, kept, finished, folder / LOGITS)

    def _outputs(self, student: Student, is_baseline: bool) -> tuple[int | None, int | None]:
        """How many rows a trial predicts, and how many bytes of them it keeps; None if unknown."""
        size = self.size_for(student)
        if size is None:
            return None, None
        keeps_train = is_baseline and (not self._documents or self.study.learns_from_baselines)
        train = self._train_logits(size) if keeps_train else 0
        return train + size.evaluated, size.trial_bytes(train, size.evaluated)

    def _trial_state(
        self, result: TrialResult, student: Student, method: Regularizer, seed: int, own: Run | None
    ) -> State:
        sources = self._sources(student, method, own)
        if any(run.state == "stale" for run in sources):
            return "stale"
        if any(run.state not in ("done", "unkept") for run in sources):
            return "unchecked"
        folders = learned_from([run.logits for run in sources], method)
        if not all(_are_whole(folder, (PLAIN,)) for folder in folders):
            return "unchecked"
        soft_labels = [content_of(folder) for folder in folders]
        return _state(result.identity, self._identity(student, method, seed, *soft_labels))

    def _sources(self, student: Student, method: Regularizer, own: Run | None) -> list[Run]:
        """The runs whose logits a trial learns from."""
        if method.soft_labels == "self" and own is not None:
            return [own]
        return [self._taught[name] for name in method.teachers_of(student)]

    def _identity(self, model: Model, method: Regularizer, seed: int, *soft_labels: str) -> str | None:
        """The identity of a training; None if the task or the checkpoint is not here.

        A local folder gives the same identity as the hub id that it stands for. Nothing is downloaded.
        """
        checkpoint = self.local[_start(model)]
        if self.card is None or checkpoint is None:
            return None
        key = (model, method.function)
        if key not in self.common:
            self.common[key] = common_parts(self.card, checkpoint, model, method.function)
        return identity_of(training_parts(self.common[key], method, seed, *soft_labels))


def _state(identity: str, expected: str | None) -> State:
    return "unchecked" if expected is None else "done" if identity == expected else "stale"


def _finished(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, device and, if known, seconds: from cost.json, or from the record itself (kdcache 0.1)."""
    cost = read_cost(folder)
    seconds = cost.seconds if cost else record.get("seconds")
    return {"steps": record.get("steps"), "device": record.get("device"), "seconds": seconds}


def _record(folder: Path) -> dict[str, Any] | None:
    """The teacher's record in a cache's folder; None if there is no record that a stage would keep."""
    try:
        record = read_json(folder / TEACHER)
    except KdcacheError:
        return None
    return record if isinstance(record, dict) and "identity" in record else None


def _result(folder: Path, parts: Sequence[str], documents: bool) -> TrialResult | None:
    """A trial's result; None if there is no result that a stage would keep."""
    try:
        result = read_result(folder)
    except KdcacheError:
        return None
    has_outputs = (folder / LIKELIHOODS).is_dir() if documents else _are_whole(folder / LOGITS, parts)
    return result if result is not None and has_outputs else None


def _are_whole(folder: Path, parts: Sequence[str]) -> bool:
    """Whether all caches of a folder of logits exist."""
    try:
        for part in parts:
            open_cache(folder / part).verify("quick")
    except CacheError:
        return False
    return True
