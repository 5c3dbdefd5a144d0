"""One thin module per DVC stage: read params, call kdcache, write outs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kdcache.errors import KdcacheError
from kdcache.system import processes

CHATTY = ("filelock", "httpx", "httpx2", "urllib3")
T = TypeVar("T")


def find(kind: str, name: str, known: Mapping[str, T], params: Path = Path("params.yaml")) -> T:
    """The study's entry of that name.

    Args:
        kind: what the entry is, for the message: "task", "student", ...

    Raises:
        KdcacheError: the study has no such entry; the message lists those it has.
    """
    if name not in known:
        raise KdcacheError(f"{params}: no {kind} {name!r}; there are: {', '.join(known) or 'none'}")
    return known[name]


@contextmanager
def stage_errors() -> Iterator[None]:
    """Log to stderr, and print an error that is meant for people as one message, without a traceback, exit 1.

    Works as `with stage_errors():` and as a decorator, `@stage_errors()`.
    """
    level = logging.INFO if processes.is_main() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    except KdcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
