"""What a study's looks gained: decided comparisons and trials, beside designs with fixed numbers of seeds.

    python -m tools.settled                 of the study in params.yaml and metrics/, into docs/measured/settled.md

The first seeds and the looks are judged from the same trials. Forty seeds of everything were never run; that line is
simulated from the observed spreads and differences.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from kdcache.cli.planning.forecasts import describe_design
from kdcache.results.reading import Metrics, read_metrics
from kdcache.statistics import compare
from kdcache.statistics.replay import TOLD
from kdcache.study import Study, load_study
from kdcache.system.files import write_atomically
from stages import stage_errors

PAGE = Path("docs/measured/settled.md")
FEW = 5  # the seeds of a fixed design, if every configuration has as many


@dataclass(frozen=True)
class Line:
    """A design: its number of trials, and how many comparisons it decides (a forecast's are averages)."""

    name: str
    trials: int
    decided: float
    comparisons: int


def lines(metrics: Metrics, study: Study, comparisons: Path) -> list[Line]:
    """Few seeds as a fixed design, the looks as declared, and all seeds as a fixed design."""
    trials = metrics.trials.groupby(["task", "student", "regularizer"]).size()
    few, most, configurations = min(FEW, int(trials.min())), study.looks[-1], len(trials)
    compared = compare(metrics.trials, study)
    (forecast,) = describe_design(_fixed(study, most), comparisons, None, None)["forecasts"]
    return [
        Line(
            f"{few} seeds, fixed",
            configurations * few,
            _decided(metrics, study, few),
            len(compared),
        ),
        Line(
            f"looks, judged {int(metrics.looks['look'].max())} of {len(study.looks)}",
            len(metrics.trials),
            float(compared["verdict"].isin(TOLD).sum()),
            len(compared),
        ),
        Line(f"{most} seeds, fixed (simulated)", configurations * most, forecast["decided"], len(compared)),
    ]


def _fixed(study: Study, seeds: int) -> Study:
    """The same study, judged once with its first seeds."""
    once = study.comparison.model_copy(update={"looks": None})
    return study.model_copy(update={"seeds": study.seeds[:seeds], "comparison": once})


def _decided(metrics: Metrics, study: Study, seeds: int) -> float:
    return float(compare(metrics.trials, _fixed(study, seeds))["verdict"].isin(TOLD).sum())


def page(metrics: Metrics, study: Study, comparisons: Path) -> str:
    """The page in Markdown."""
    seconds = float(metrics.cost.loc[metrics.cost["kind"] == "trial", "seconds"].median())
    devices = " and ".join(metrics.provenance.get("devices", {})) or "an unknown device"
    rows = [
        f"| {line.name} | {line.trials} | {line.decided:.1f} of {line.comparisons} | "
        f"{100 * line.decided / line.trials:.1f} | {3600 * line.decided / (line.trials * seconds):.1f} |"
        for line in lines(metrics, study, comparisons)
    ]
    return "\n".join(
        [
            "# What the looks of the default study were worth",
            "",
            f"`python -m tools.settled` writes this page from metrics/. The looks are {study.looks} seeds. A",
            f"trial took {seconds:.1f} s (median) on {devices}; `make study` runs two at once.",
            "",
            "| design | trials | decided | decided per 100 trials | decided per core-hour |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "The first two lines judge the same trials. The last is a forecast, and was not run. It is simulated from",
            "the differences and spreads that the study has observed, which is a little too hopeful.",
            "",
        ]
    )


@stage_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.settled", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    metrics, study = read_metrics(options.metrics), load_study(options.params)
    text = page(metrics, study, options.metrics / "comparisons.csv")
    write_atomically(options.page, text.encode("utf-8"))


if __name__ == "__main__":
    main()
