"""Fuzzed files: settle.json and tuned.json, which lie beside params.yaml in Git, where people merge and edit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from kdcache.study import load_study
from kdcache.study.settled import settled_beside, write_settled
from kdcache.study.tuned import tuned_beside, write_tuned
from tests.fuzz.caches import edit
from tests.fuzz.harness import Reader, damaged
from tests.fuzz.readers import STUDY, folder

PARAMS = "params.yaml"
STUDY_WITH_BOTH = f"""\
{STUDY.replace("seeds: [0, 1]", "seeds: 6").replace("correction: holm", "correction: holm, looks: [2, 4, 6]")}\
tuning:
  seeds: [1000]
  budget: 4
  space:
    all: {{learning_rate: [1.0e-4, 1.0e-3], epochs: [1, 2]}}
    smooth: {{alpha: [0.1, 0.2]}}
  teachers: {{learning_rate: [1.0e-4], epochs: [1, 2]}}
"""


@cache
def whole() -> dict[str, bytes]:
    """Both files, as kdcache writes them for the study."""
    with folder() as place:
        path = place / PARAMS
        path.write_text(STUDY_WITH_BOTH)
        study = load_study(path)
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for task, student, method in study.configurations():
            counts.setdefault(task, {}).setdefault(student, {})[method] = 4
        write_settled(settled_beside(path), study, counts)
        chosen = {"learning_rate": 1e-3, "epochs": 2}
        write_tuned(
            tuned_beside(path),
            study,
            {
                one: {**chosen, "alpha": 0.2} if one[2] == "smooth" else chosen
                for one in study.configurations()
            },
            {one: {"learning_rate": 1e-4, "epochs": 2} for one in study.taught()},
        )
        return {one(path).name: one(path).read_bytes() for one in (settled_beside, tuned_beside)}


def case(beside: Callable[[Path], Path]) -> Callable[[Random], bytes]:
    name = beside(Path(PARAMS)).name

    def make(rng: Random) -> bytes:
        content = whole()[name]
        if rng.random() < 0.3:
            return damaged(rng, content, list(whole().values()))
        values: Any = json.loads(content)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
            edit(rng, values)
        return json.dumps(values).encode()

    return make


def read(beside: Callable[[Path], Path]) -> Callable[[bytes], object]:
    """Load the study with this file beside it, and ask for everything that depends on the file."""
    name = beside(Path(PARAMS)).name

    def load(data: bytes) -> object:
        with folder() as place:
            (place / PARAMS).write_text(STUDY_WITH_BOTH)
            for other, content in {**whole(), name: data}.items():
                (place / other).write_bytes(content)
            study = load_study(place / PARAMS)
            for configuration in study.configurations():
                study.as_tuned(*configuration)
                assert study.seeds_of(*configuration)
            for task, teacher in study.taught():
                study.teacher(task, teacher)
            return list(study.all_trials()), study.declarations

    return load


READERS = tuple(
    Reader(beside(Path(PARAMS)).name, case(beside), read(beside)) for beside in (settled_beside, tuned_beside)
)
