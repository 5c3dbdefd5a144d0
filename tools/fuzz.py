"""Try many odd and damaged inputs of every reader, and write down what became of them.

    python -m tools.fuzz --cases 100000 --page docs/measured/fuzz.md

The readers are those of tests/fuzz: READERS of its modules. Each runs in processes of its own, a few thousand cases at
a time, so that a crash or a hang in a library's C code is seen, and by which cases. Prints one line a reader; exits
with 1 when a case ended in anything but the answer or one kdcache error.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from kdcache.system import files
from kdcache.system.versions import installed
from tests.fuzz.harness import Outcome, Reader, fuzz

MODULES = ("tests.fuzz.readers",)
CHUNK = 2000  # cases of a process
TIMEOUT = 1800.0  # seconds that a process has for them
LIBRARIES = ("pyarrow", "pillow", "pydantic", "pyyaml", "python")

PAGE = """\
# Odd and damaged inputs

<!-- written by tools/fuzz.py -->

Every reader of other people's files was given inputs that are odd (made at random, of what people's files have) or
damaged (bits flipped, parts cut, doubled, overwritten, or taken from another file). Right is the answer, or one error
for people. Anything else is a fault, and so is a case that takes over 5 s of a processor or over 1 GB. `make fuzz`
does it again: case *n* is the same everywhere (here the first is {first:,}), see tests/fuzz/harness.py.

| reader | cases | answers | errors for people | faults | slowest case, s | memory, MB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}
{faults}
The time is that of a processor, the memory that by which a process grew over {chunk:,} cases.
{versions}; {system}, {processors} processors.
"""


@dataclass
class Total:
    """What became of all cases of a reader."""

    name: str
    answers: int = 0
    refusals: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    faults: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.answers += outcome.answers
        self.refusals += outcome.refusals
        self.seconds = max(self.seconds, outcome.seconds)
        self.megabytes = max(self.megabytes, outcome.megabytes)
        self.faults += outcome.faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, help="of each reader; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the first one's number; default: %(default)s")
    parser.add_argument("--reader", action="append", help="only this one; may be given again")
    parser.add_argument("--page", type=Path, help="the page to write")
    options = parser.parse_args(arguments)
    totals = []
    for module, reader in _readers(options.reader):
        totals.append(_run(module, reader, options.first, options.cases))
        print(_line(totals[-1]), *totals[-1].faults[:20], sep="\n", flush=True)
    if options.page is not None:
        files.write_atomically(options.page, page(totals, options.first).encode())
    return 1 if any(total.faults for total in totals) else 0


def _readers(chosen: Sequence[str] | None) -> Iterator[tuple[str, Reader]]:
    for module in MODULES:
        for reader in importlib.import_module(module).READERS:
            if chosen is None or reader.name in chosen:
                yield module, reader


def _run(module: str, reader: Reader, first: int, cases: int) -> Total:
    total = Total(reader.name)
    for start in range(first, first + cases, CHUNK):
        stop = min(start + CHUNK, first + cases)
        with ProcessPoolExecutor(
            1, get_context("spawn")
        ) as pool:  # one process a chunk: its memory is its own
            chunk = pool.submit(_chunk, module, reader.name, start, stop)
            try:
                total.add(chunk.result(TIMEOUT))
            except BrokenProcessPool:
                total.faults.append(f"{reader.name}, cases {start} to {stop - 1}: the process died")
            except TimeoutError:
                total.faults.append(
                    f"{reader.name}, cases {start} to {stop - 1}: not done after {TIMEOUT:.0f} s"
                )
                _end(pool)
    return total


def _chunk(module: str, name: str, start: int, stop: int) -> Outcome:
    logging.disable()
    warnings.simplefilter("ignore")
    reader = next(reader for reader in importlib.import_module(module).READERS if reader.name == name)
    return fuzz(reader, range(start, stop))


def _end(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()


def _line(total: Total) -> str:
    cases = total.answers + total.refusals + len(total.faults)
    return (
        f"{total.name}: {cases:,} cases, {total.answers:,} answers, {total.refusals:,} errors for people, "
        f"{len(total.faults):,} faults; slowest {total.seconds:.2f} s, {total.megabytes:.0f} MB"
    )


def page(totals: Sequence[Total], first: int) -> str:
    """The page, in Markdown."""
    rows = [
        f"| {total.name} | {total.answers + total.refusals + len(total.faults):,} | {total.answers:,} "
        f"| {total.refusals:,} | {_faults(total)} | {total.seconds:.2f} | {total.megabytes:.0f} |"
        for total in totals
    ]
    faults = [f"- {fault}" for total in totals for fault in total.faults[:20]]
    return PAGE.format(
        first=first,
        rows="\n".join(rows),
        faults="".join(f"{fault}\n" for fault in ["", *faults]) if faults else "",
        versions=", ".join(f"{name} {version}" for name, version in installed(LIBRARIES).items()),
        system=platform.system(),
        processors=os.cpu_count(),
        chunk=CHUNK,
    )


def _faults(total: Total) -> str:
    return f"**{len(total.faults):,}**" if total.faults else "0"


if __name__ == "__main__":
    sys.exit(main())
