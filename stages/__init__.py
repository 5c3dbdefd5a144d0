"""One thin module per DVC stage: read params, call kdcache, write outs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kdcache.errors import KdcacheError


@contextmanager
def stage_errors() -> Iterator[None]:
    """Print an error that is meant for people as one message, without a traceback, and exit with status 1.

    Works as `with stage_errors():` and as a decorator, `@stage_errors()`.
    """
    try:
        yield
    except KdcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main function with its log on stderr and its errors as messages for people."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with stage_errors():
        main()
