"""The page's JavaScript, made once and then kept: putting it together takes seconds, and gives the same each time.

It is kept in the user's cache folder, `$XDG_CACHE_HOME/kdcache` or `~/.cache/kdcache`, under the versions that it
follows from. The first line of the file is the checksum of the rest. A damaged file is made again, and where no file
can be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.system.files import read_regular, user_path, write_atomically

MOST = 64 << 20  # bytes; it has one or two millions


def bundled(vega_lite: str) -> str:
    """Vega, Vega-Lite of this version (such as "6.1") and vega-embed as one script that sets `window.vegaEmbed`."""
    import vl_convert

    path = _kept_at(f"vega-embed-{version('vl-convert-python')}-{vega_lite}.js")
    if path is not None and (kept := _read(path)) is not None:
        return kept
    # The type stub lacks the default of `snippet`.
    made: str = vl_convert.javascript_bundle(vl_version=vega_lite)  # type: ignore[call-arg]
    if path is not None:
        script = made.encode()
        with suppress(KdcacheError):  # it cannot be written: the next report makes it again
            write_atomically(path, _checksum(script) + b"\n" + script)
    return made


def _kept_at(name: str) -> Path | None:
    """The file in the user's cache folder; None for a user who has none."""
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdcache" / name
    except KdcacheError:
        return None


def _read(path: Path) -> str | None:
    """The script in the file; None if it is not there, or not as it was written."""
    try:
        checksum, _, script = read_regular(path, MOST).partition(b"\n")
    except (OSError, KdcacheError):
        return None
    return script.decode() if checksum == _checksum(script) else None


def _checksum(script: bytes) -> bytes:
    return hashlib.sha256(script).hexdigest().encode()
