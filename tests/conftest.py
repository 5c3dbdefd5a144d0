"""For all tests: modules are compiled once, and the longest files begin first."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Minutes each. Two processes share the files; if the longest began last, one process would wait for the other.
LONGEST = (
    "tools/test_journeys.py",
    "pipeline/test_study.py",
    "stages/test_several_processes.py",
    "pipeline/test_repro.py",
    "pipeline/test_settle.py",
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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Freeze imported objects, so that garbage collections (benchmarks ask for hundreds) skip them."""
    gc.disable()  # a fifth of the time of imports
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server of forked processes before any test starts one that has imported less."""
    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    if any({"forked", "run_side_by_side"} & vars(module).keys() for module in modules):
        from tests.forked import forked

        forked()
