"""Fuzzing of all that reads other people's files: every input must give an answer or one kdcache error.

A case may take 5 s of CPU and 1 GB. A `Reader` makes the bytes of a case from its number, and reads them. So a case
that fails can be repeated alone: `read(make(Random(number)))`. `python -m tools.fuzz` tries many in processes of their
own, since a crash in a library's C code ends a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from benchmarks.cache.measuring import peak_memory
from kdcache.errors import KdcacheError

SECONDS = 5.0
MEGABYTES = 1000.0
LONGEST_MESSAGE = 5000  # characters: a message may quote parts of its input


@dataclass(frozen=True)
class Reader:
    """How the bytes of a case are made and read. Reading returns an answer, or raises a KdcacheError."""

    name: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes], object]


@dataclass
class Outcome:
    """How the cases ended: the numbers of answers and refusals; faults have the case's number and what was wrong."""

    answers: int = 0
    refusals: int = 0
    seconds: float = 0.0  # CPU seconds of the slowest case
    megabytes: float = 0.0  # by which the process grew
    faults: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.answers + self.refusals + len(self.faults)


def fuzz(reader: Reader, numbers: Iterable[int]) -> Outcome:
    """Read the cases with these numbers."""
    outcome, before = Outcome(), peak_megabytes()
    for number in numbers:
        try:
            data = reader.make(Random(number))
        except Exception as error:  # an error of the fuzzing itself; the other cases are still tried
            outcome.faults.append(f"{reader.name}, case {number} cannot be made: {error!r:.300}")
            continue
        start = time.process_time()
        fault = _fault(reader, data, outcome)
        seconds, grown = time.process_time() - start, peak_megabytes() - before
        if fault is None and seconds > SECONDS:
            fault = f"took {seconds:.1f} s"
        if fault is None and grown > MEGABYTES >= outcome.megabytes:
            fault = f"took {grown:.0f} MB"
        if fault is not None:
            outcome.faults.append(f"{reader.name}, case {number}: {fault}")
        outcome.seconds, outcome.megabytes = max(outcome.seconds, seconds), grown
    return outcome


def _fault(reader: Reader, data: bytes, outcome: Outcome) -> str | None:
    """Read one case and count how it ended; returns what is wrong with that."""
    try:
        reader.read(data)
    except KdcacheError as error:
        message = str(error)
        if not message or len(message) > LONGEST_MESSAGE:
            return f"{type(error).__name__} has a message of {len(message)} characters"
        outcome.refusals += 1
    except BaseException as error:  # SystemExit and MemoryError are looked for too
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]}"
    else:
        outcome.answers += 1
    return None


def peak_megabytes() -> float:
    """The peak memory of this process; growth below an earlier peak is not noticed."""
    return peak_memory() / 2**20


NUMBERS = (
    0,
    1,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def damaged(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """The bytes, damaged one to four times: bits flipped, parts cut, doubled, overwritten or from another file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _damage(rng, changed, others or (data,))
    return bytes(changed)


def _damage(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((1, 2, 4, 8, 16, rng.randint(0, len(data)))))
    kind = rng.randrange(8)
    if kind == 0 and start < len(data):
        data[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[start:end]
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        data[start:start] = data[start:end]
    elif kind == 4:
        data[start:end] = rng.randbytes(end - start)
    elif kind == 5:
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(NUMBERS) % 2 ** (8 * size)
        data[start : start + size] = number.to_bytes(size, rng.choice(("little", "big")))
    elif kind == 6:
        other = rng.choice(others)
        cut = rng.randint(0, len(other))
        data[start:end] = other[cut : cut + rng.choice((4, 64, len(other)))]
    else:
        data[start:end] = bytes([rng.choice(b'\0\xff\n\r",:{}[]-0919eE\x80')]) * (end - start)
