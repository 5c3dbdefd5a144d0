"""What a person sees while stages run: a bar on a terminal, otherwise one line per finished stage."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kdcache.system.names import TUNE

# What kdcache.engine logs: how many trials a stage has to run, and each that is done.
TO_RUN, DONE = re.compile(r"(\d+) trials to run\b"), re.compile(r"\[(\d+)/(\d+)\] ")
CHOSEN = re.compile(
    r".+ \(\S+ \S+, the best of \d+ settings\)"
)  # what tune logs, see kdcache.engine.tuning.run
EPOCH = re.compile(r": epoch (\d+/\d+): loss ")  # what a training logs, see kdcache.trials.watching
RAN = "Running stage "  # what DVC prints before a stage's command
TAIL = 20  # lines of a failed stage's log


class Trials:
    """Counts the trials of this run's stages: those done, and those to do as far as known.

    Args:
        expected: the expected number of trials of each stage with trials, until the stage itself reports it.
    """

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = dict(expected)
        self._total, self._done = dict(expected), dict.fromkeys(expected, 0)

    @property
    def total(self) -> int:
        return sum(self._total.values())

    @property
    def done(self) -> int:
        return sum(self._done.values())

    def read(self, stage: str, log: Path) -> None:
        """Read what a running stage has logged so far. Tune logs one batch of trials after another."""
        batches: list[list[int]] = []  # [to run, done]
        for line in _lines(log):
            if match := TO_RUN.match(line):
                batches.append([int(match[1]), 0])
            elif batches and (match := DONE.match(line)):
                batches[-1][1] = int(match[1])
        if batches:
            reported = sum(to_run for to_run, _ in batches)
            still_to_come = self._expected.get(stage, 0) if stage == TUNE else 0
            self._total[stage] = max(reported, still_to_come)
            self._done[stage] = sum(done for _, done in batches)

    def close(self, stage: str) -> None:
        """Count no more trials to do for a stage that has ended."""
        if stage in self._total:
            self._total[stage] = self._done[stage]


class Display:
    """Prints what happens; on a terminal, a bar with the running stages stays below.

    Args:
        stages: the number of stages to run or to check.
    """

    def __init__(self, stages: int, trials: Trials, console: Console | None = None) -> None:
        self.trials = trials
        self._stages, self._ended, self._begin = stages, 0, time.monotonic()
        self._said = 0  # lines about chosen settings
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}  {task.fields[running]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=stages, left="", running="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, running: Mapping[str, Path]) -> None:
        """Bring the bar up to date.

        Args:
            running: the log of each running stage.
        """
        for stage, log in running.items():
            self.trials.read(stage, log)
        if TUNE in running:
            self._say_chosen(running[TUNE])
        self._bar.update(
            self._task,
            description=self._counts(),
            completed=self._ended + self.trials.done,
            total=self._stages + self.trials.total,
            left=self._time_left(),
            running=", ".join(_with_epoch(stage, log) for stage, log in running.items()),
        )

    def end(self, name: str, stages: Sequence[str], log: Path, ok: bool, seconds: float) -> None:
        """Report the end of stages that ran together: done, failed, or DVC found that they did not have to run."""
        self.trials.read(name, log)
        if TUNE in stages:
            self._say_chosen(log)
        for stage in {name, *stages}:
            self.trials.close(stage)
        self._ended += len(stages)
        ran = any(line.startswith(RAN) for line in _lines(log))
        outcome = f"done in {duration(seconds)}" if ran else "did not have to run"
        self.say(f"{name}: {outcome if ok else 'failed'}  ({self._counts()}{self._time_left()})")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def fail(self, stage: str, log: Path, dropped: list[str]) -> None:
        """Report a stage's failure: where its log is, the log's end, and the stages that are dropped."""
        for line in _lines(log)[-TAIL:]:
            self.say(f"    {line}")
        self.say(f"{stage} failed; all that it printed is in {log}")
        if dropped:
            self.say(f"not started because of that: {', '.join(dropped)}")

    def _say_chosen(self, log: Path) -> None:
        """Tune may take most of a study's time, so what it has chosen is said at once."""
        chosen = [line for line in _lines(log) if CHOSEN.fullmatch(line)]
        for line in chosen[self._said :]:
            self.say(f"{TUNE}: {line}  ({self._counts()}{self._time_left()})")
        self._said = len(chosen)

    def _counts(self) -> str:
        trials = f", trials {self.trials.done}/{self.trials.total}" if self.trials.total else ""
        return f"stages {self._ended}/{self._stages}{trials}"

    def _time_left(self) -> str:
        """The estimated remaining time, at the speed of stages and trials so far; "" at the start."""
        done = self._ended + self.trials.done
        remaining = self._stages + self.trials.total - done
        if not (done and remaining):
            return ""
        return f", about {duration((time.monotonic() - self._begin) / done * remaining)} left"


def _with_epoch(stage: str, log: Path) -> str:
    """A running stage, and how many epochs of its training are over where its log says so."""
    epochs = [match[1] for line in _lines(log) if (match := EPOCH.search(line))]
    return f"{stage} (epochs {epochs[-1]})" if epochs else stage


def duration(seconds: float) -> str:
    """Such as 34 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
