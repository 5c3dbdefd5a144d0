"""Values and names as messages quote them: cut to a length, and without control characters for the terminal."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

LONGEST = 80  # characters of a value or a name
MOST = 10  # names in a row


def quoted(value: object) -> str:
    """A value as Python writes it, cut if it is long or deeply nested."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"<{type(value).__name__} of thousands of digits>"


def shown(name: object) -> str:
    """A name as it is; in quotes if it has invisible characters, and cut if it is long."""
    if not isinstance(name, str):
        return quoted(name)
    cut = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return cut if cut.isprintable() else repr(cut)


def listed(names: Iterable[object], most: int = MOST) -> str:
    """Names in a row, cut after `most`: `a, b, c, ... (57 in all)`; "none" if there is no name."""
    every = names if isinstance(names, Sequence) else list(names)
    rest = [f"... ({len(every)} in all)"] if len(every) > most else []
    return ", ".join([*map(shown, every[:most]), *rest]) or "none"


def _short() -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = LONGEST
    short.maxlevel = 3
    return short


_SHORT = _short()
