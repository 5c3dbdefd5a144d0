"""What the spread of paired differences is made of: the validation rows, or the seeds.

    python -m tools.spread                  of the study whose trials lie in data/, into docs/measured/spread.md

A difference of accuracy is a mean over rows. Part of its variance from seed to seed comes from single rows: a row is
right in one trial and wrong in another, independently of other rows. That part falls as 1 / rows. The rest is common to
many rows, and only more seeds reduce it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdcache.results.evaluation import Evaluation
from kdcache.study import Study, load_study
from kdcache.system.files import write_atomically
from stages import stage_errors

PAGE = Path("docs/measured/spread.md")

HEAD = """# What the spread of paired differences is made of

`python -m tools.spread` writes this page from the logits that the default study's trials keep. All numbers but the last
two columns are points of accuracy.

| task | student | method | seeds | rows | sd | own | sd, twice the rows | correlation | changed |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
TAIL = """

- *sd*: the sd of the difference from plain fine-tuning, over the seeds. The number of seeds that a verdict needs grows
  with its square.
- *own*: the part of *sd* that comes from single rows, and so falls as 1 / rows. It is computed from the variance of
  each row over the seeds. It is above *sd* if rows happen to cancel.
- *correlation*: of the two scores over the seeds. Pairing by seed saves this share of the variance.
- *changed*: the share of rows that only one of the two has right.
"""


@dataclass(frozen=True)
class Spread:
    """The differences of a method from the baseline, in points.

    sd: over the seeds. own: the part of sd that comes from single rows; it is above `sd` if rows happen to cancel.
    correlation: of the two scores over the seeds. changed: the share of rows that only one of the two has right.
    """

    seeds: int
    rows: int
    sd: float
    own: float
    correlation: float
    changed: float

    def with_rows(self, factor: float) -> float:
        """The standard deviation to expect with `factor` times as many validation rows."""
        rest = max(0.0, self.sd**2 - self.own**2)
        return float(np.sqrt(rest + min(self.own, self.sd) ** 2 / factor))


def spread(right: npt.NDArray[np.bool_], baseline: npt.NDArray[np.bool_]) -> Spread:
    """The spread of a method's differences.

    Args:
        right, baseline: whether each row is right, [S, N], with the same seeds and rows.
    """
    ours, theirs = right.astype(np.float64), baseline.astype(np.float64)
    differences = ours - theirs
    seeds, rows = differences.shape
    own = differences.var(axis=0, ddof=1).sum() / rows**2  # as if rows were independent
    with np.errstate(invalid="ignore"):  # scores that never vary are correlated with nothing
        correlation = float(np.corrcoef(ours.mean(axis=1), theirs.mean(axis=1))[0, 1])
    return Spread(
        seeds=seeds,
        rows=rows,
        sd=100 * float(differences.mean(axis=1).std(ddof=1)),
        own=100 * float(np.sqrt(own)),
        correlation=correlation,
        changed=float(np.abs(differences).mean()),
    )


def spreads(study: Study, data: Path) -> Iterator[tuple[str, str, str, Spread]]:
    """(task, student, method, spread) of every method against its baseline, over the seeds that both have."""
    evaluation, baseline = Evaluation(study, data, ()), study.comparison.baseline
    for task, student, method in study.configurations():
        if method != baseline:
            ours = evaluation.outputs(task, student, method)
            theirs = evaluation.outputs(task, student, baseline)
            n = len(ours.seeds)  # a baseline has the seeds of all its methods
            yield (
                task,
                student,
                method,
                spread(ours.outputs == ours.labels, theirs.outputs[:n] == theirs.labels),
            )


def page(study: Study, data: Path) -> str:
    """The page in Markdown."""
    rows = [
        f"| {task} | {student} | {method} | {numbers.seeds} | {numbers.rows:,} | {numbers.sd:.2f} | "
        f"{numbers.own:.2f} | {numbers.with_rows(2):.2f} | {numbers.correlation:.2f} | {numbers.changed:.1%} |"
        for task, student, method, numbers in spreads(study, data)
    ]
    return HEAD + "\n".join(rows) + TAIL


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.spread", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    write_atomically(options.page, page(load_study(options.params), options.data).encode("utf-8"))


if __name__ == "__main__":
    main()
