"""One thin module per DVC stage: read params, call kdcache, write outs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.errors import KdcacheError

CHATTY = ("filelock", "httpx", "urllib3")


@contextmanager
def stage_errors() -> Iterator[None]:
    """Log to stderr, and print an error that is meant for people as one message, without a traceback, exit 1.

    Works as `with stage_errors():` and as a decorator, `@stage_errors()`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    except KdcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
