"""The report stage: `python -m stages.report` turns metrics/ into report/index.html."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.report.page import write_report
from kdcache.study import load_study


def main(arguments: list[str] | None = None) -> int:
    """Write the report and print where it is; 1 with one clear message when that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--out", type=Path, default=Path("report"))
    options = parser.parse_args(arguments)
    try:
        page = write_report(options.metrics, options.out, load_study(options.params))
    except KdcacheError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The report is {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
