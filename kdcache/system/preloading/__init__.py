"""What a fork server imports before it starts processes, without garbage collections in between."""

from __future__ import annotations

from collections.abc import Sequence


def uncollected(modules: Sequence[str]) -> list[str]:
    """The modules to import, between two that pause the garbage collector and let it go on.

    Importing torch makes hundreds of thousands of objects that stay. Collections look through them again and again,
    which takes a fifth of the time; and a server can be told no more than names of modules.
    """
    return [f"{__name__}.first", *modules, f"{__name__}.last"]
