"""For all tests: modules are compiled once, and the longest files begin first."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Minutes each. Two processes share the files; if the longest began last, one process would wait for the other.
LONGEST = (
    "tools/test_journeys.py",
    "pipeline/test_settle.py",
    "pipeline/test_study.py",
    "stages/test_several_processes.py",
    "pipeline/test_repro.py",
    "trials/test_interrupted.py",
    "engine/test_ray.py",
    "benchmarks/test_cache.py",
    "pipeline/test_language.py",
    "pipeline/test_remote.py",
    "pipeline/test_tuning.py",
    "trials/test_states.py",
    "benchmarks/test_gpu.py",
    "hub/test_study.py",
)
PLACES = {HERE / name: place for place, name in enumerate(LONGEST)}

# Otherwise each of the hundreds of processes that tests start compiles all of kdcache again, for two seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


def pytest_collection_finish() -> None:
    """Freeze imported objects, so that garbage collections (benchmarks ask for hundreds) skip them."""
    gc.collect()
    gc.freeze()
