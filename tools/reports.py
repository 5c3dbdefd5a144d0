"""The report page of every committed study.

    python -m tools.reports                    each results/<study> -> build/reports/<study>/index.html
    python -m tools.reports cifar families     these

A page is made from the study's params.yaml and metrics/ alone. It opens from a file, offline.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.report.page import write_report
from kdcache.study import load_study


def committed_studies(results: Path) -> list[str]:
    """The names of the folders that have metrics, in alphabetical order."""
    return sorted(path.parent.name for path in results.glob("*/metrics"))


def build(results: Path, name: str, out: Path) -> Path:
    """Write one study's report.

    Returns:
        The path of the page.

    Raises:
        KdcacheError: there is no such study, or a file of it is missing or is not what it should be.
    """
    known = committed_studies(results)
    if name not in known:
        raise KdcacheError(f"{results}: no study {name!r}; there are: {', '.join(known) or 'none'}")
    folder = results / name
    return write_report(folder / "metrics", out / name, load_study(folder / "params.yaml"))


def main(arguments: list[str] | None = None) -> int:
    """Write the reports and print where they are; returns 1, with one clear message, if that cannot be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="default: all of them")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("build/reports"))
    options = parser.parse_args(arguments)
    try:
        for name in options.studies or committed_studies(options.results):
            print(build(options.results, name, options.out))
    except KdcacheError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
