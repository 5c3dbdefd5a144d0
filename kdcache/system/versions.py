"""Which versions of libraries are installed."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

LEARNING = ("torch", "transformers", "accelerate", "numpy")  # what a trained model depends on
ADAPTERS = "peft"  # a model with `lora` depends on this too


def installed(names: Iterable[str] = LEARNING) -> dict[str, str]:
    """The version of each installed library among `names`; `python` is Python's own."""
    versions = {name: _version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache  # each look-up parses a package's whole metadata, README and all
def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None
