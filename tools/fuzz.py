"""Give every reader many odd and damaged inputs, and write down how each case ended.

    python -m tools.fuzz --cases 100000 --page docs/measured/fuzz.md

The readers are the READERS of the modules in tests/fuzz. They take turns. Each gets a few thousand cases in a process
of its own, so that a crash or a hang in a library's C code is noticed, together with its cases. After each process, a
line is added to a file and the page is written, so the same command continues where an earlier one stopped. Delete a
reader's lines in that file to test it again. Prints one line a reader. Exits with 1 if a case ended in anything but an
answer or one kdcache error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

from kdcache.system import files
from kdcache.system.devices import machine
from kdcache.system.versions import installed
from tests.fuzz.harness import Outcome, Reader, fuzz

MODULES = (
    "tests.fuzz.readers", "tests.fuzz.folders", "tests.fuzz.beside", "tests.fuzz.caches", "tests.fuzz.token_caches"
)  # fmt: skip
CHUNK = 5000  # cases of a process
TIMEOUT = 1800.0  # seconds that a process has for them
DONE = Path("build/fuzz.jsonl")
LIBRARIES = ("pyarrow", "pillow", "pydantic", "ruamel.yaml", "torch", "python")

PAGE = """\
# Odd and damaged inputs

<!-- written by tools/fuzz.py -->

Every reader of other people's files was given odd inputs (random mixtures of what people's files have) and damaged ones
(bits flipped, parts cut, doubled, overwritten, or taken from another file). A reader must give an answer, or one error
for people. Anything else is a fault, and so is a case that takes over 5 s of CPU or over 1 GB. `make fuzz` repeats it.
Case *n* is the same everywhere (here the first is {first:,}), see tests/fuzz/harness.py.

| reader | cases | answers | errors for people | faults | slowest case, s | memory, MB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}
{faults}
The time is CPU time. The memory is what a process grew by over {chunk:,} cases.
{versions}; {system}, {machine}, {processors} processors.
"""


@dataclass
class Total:
    """How the cases of a reader ended."""

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
    parser.add_argument("--chunk", type=int, default=CHUNK, help="cases of a process; default: %(default)s")
    parser.add_argument("--reader", action="append", help="only this one; may be given again")
    parser.add_argument("--page", type=Path, help="the page to write, which has all readers")
    parser.add_argument("--done", type=Path, default=DONE, help="what is done already; default: %(default)s")
    options = parser.parse_args(arguments)
    known = [reader.name for _, reader in _readers(None)]
    if unknown := set(options.reader or ()) - set(known):
        parser.error(f"--reader: no reader {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    if options.reader and options.page:
        parser.error("--reader and --page: a page has all readers; leave one of the two out")
    readers, last = list(_readers(options.reader)), options.first + options.cases
    totals = {reader.name: Total(reader.name) for _, reader in readers}
    done = _done(options.done)
    for start in range(options.first, last, options.chunk):
        stop = min(start + options.chunk, last)
        for module, reader in readers:
            key = reader.name, start, stop
            if key not in done:
                done[key] = _run(module, *key)
                _keep(options.done, key, done[key])
            totals[reader.name].add(done[key])
            if options.page is not None:
                written = page(list(totals.values()), options.first, options.chunk)
                files.write_atomically(options.page, written.encode())
    for total in totals.values():
        print(_line(total), *total.faults[:20], sep="\n", flush=True)
    return 1 if any(total.faults for total in totals.values()) else 0


def _readers(chosen: Sequence[str] | None) -> Iterator[tuple[str, Reader]]:
    for module in MODULES:
        for reader in importlib.import_module(module).READERS:
            if chosen is None or reader.name in chosen:
                yield module, reader


Key = tuple[str, int, int]  # a reader, its first case, and the case after its last


def _done(path: Path) -> dict[Key, Outcome]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [json.loads(line) for line in lines]
    return {(line["reader"], line["start"], line["stop"]): Outcome(**line["outcome"]) for line in kept}


def _keep(path: Path, key: Key, outcome: Outcome) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"reader": key[0], "start": key[1], "stop": key[2], "outcome": asdict(outcome)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _run(module: str, name: str, start: int, stop: int) -> Outcome:
    """How these cases ended, run in a process of their own with its own memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_chunk, module, name, start, stop).result(TIMEOUT)
        except BrokenProcessPool:
            fault = "the process died"
        except TimeoutError:
            fault = f"not done after {TIMEOUT:.0f} s"
            _end(pool)
    return Outcome(faults=[f"{name}, cases {start} to {stop - 1}: {fault}"])


def _chunk(module: str, name: str, start: int, stop: int) -> Outcome:
    logging.disable()
    warnings.simplefilter("ignore")
    reader = next(reader for reader in importlib.import_module(module).READERS if reader.name == name)
    return fuzz(reader, range(start, stop))


def _end(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()


def _line(total: Total) -> str:
    return (
        f"{total.name}: {_cases(total):,} cases, {total.answers:,} answers, {total.refusals:,} errors for people, "
        f"{len(total.faults):,} faults; slowest {total.seconds:.2f} s, {total.megabytes:.0f} MB"
    )


def page(totals: Sequence[Total], first: int, chunk: int) -> str:
    """The page in Markdown, with the readers that have been tested."""
    rows = [
        f"| {total.name} | {_cases(total):,} | {total.answers:,} "
        f"| {total.refusals:,} | {_faults(total)} | {total.seconds:.2f} | {total.megabytes:.0f} |"
        for total in totals
        if _cases(total)
    ]
    faults = [f"- {fault}" for total in totals for fault in total.faults[:20]]
    return PAGE.format(
        first=first,
        rows="\n".join(rows),
        faults="".join(f"{fault}\n" for fault in ["", *faults]) if faults else "",
        versions=", ".join(f"{name} {version}" for name, version in installed(LIBRARIES).items()),
        system=platform.system(),
        machine=machine(1),
        processors=os.cpu_count(),
        chunk=chunk,
    )


def _cases(total: Total) -> int:
    return total.answers + total.refusals + len(total.faults)


def _faults(total: Total) -> str:
    return f"**{len(total.faults):,}**" if total.faults else "0"


if __name__ == "__main__":
    sys.exit(main())
