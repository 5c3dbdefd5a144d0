"""Regularizers and distillers as params.yaml declares them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from kdcache.study.models import Student
from kdcache.study.names import Teachers, teacher_names
from kdcache.study.values import AnnealedPositive, AnnealedShare, Params


class Regularizer(Params):
    """A soft-label source with `alpha` and `temperature`; every regularizer is a variant of one formula.

    See `kdcache.training.regularizers` for the formula and the source of each variant. `function` names your own
    loss. Beside `function`, only `soft_labels` (teacher or self) and `teacher` have a meaning: they say which cached
    logits the loss is given.
    """

    soft_labels: Literal["uniform", "uniform_others", "designed", "teacher", "self"] | None = None
    teacher: Teachers | None = None  # instead of each student's own teacher; a list is an ensemble
    alpha: AnnealedShare = 0.0
    temperature: AnnealedPositive = 1.0
    correct: float | None = Field(default=None, gt=0, lt=1)
    divergence: Literal["kl", "reverse_kl", "mse", "dkd"] = "kl"
    beta: float | None = Field(default=None, ge=0)
    variant: Literal["paper", "released"] = "paper"
    multiplier: float = Field(default=1.0, gt=0)
    tail: Literal["bucket", "renormalise"] | None = (
        None  # of a top-k token cache: what the missing probability becomes
    )
    unlabelled: Literal["ignore", "use"] = "ignore"  # the task's rows without labels, beside the train rows
    function: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

    @property
    def is_base(self) -> bool:
        return self.soft_labels is None and self.function is None

    @property
    def own_teachers(self) -> tuple[str, ...]:
        """The names in the regularizer's own key `teacher`."""
        return teacher_names(self.teacher)

    def teachers_of(self, student: Student) -> tuple[str, ...]:
        """The names of the teachers that a student learns from: the regularizer's own, or else the student's."""
        return (self.own_teachers or student.teachers) if self.soft_labels == "teacher" else ()

    def teacher_name(self, student: Student) -> str | None:
        """`teachers_of` as tables show it: "big", or "big+small" for an ensemble; None if no teacher is used."""
        return "+".join(self.teachers_of(student)) or None

    def _mistakes(self) -> Iterator[str]:
        if self.is_base:
            yield from self._base_mistakes()
            return
        yield from self._own_teacher_mistakes()
        yield from self._function_mistakes() if self.function is not None else self._formula_mistakes()

    def _base_mistakes(self) -> Iterator[str]:
        if self.model_fields_set:
            useless = ", ".join(sorted(self.model_fields_set))
            yield f"without soft_labels or function, {useless} has no effect"

    def _function_mistakes(self) -> Iterator[str]:
        useless = self.model_fields_set - {"function", "soft_labels", "teacher"}
        if useless:
            names = ", ".join(sorted(useless))
            yield f"beside function, {names} has no effect (put constants into the function)"
        if self.soft_labels not in (None, "teacher", "self"):
            yield f"a function is given cached logits (teacher or self) or none, not {self.soft_labels!r}"

    def _own_teacher_mistakes(self) -> Iterator[str]:
        if self.teacher is not None and self.soft_labels != "teacher":
            source = repr(self.soft_labels) if self.soft_labels else "none"
            yield f"teacher says whose logits soft_labels: teacher stands for, but soft_labels is {source}"

    def _formula_mistakes(self) -> Iterator[str]:
        yield from self._soft_label_mistakes()
        yield from self._divergence_mistakes()
        yield from self._tail_mistakes()
        yield from self._unlabelled_use_mistakes()

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

    def _tail_mistakes(self) -> Iterator[str]:
        if self.tail is not None and self.soft_labels not in ("teacher", "self"):
            yield "tail is about a cached top-k distribution, so it needs soft_labels: teacher or self"

    def _unlabelled_use_mistakes(self) -> Iterator[str]:
        if self.unlabelled == "ignore":
            return
        if self.soft_labels == "self":
            yield "unlabelled: use needs a teacher: the baseline's trials keep no logits of unlabelled rows"
        elif self.soft_labels != "teacher":
            yield f"unlabelled: use needs soft_labels: teacher; {self.soft_labels!r} says nothing of such rows"
        if self.divergence == "dkd":
            yield "unlabelled: use has no divergence: dkd, which takes the true class apart: there is none"
