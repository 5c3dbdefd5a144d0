"""params.yaml as typed, validated objects.

`load_study` reads the whole file and reports every mistake at once, each with its path in the file
(`students.bert-tiny.teacher: ...`), before anything runs. Nothing here touches data, models or a network.

A number written as text is read as a number (to YAML 1.1 `5e-4` is text); true and false never are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from kdcache.errors import ParamsError

CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews")
REGRESSION_METRICS = ("pearson", "spearman")
UNLABELLED = "unlabelled"  # the split whose rows have no labels: cached, learned from, never scored
Metric = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]

# Names become folder names, DVC stage names (`train@rte-bert-tiny-kd`) and keys in `dvc exp -S a.b=c`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name: object) -> object:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "" if isinstance(name, str) else " (quote it if it is meant as text)"
        raise ValueError(f"a name has letters, digits, '-' and '_' only, found {name!r}{hint}")
    return name


def _check_teachers(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _check_name(value)
    names = [_check_name(name) for name in value]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected a teacher or a list of different teachers, found {value!r}")
    return tuple(names)


def _teacher_names(teacher: str | Iterable[str] | None) -> tuple[str, ...]:
    """None, one, or the members of an ensemble."""
    return (teacher,) if isinstance(teacher, str) else tuple(teacher or ())


def _check_files(value: object) -> object:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"expected a file or a list of files, found {value!r}")
    return value


Name = Annotated[str, BeforeValidator(_check_name)]
Teachers = Annotated[str | tuple[str, ...], BeforeValidator(_check_teachers)]
Files = Annotated[str | list[str], BeforeValidator(_check_files)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy and torch both take
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _raise_all(mistakes: Iterable[str]) -> None:
    found = list(mistakes)
    if found:
        raise ValueError("; ".join(found))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Params(BaseModel):
    """Base of all parameter objects: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: object) -> object:
        """No key is a switch, and pydantic would read `alpha: true` as 1.0."""
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            raise ValueError("true and false are no values here (YAML also reads yes, no, on, off so)")
        return value


class Source(Params):
    """Where a task's rows come from: exactly one of `builtin`, `files` and `hub`."""

    builtin: Literal["bbc_headlines", "digits"] | None = None
    files: dict[Name, Files] | None = None
    hub: Text | None = None
    name: str | None = None  # the hub data set's configuration, e.g. `rte` of nyu-mll/glue
    revision: str | None = None
    splits: dict[Name, Text] | None = None  # the hub's names of train, validation and further splits

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [key for key in ("builtin", "files", "hub") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of builtin, files, hub; found {', '.join(given) or 'none'}")
        if self.files is not None and not {"train", "validation"} <= set(self.files):
            raise ValueError(f"files needs the keys train and validation, found {', '.join(self.files)}")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                "a hub source needs a pinned revision (a commit hash, or `main` to accept changes)"
            )
        if self.hub is None and (self.name or self.revision or self.splits):
            raise ValueError("name, revision and splits belong to a hub source")
        return self

    @property
    def split_names(self) -> tuple[str, ...]:
        """train, validation, and the further ones in the file's order; all but `unlabelled` are evaluated like it."""
        named = {**(self.files or {}), **(self.splits or {})}
        return tuple(dict.fromkeys(["train", "validation", *named]))


class Augment(Params):
    """Random views of the train images: crop and flip, `views` of each row; epoch e trains on view e mod `views`."""

    crop: int = Field(default=0, ge=0)  # pixels of the prepared image that it may shift each way
    flip: float = Field(default=0.0, ge=0, le=1)  # probability of mirroring left and right
    views: int = Field(default=4, ge=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_an_effect(self) -> Augment:
        if not (self.crop or self.flip):
            raise ValueError("give crop (pixels, such as 4), flip (a probability, such as 0.5), or both")
        return self


class Task(Params):
    """A labelled data set with train and validation splits, its columns and its metric."""

    source: Source
    text: list[Text] | None = Field(default=None, min_length=1, max_length=2)
    image: Text | None = None
    label: Text = "label"
    metrics: list[Metric] = Field(min_length=1)
    max_length: int | None = Field(default=None, ge=4)
    train_size: int | None = Field(default=None, ge=1)  # only so many train rows, stratified; default: all
    sample_seed: Seed = 0  # which rows train_size draws
    unlabelled: Literal["rest"] | None = None  # the train rows that it does not draw, without their labels
    label_noise: float = Field(default=0.0, ge=0, lt=1)  # the fraction of train labels that are made wrong
    noise_seed: Seed = 0  # which rows label_noise draws, and their wrong labels
    augment: Augment | None = None

    @model_validator(mode="after")
    def _text_or_image(self) -> Task:
        _raise_all(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        if (self.text is None) == (self.image is None):
            yield "give exactly one of text (one or two columns) and image (one column)"
        elif self.text is not None and self.max_length is None:
            yield "a text task needs max_length (tokens)"
        elif self.image is not None and self.max_length is not None:
            yield "max_length belongs to a text task"
        if self.label in [*(self.text or []), self.image]:
            yield f"the label column {self.label!r} is also an input column"
        if len({metric in REGRESSION_METRICS for metric in self.metrics}) > 1:
            yield "metrics mixes classification and regression"
        if len(set(self.metrics)) != len(self.metrics):
            yield f"a metric is listed twice: {', '.join(self.metrics)}"
        if self.augment is not None and self.image is None:
            yield "augment (crop, flip) is for an image task"
        if self.label_noise and self.regression:
            yield "label_noise replaces a class by another; a regression has none"
        if self.label_noise == 0 and "noise_seed" in self.model_fields_set:
            yield "noise_seed says which labels label_noise makes wrong; without it, it has no effect"
        if self.train_size is None and "sample_seed" in self.model_fields_set:
            yield "sample_seed says which rows train_size draws; without it, it has no effect"
        if self.unlabelled and self.train_size is None:
            yield "unlabelled: rest is the train rows that train_size does not draw; without it, there are none"
        if self.unlabelled and UNLABELLED in self.source.split_names:
            yield "the source has a split named unlabelled already; leave out unlabelled: rest"

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are rows without labels: a split of that name, or the rest of train."""
        return self.unlabelled is not None or UNLABELLED in self.source.split_names

    @property
    def regression(self) -> bool:
        """True for a real-valued label (STS-B): K = 1 output, scored by correlation."""
        return self.metrics[0] in REGRESSION_METRICS

    @property
    def modality(self) -> Literal["text", "image"]:
        return "text" if self.text is not None else "image"


class Model(Params):
    """A model and how it is fine-tuned; what teachers and students share."""

    checkpoint: Text
    revision: Text | None = None
    init: Literal["pretrained", "scratch"] = "pretrained"
    layers: int | None = Field(default=None, ge=1)
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)  # the tasks it is for; default: all

    learning_rate: float = Field(gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Teacher(Model):
    """A model fine-tuned once per task whose logits are cached."""

    seed: Seed = 0


class Student(Model):
    """A model trained once per task, regularizer and seed."""

    teacher: Teachers | None = None  # one, or a list: an ensemble, whose logits are the mean of its members'

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of its teachers: none, one, or the members of an ensemble."""
        return _teacher_names(self.teacher)


N = TypeVar("N", bound=float)


class Schedule(Params, Generic[N]):
    """A number that changes linearly over the optimizer steps: `start` at the first, `end` at the last."""

    start: N
    end: N

    @model_validator(mode="after")
    def _changes(self) -> Schedule[N]:
        if self.start == self.end:
            raise ValueError(f"start and end are the same; write the number {self.start:g}")
        return self


# The tags keep pydantic from reporting a faulty number as a faulty schedule too; no path shows them.
NUMBER, SCHEDULE = "[number]", "[schedule]"
NUMBER_OR_SCHEDULE = Discriminator(lambda value: SCHEDULE if isinstance(value, dict | Schedule) else NUMBER)
AnnealedShare = Annotated[
    Annotated[Share, Tag(NUMBER)] | Annotated[Schedule[Share], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]
AnnealedPositive = Annotated[
    Annotated[Positive, Tag(NUMBER)] | Annotated[Schedule[Positive], Tag(SCHEDULE)], NUMBER_OR_SCHEDULE
]


class Regularizer(Params):
    """A soft-label source with `alpha` and `temperature`; every one is a variant of one formula.

    See `kdcache.regularizers` for the formula and the source of each variant. `function` names your own
    loss; beside it only `soft_labels` (teacher or self) and `teacher` have a meaning: which cached logits it is given.
    """

    soft_labels: Literal["uniform", "uniform_others", "designed", "teacher", "self"] | None = None
    teacher: Teachers | None = None  # in place of each student's own; as for a student, a list is an ensemble
    alpha: AnnealedShare = 0.0
    temperature: AnnealedPositive = 1.0
    correct: float | None = Field(default=None, gt=0, lt=1)
    divergence: Literal["kl", "reverse_kl", "mse", "dkd"] = "kl"
    beta: float | None = Field(default=None, ge=0)
    variant: Literal["paper", "released"] = "paper"
    multiplier: float = Field(default=1.0, gt=0)
    unlabelled: Literal["ignore", "use"] = "ignore"  # the task's rows without labels, beside the train rows
    function: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

    @property
    def is_base(self) -> bool:
        return self.soft_labels is None and self.function is None

    @property
    def own_teachers(self) -> tuple[str, ...]:
        """The names of the teachers that it names itself."""
        return _teacher_names(self.teacher)

    def teachers_of(self, student: Student) -> tuple[str, ...]:
        """The names of the teachers whose logits a student learns from by it: its own, or else the student's."""
        return (self.own_teachers or student.teachers) if self.soft_labels == "teacher" else ()

    def teacher_name(self, student: Student) -> str | None:
        """Those teachers in tables: "big", "big+small" for an ensemble, None where no teacher's logits are used."""
        return "+".join(self.teachers_of(student)) or None

    @model_validator(mode="after")
    def _consistent(self) -> Regularizer:
        if self.is_base:
            _raise_all(self._base_mistakes())
            return self
        own = self._function_mistakes() if self.function is not None else self._formula_mistakes()
        _raise_all([*self._teacher_mistakes(), *own])
        return self

    def _base_mistakes(self) -> Iterator[str]:
        if self.model_fields_set:
            yield f"without soft_labels or function, {_listed(self.model_fields_set)} has no effect"

    def _function_mistakes(self) -> Iterator[str]:
        useless = self.model_fields_set - {"function", "soft_labels", "teacher"}
        if useless:
            yield f"beside function, {_listed(useless)} has no effect (put constants into the function)"
        if self.soft_labels not in (None, "teacher", "self"):
            yield f"a function is given cached logits (teacher or self) or none, not {self.soft_labels!r}"

    def _teacher_mistakes(self) -> Iterator[str]:
        if self.teacher is not None and self.soft_labels != "teacher":
            found = repr(self.soft_labels) if self.soft_labels else "none"
            yield f"teacher says whose logits soft_labels: teacher stands for, but soft_labels is {found}"

    def _formula_mistakes(self) -> Iterator[str]:
        yield from self._soft_label_mistakes()
        yield from self._divergence_mistakes()
        yield from self._unlabelled_mistakes()

    def _soft_label_mistakes(self) -> Iterator[str]:
        designed = self.soft_labels == "designed"
        if self.alpha == 0:
            yield "alpha must be given and above 0, or the soft labels have no effect"
        if self.alpha == 1 and self.soft_labels in ("uniform", "uniform_others"):
            yield f"with alpha: 1 and soft_labels: {self.soft_labels} nothing teaches the true class"
        if designed and self.correct is None:
            yield "soft_labels: designed needs `correct`, the probability on the true class (TF-reg: 0.99)"
        if not designed and self.correct is not None:
            yield "`correct` (probability on the true class) belongs to soft_labels: designed"
        if not designed and self.variant == "released":
            yield "variant: released is defined for soft_labels: designed (TF-reg) only"
        if self.multiplier != 1 and self.variant != "released":
            yield "multiplier belongs to variant: released"

    def _divergence_mistakes(self) -> Iterator[str]:
        if self.divergence == "dkd":
            if self.soft_labels not in ("teacher", "self"):
                yield "divergence: dkd takes logits apart, so it needs soft_labels: teacher or self"
            if self.beta is None:
                yield "divergence: dkd needs `beta`, the weight of the classes that are not true (usual: 0.5 to 8)"
        elif self.beta is not None:
            yield "beta belongs to divergence: dkd"
        if self.divergence == "mse":
            if self.soft_labels not in ("teacher", "self"):
                yield "divergence: mse compares logits, so it needs soft_labels: teacher or self"
            if self.temperature != 1:
                yield "temperature has no effect with divergence: mse (tau^2 * ((z - s) / tau)^2 = (z - s)^2)"
        if self.divergence == "reverse_kl" and self.soft_labels == "uniform_others":
            yield "divergence: reverse_kl is infinite where soft labels are 0, as with uniform_others"
        if self.divergence != "kl" and self.variant == "released":
            yield "variant: released is defined with divergence: kl only"

    def _unlabelled_mistakes(self) -> Iterator[str]:
        if self.unlabelled == "ignore":
            return
        if self.soft_labels == "self":
            yield "unlabelled: use needs a teacher: the baseline's trials keep no logits of unlabelled rows"
        elif self.soft_labels != "teacher":
            yield f"unlabelled: use needs soft_labels: teacher; {self.soft_labels!r} says nothing of such rows"
        if self.divergence == "dkd":
            yield "unlabelled: use has no divergence: dkd, which takes the true class apart: there is none"


class Comparison(Params):
    """What was decided before the data: baseline, level, margins, correction and its family."""

    baseline: Name = "base"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    # in points: accuracy 1.0 is one percentage point
    margin: dict[Metric, Annotated[float, Field(gt=0, le=100)]]
    correction: Literal["holm", "bonferroni", "fdr_bh", "none"] = "holm"
    family: Literal["student", "task", "study"] = "student"


class Study(Params):
    """Everything in params.yaml."""

    seeds: list[Seed] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    teachers: dict[Name, Teacher] = Field(default_factory=dict)
    students: dict[Name, Student] = Field(min_length=1)
    regularizers: dict[Name, Regularizer] = Field(min_length=1)
    distillers: dict[Name, Regularizer] = Field(default_factory=dict)
    comparison: Comparison

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed is listed twice: {seeds}")
        return seeds

    def applies(self, model: Model, task: str) -> bool:
        """Whether the model is declared for the task (`tasks:` of a teacher or student; default all)."""
        return model.tasks is None or task in model.tasks

    def method(self, name: str) -> Regularizer:
        """The regularizer or distiller of that name."""
        return self.regularizers[name] if name in self.regularizers else self.distillers[name]

    def methods(self) -> dict[str, Regularizer]:
        """Regularizers, then distillers, in the order of the file."""
        return {**self.regularizers, **self.distillers}

    def configurations(self) -> Iterator[tuple[str, str, str]]:
        """(task, student, regularizer) for the whole grid, without the pairs that `tasks:` excludes."""
        for task in self.tasks:
            for student, params in self.students.items():
                if self.applies(params, task):
                    for method in self.methods():
                        yield task, student, method

    def taught(self) -> Iterator[tuple[str, str]]:
        """(task, teacher) for every teacher that is declared for the task."""
        for task in self.tasks:
            for teacher, params in self.teachers.items():
                if self.applies(params, task):
                    yield task, teacher


def load_study(path: str | Path = "params.yaml") -> Study:
    """Read and check a study file.

    Raises:
        ParamsError: the file is missing, is no YAML mapping, or has mistakes: all are listed, one a line,
            each with its path in the file.
    """
    path = Path(path)
    raw = _read_yaml(path)
    study, mistakes = None, list(_missing_keys(raw))
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        mistakes += [_describe(item) for item in error.errors()]
    mistakes += _cross_mistakes(study or _sound_part(raw), _names(raw))
    if study is None or mistakes:
        raise ParamsError(path, list(dict.fromkeys(mistakes)))
    return study


# ---- reading ----


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice: YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ParamsError(
            path, ["the file does not exist; copy one from studies/ (cp studies/smoke.yaml params.yaml)"]
        ) from None
    except OSError as error:
        raise ParamsError(path, [f"cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(path, [f"is not valid YAML: {error}"]) from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else type(raw).__name__
        raise ParamsError(path, [f"expected a mapping with seeds, tasks, students, ..., found {found}"])
    return raw


GROUPS: dict[str, type[Params]] = {
    "tasks": Task,
    "teachers": Teacher,
    "students": Student,
    "regularizers": Regularizer,
    "distillers": Regularizer,
}
# The keys that mistakes between entries depend on.
LINKS = {
    *("teacher", "tasks", "soft_labels", "divergence", "function", "unlabelled"),
    *("metrics", "baseline", "margin"),
}
UNSEEN = {"[key]", NUMBER, SCHEDULE}  # pydantic's parts of a path that are not in the file
P = TypeVar("P", bound=Params)


def _missing_keys(raw: dict[str, Any]) -> Iterator[str]:
    """Keys that have a default here, but that dvc.yaml refers to by name."""
    for group in ("teachers", "distillers"):
        if group not in raw:
            yield f"{group}: missing; dvc.yaml reads it, so write `{group}: {{}}` for none"
    comparison = raw.get("comparison")
    if isinstance(comparison, dict) and "baseline" not in comparison:
        yield "comparison.baseline: missing; name the regularizer that others are compared with"


def _names(raw: dict[str, Any]) -> dict[str, list[str]]:
    """The names in each group, those of faulty entries too."""
    groups = {group: raw.get(group) for group in GROUPS}
    return {
        group: [str(name) for name in (part if isinstance(part, dict) else ())]
        for group, part in groups.items()
    }


def _sound_part(raw: dict[str, Any]) -> Study:
    """What other entries look at, so that mistakes between entries are reported beside an entry's own."""
    parts: dict[str, dict[str, Params]] = {}
    for group, kind in GROUPS.items():
        entries = raw.get(group)
        checked = (
            {name: _sound(kind, entry) for name, entry in entries.items()}
            if isinstance(entries, dict)
            else {}
        )
        parts[group] = {str(name): entry for name, entry in checked.items() if entry is not None}
    comparison = _sound(Comparison, raw.get("comparison"))
    return Study.model_construct(None, seeds=[], comparison=comparison, **parts)


def _sound(kind: type[P], entry: object) -> P | None:
    """The entry, without its own mistakes when other entries do not look at those keys; else None."""
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        faulty = {str(key) for item in error.errors() for key in item["loc"][:1]}
    if not isinstance(entry, dict) or faulty & LINKS:
        return None
    return kind.model_construct(None, **{key: entry[key] for key in kind.model_fields if key in entry})


# ---- wording ----


def _describe(item: Any) -> str:
    loc = tuple(str(part) for part in item["loc"] if part not in UNSEEN)
    return f"{'.'.join(loc) or '(top level)'}: {_wording(item, loc)}"


def _wording(item: Any, loc: tuple[str, ...]) -> str:
    found = item.get("input")
    if item["type"] == "extra_forbidden":
        return _unknown_key(loc)
    if item["type"] == "missing":
        return "missing"
    if item["type"] in ("model_type", "dict_type"):
        return f"expected a mapping of keys, found {found!r}" + (
            " (write {} for none)" if found is None else ""
        )
    if item["type"] == "too_short":
        return f"expected at least {item['ctx']['min_length']}, found {item['ctx']['actual_length']}"
    if item["type"] == "too_long":
        return f"expected at most {item['ctx']['max_length']}, found {len(found)}"
    if item["type"] == "string_pattern_mismatch":
        return f"expected package.module:name, found {found!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(found, str | int | float | bool | None) and f"found {found!r}" not in message:
        message += f", found {found!r}"
    return message


def _unknown_key(loc: tuple[str, ...]) -> str:
    known = list(_model_at(loc[:-1]).model_fields)
    close = difflib.get_close_matches(loc[-1], known, n=1)
    return (
        f"unknown key; did you mean {close[0]!r}?"
        if close
        else f"unknown key (there are: {', '.join(known)})"
    )


def _model_at(loc: tuple[str, ...]) -> type[Params]:
    """The model whose keys stand at a path of the file, such as (), (tasks, rte) or (tasks, rte, source)."""
    if not loc:
        return Study
    if loc[-1] in ("source", "augment"):
        return Source if loc[-1] == "source" else Augment
    if len(loc) == 3 and loc[-1] in ("alpha", "temperature"):
        return Schedule
    return GROUPS.get(loc[0], Comparison)


# ---- mistakes between entries ----
# `study` may lack entries whose own mistakes are in the way; `names` has them all.


def _cross_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    yield from _task_mistakes(study, names)
    yield from _teacher_mistakes(study, names)
    yield from _method_mistakes(study, names)
    yield from _regression_mistakes(study)
    yield from _unlabelled_mistakes(study)
    yield from _comparison_mistakes(study, names)
    yield from _stage_name_mistakes(names)


def _task_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    groups: dict[str, dict[str, Any]] = {"teachers": study.teachers, "students": study.students}
    for group, models in groups.items():
        for name, model in models.items():
            for task in model.tasks or []:
                if names["tasks"] and task not in names["tasks"]:
                    yield f"{group}.{name}.tasks: no task {task!r} (there are: {', '.join(names['tasks'])})"


def _teacher_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    known = ", ".join(names["teachers"]) or "none"
    needing = [
        f"distillers.{name}"
        for name, method in study.distillers.items()
        if method.soft_labels == "teacher" and not method.own_teachers
    ]
    for name, student in study.students.items():
        where = f"students.{name}.teacher"
        if needing and not student.teachers:
            yield f"{where}: missing, but {', '.join(needing)} needs a teacher (there are: {known})"
        yield from _unusable_teachers(where, student.teachers, [student], study, names)
    for name, method in study.distillers.items():
        if method.soft_labels == "teacher":
            where, students = f"distillers.{name}.teacher", list(study.students.values())
            yield from _unusable_teachers(where, method.own_teachers, students, study, names)


def _unusable_teachers(
    where: str, teachers: Iterable[str], students: list[Student], study: Study, names: dict[str, list[str]]
) -> Iterator[str]:
    """Teachers that there are not, or that are not for a task which one of the students is for."""
    tasks = [task for task in names["tasks"] if any(study.applies(student, task) for student in students)]
    for teacher in teachers:
        if teacher not in names["teachers"]:
            yield f"{where}: no teacher {teacher!r} (there are: {', '.join(names['teachers']) or 'none'})"
        elif teacher in study.teachers:
            for task in tasks:
                if not study.applies(study.teachers[teacher], task):
                    yield f"{where}: {teacher!r} is not declared for task {task!r}"


def _method_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    for name in names["distillers"]:
        if name in names["regularizers"]:
            yield f"distillers.{name}: the name is also a regularizer's; names must differ"
    for name, method in study.regularizers.items():
        if method.soft_labels in ("teacher", "self"):
            where = f"regularizers.{name}.soft_labels"
            yield f"{where}: {method.soft_labels!r} needs cached logits; move it to distillers"
    for name, method in study.distillers.items():
        if method.soft_labels not in ("teacher", "self"):
            found = repr(method.soft_labels) if method.soft_labels else "none"
            yield f"distillers.{name}.soft_labels: a distiller needs teacher or self, found {found}"


def _regression_mistakes(study: Study) -> Iterator[str]:
    tasks = [name for name, task in study.tasks.items() if task.regression]
    groups = {"regularizers": study.regularizers, "distillers": study.distillers}
    for group, methods in groups.items():
        for name, method in methods.items():
            if tasks and not (method.is_base or method.function or method.divergence == "mse"):
                yield (
                    f"{group}.{name}: task {tasks[0]!r} is a regression (one output), where only base, "
                    "teacher/self soft labels with divergence: mse and an own function are defined"
                )


def _unlabelled_mistakes(study: Study) -> Iterator[str]:
    users = [f"distillers.{name}" for name, method in study.distillers.items() if method.unlabelled == "use"]
    for name, task in study.tasks.items():
        read = isinstance(getattr(task, "source", None), Source)  # or else the task has mistakes of its own
        if users and read and not task.has_unlabelled:
            yield (
                f"tasks.{name}: has no unlabelled rows for {', '.join(users)}; give it `unlabelled: rest` beside "
                "train_size, or its source a split named unlabelled"
            )


def _comparison_mistakes(study: Study, names: dict[str, list[str]]) -> Iterator[str]:
    comparison: Comparison | None = study.comparison  # None in a study that has mistakes there
    if comparison is None:
        return
    where, known = "comparison.baseline", ", ".join(names["regularizers"])
    if comparison.baseline in names["distillers"]:
        yield f"{where}: {comparison.baseline!r} is a distiller; name a regularizer (there are: {known})"
    elif names["regularizers"] and comparison.baseline not in names["regularizers"]:
        yield f"{where}: no regularizer {comparison.baseline!r} (there are: {known})"
    for name, task in study.tasks.items():
        if task.metrics[0] not in comparison.margin:
            yield f"comparison.margin: no margin for {task.metrics[0]!r}, the first metric of task {name!r}"


def _stage_name_mistakes(names: dict[str, list[str]]) -> Iterator[str]:
    """DVC joins a stage's names with '-' and silently drops the second of two that read the same."""
    for last in ("teachers", "regularizers", "distillers"):
        groups = ["tasks", last] if last == "teachers" else ["tasks", "students", last]
        seen: dict[str, tuple[str, ...]] = {}
        for combination in product(*(names[group] for group in groups)):
            stage = "-".join(combination)
            if stage in seen:
                first, second = (" + ".join(parts) for parts in (seen[stage], combination))
                yield f"{', '.join(groups)}: {first} and {second} both become {stage!r}; rename one"
                break
            seen[stage] = combination
