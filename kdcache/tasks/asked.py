"""Whether a prepared task is the one that a study asks for: its card beside the study's own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcache.study import UNLABELLED, Source, Task
from kdcache.tasks.card import TaskCard


def differences(card: TaskCard, task: Task) -> Iterator[tuple[str, Any, Any]]:
    """Where a card says something else than the study: the key, the card's value, and the study's.

    A card does not say everything: not the columns, `sample_seed`, or the names that splits have at the hub.
    """
    found, asked = _of_card(card), _of_study(task)
    for key, value in asked.items():
        yield from _differences(key, found[key], value)
    yield from _differences("positive", *_positives(card, task))


def _positives(card: TaskCard, task: Task) -> tuple[str | None, str | None]:
    """The class that f1 is of: the card's, and the study's. Of two classes it is the second where nothing names it."""
    second = card.label_names[1] if len(card.label_names) == 2 else None
    return card.positive or second, task.positive or second


def _of_card(card: TaskCard) -> dict[str, Any]:
    """A card's values, by the study's keys."""
    noise, origin = card.label_noise, card.unlabelled and card.unlabelled.origin
    drawn = origin == "rest" or any("train_size" in reason for reason in card.dropped)
    return {
        "kind": card.kind,
        "modality": card.modality,
        "regression": card.regression,
        "metrics": card.metrics,
        "max_length": card.max_length,
        "augment": card.augment,
        "label_noise": noise.fraction if noise else 0.0,
        "noise_seed": noise.seed if noise else 0,
        "unlabelled": origin,
        "train_size": card.rows["train"] if drawn else None,
        "splits": sorted(card.rows),
        "source": card.source,
    }


def _of_study(task: Task) -> dict[str, Any]:
    origin = "split" if task.has_unlabelled else None
    keys = (
        "kind",
        "modality",
        "regression",
        "max_length",
        "augment",
        "label_noise",
        "noise_seed",
        "train_size",
    )
    return {
        **{key: getattr(task, key) for key in keys},
        "metrics": list(task.metrics),
        "unlabelled": task.unlabelled or origin,
        "splits": sorted([*task.source.split_names, *([UNLABELLED] if task.unlabelled else [])]),
        "source": _of_source(task.source),
    }


def _of_source(source: Source) -> dict[str, Any]:
    """What a study says of a source, in the form of a card's `source`; that also says what was found there."""
    places = {split: [path.as_posix() for path in paths] for split, paths in source.places.items()}
    if source.files is not None:
        return {"files": {split: [{"file": path} for path in paths] for split, paths in places.items()}}
    if source.folder is not None:
        return {"folder": {split: {"folder": path} for split, (path,) in places.items()}}
    if source.saved is not None:
        return {"saved": Path(source.saved).as_posix()}
    if source.hub is not None:
        return {key: getattr(source, key) for key in ("hub", "name", "revision")}
    return {"builtin": source.builtin}


def _differences(place: str, found: Any, asked: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where a value of a card differs from what is asked for; a mapping may have more keys."""
    if isinstance(asked, dict) and isinstance(found, dict):
        for key, value in asked.items():
            yield from _differences(f"{place}.{key}", found.get(key), value)
    elif isinstance(asked, list) and isinstance(found, list) and len(asked) == len(found):
        for number, value in enumerate(asked):
            yield from _differences(f"{place}.{number}", found[number], value)
    elif found != asked:
        yield place, found, asked
