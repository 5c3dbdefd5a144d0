"""The lowest versions that pyproject.toml allows, as constraints for pip, to test that they work.

    python -m tools.floors > floors.txt             of the core
    python -m tools.floors study hub > floors.txt   and of these extras

`make floors` tests the core with them, in an environment of its own.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def floors(project: dict[str, Any], extras: Iterable[str] = ()) -> Iterator[str]:
    """`numpy==2.0` for each dependency, in the order of the file.

    Args:
        project: the table `project` of pyproject.toml.

    Raises:
        ValueError: a dependency has no lowest version, or there is no such extra.
    """
    optional = project["optional-dependencies"]
    unknown = [name for name in extras if name not in optional]
    if unknown:
        raise ValueError(f"no extra {unknown[0]!r}; there are: {', '.join(optional)}")
    for text in [*project["dependencies"], *(dependency for name in extras for dependency in optional[name])]:
        requirement = Requirement(text)
        lowest = [
            specifier.version for specifier in requirement.specifier if specifier.operator in (">=", "==")
        ]
        if len(lowest) != 1:
            raise ValueError(f"{text!r}: expected one lowest version, as in 'numpy>=2.0'")
        yield f"{requirement.name}=={lowest[0]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", help="besides the core")
    given = parser.parse_args(arguments)
    try:
        print("\n".join(floors(tomllib.loads(PYPROJECT.read_text())["project"], given.extras)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
