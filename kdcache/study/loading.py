"""Read params.yaml, and report every mistake in it at once, each with its path in the file.

`load_study` touches neither data nor models nor a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdcache.errors import ParamsError
from kdcache.study.mistakes import Entries, mistakes_between
from kdcache.study.schema import GROUPS, Comparison, Study
from kdcache.study.settled import read_settled, settled_beside
from kdcache.study.tuned import tuned_beside, with_chosen
from kdcache.study.tuning import Tuning
from kdcache.study.values import Params
from kdcache.study.wording import describe_mistake
from kdcache.system.params_file import read_params

# The keys of an entry that the checks between entries look at.
LINKS = {
    *("teacher", "tasks", "soft_labels", "divergence", "function", "unlabelled"),
    *("metrics", "baseline", "margin", "kind", "epochs", "cache", "temperature", "tail", "variant", "init"),
}
MOST_MISTAKES = 1000  # mistakes that are put into words
P = TypeVar("P", bound=Params)


def load_study(path: str | Path = "params.yaml") -> Study:
    """Read and check a study file.

    settle.json beside the file decides how many seeds the configurations of a study with looks have; tuned.json decides
    the values that tuning chose.

    Raises:
        KdcacheError: settle.json is not as `kdcache settle` writes it, or tuned.json not as stage `tune` writes it.
        ParamsError: the file is missing, is not a YAML mapping, is larger than any study, or has mistakes: all are
            listed, one a line, each with its path in the file.
    """
    path = Path(path)
    content = read_params(path)
    study, mistakes = None, list(_missing_keys(content))
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        mistakes += list(_own_mistakes(error))
    mistakes += mistakes_between(Entries(study or _sound_part(content), _names(content)))
    if study is None or mistakes:
        raise ParamsError(path, list(dict.fromkeys(mistakes)))
    if study.tuning is not None:
        study = with_chosen(study, tuned_beside(path))
    if study.comparison.looks is None:
        return study
    settled = read_settled(settled_beside(path)).about(study.seeds)
    return study.with_settled(settled.seeds, settled.declared)


def _own_mistakes(error: ValidationError) -> Iterator[str]:
    yield from map(describe_mistake, islice(error.errors(), MOST_MISTAKES))
    if error.error_count() > MOST_MISTAKES:
        yield f"(in all {error.error_count()} such mistakes)"


def _missing_keys(content: Mapping[str, Any]) -> Iterator[str]:
    """Missing keys that have a default here, but must be in the file because dvc.yaml refers to them.

    docs/params.md calls them required.
    """
    for group in ("teachers", "distillers"):
        if group not in content:
            yield f"{group}: missing; dvc.yaml reads it, so write `{group}: {{}}` for none"
    comparison = content.get("comparison")
    if isinstance(comparison, dict) and "baseline" not in comparison:
        yield "comparison.baseline: missing; name the regularizer that others are compared with"


def _names(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names in each group, including those of faulty entries."""
    return {group: [str(name) for name in _entries(content, group)] for group in GROUPS}


def _sound_part(content: Mapping[str, Any]) -> Study:
    """The study without its faulty entries, so that mistakes between the other entries are found too."""
    parts: dict[str, dict[str, Params]] = {}
    for group, kind in GROUPS.items():
        checked = {str(name): _sound(kind, entry) for name, entry in _entries(content, group).items()}
        parts[group] = {name: entry for name, entry in checked.items() if entry is not None}
    comparison = _sound(Comparison, content.get("comparison"))
    tuning = _faultless(Tuning, content.get("tuning"))
    return Study.model_construct(None, seeds=[], comparison=comparison, tuning=tuning, **parts)


def _entries(content: Mapping[str, Any], group: str) -> dict[Any, Any]:
    entries = content.get(group)
    return entries if isinstance(entries, dict) else {}


def _faultless(kind: type[P], entry: object) -> P | None:
    try:
        return kind.model_validate(entry)
    except ValidationError:
        return None


def _sound(kind: type[P], entry: object) -> P | None:
    """The entry without its faulty keys, if checks between entries do not look at those keys; else None."""
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        faulty = {str(key) for item in error.errors() for key in item["loc"][:1]}
    if not isinstance(entry, dict) or faulty & LINKS:
        return None
    sound = {key: field for key, field in kind.model_fields.items() if key in entry and key not in faulty}
    values = {
        key: TypeAdapter(field.rebuild_annotation()).validate_python(entry[key])
        for key, field in sound.items()
    }
    return kind.model_construct(None, **values)
