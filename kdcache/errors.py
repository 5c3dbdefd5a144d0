"""The errors that kdcache raises for people: each says what was expected, what was found, and what to do."""

from __future__ import annotations

from pathlib import Path

MOST_LINES = 25  # mistakes that one message lists


class KdcacheError(Exception):
    """Base of every error that kdcache raises on purpose; its message is for people."""


class ParamsError(KdcacheError):
    """The study file has mistakes; `mistakes` lists all of them, each with its path in the file."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        rest = [f"... and {len(mistakes) - MOST_LINES} more"] if len(mistakes) > MOST_LINES else []
        lines = [f"  {line}" for line in [*mistakes[:MOST_LINES], *rest]]
        super().__init__("\n".join([f"{path}: {count}", *lines]))


class TaskError(KdcacheError):
    """A task's data cannot be used as declared."""


class ModelError(KdcacheError):
    """A checkpoint cannot be loaded or does not fit the task."""


class CacheError(KdcacheError):
    """A logit cache is incomplete, damaged, of another format, or not the one asked for."""


class TrialError(KdcacheError):
    """A trial's folder is in use, or its result cannot be read."""


class ComparisonError(KdcacheError):
    """The results do not allow the comparison asked for."""
