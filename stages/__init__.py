"""One thin module per DVC stage: read params, call kdcache, write outs."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kdcache.errors import KdcacheError
from kdcache.system import processes
from kdcache.system.names import NAME

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


def names(options: Namespace, *keys: str) -> list[str]:
    """The names that a stage was given by hand, or else those that DVC runs it for.

    Raises:
        KdcacheError: some were given, not all; or none, and DVC did not start the stage.
    """
    given = [getattr(options, name) for name in keys]
    if any(given) and not all(given):
        raise KdcacheError(f"give all of {', '.join(f'--{name}' for name in keys)}, or none")
    chosen = given if any(given) else _of_dvc()
    for name in chosen:
        if not NAME.fullmatch(name):  # it is to become a folder's name
            raise KdcacheError(
                f"params.yaml: a name has letters, digits, '-' and '_' only, found {name!r:.80}"
            )
    return chosen


def _of_dvc() -> list[str]:
    from kdcache.repro.item import item_of_stage

    return item_of_stage()


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
