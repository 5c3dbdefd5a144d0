"""The results in a README: its claims, its figure and its main table, from the metrics beside it.

    python -m tools.readme_results                      the study in params.yaml and metrics/, into results/README.md
    python -m tools.readme_results results/families     a committed study, into its own README.md

The text between `<!-- results:begin -->` and `<!-- results:end -->` is replaced; everything else stays. The figure is
figure.png beside the README.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import ComparisonError, KdcacheError
from kdcache.report import charts, paper
from kdcache.report.claims import claims
from kdcache.report.page import write_figure
from kdcache.results.reading import Metrics, read_metrics
from kdcache.study import Study, load_study
from kdcache.system.files import write_atomically

FIGURE = "figure.png"
NAME = "results"
ALT = "Difference from plain fine-tuning with its interval, per regularizer, pretrained beside scratch"


@dataclass(frozen=True)
class Sources:
    """Which study's results go into which README."""

    params: Path
    metrics: Path
    readme: Path

    @classmethod
    def of_folder(cls, folder: Path) -> Sources:
        """The sources of a committed study, `results/<study>`."""
        return cls(folder / "params.yaml", folder / "metrics", folder / "README.md")

    @classmethod
    def of_project(cls, root: Path) -> Sources:
        """The sources of the study that `dvc repro` runs."""
        return cls(root / "params.yaml", root / "metrics", root / "results" / "README.md")

    def read(self) -> tuple[Metrics, Study]:
        return read_metrics(self.metrics), load_study(self.params)


def markers(name: str) -> tuple[str, str]:
    """The lines between which generated text stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def results_markdown(metrics: Metrics, study: Study) -> str:
    """The claims, the figure and the main table as Markdown."""
    answers = [f"- **{claim.question} {claim.answer}.** {claim.sentence}" for claim in claims(metrics)]
    parts = (
        paper.escape_markdown("\n".join(answers)),
        f"![{ALT}]({FIGURE})",
        markdown_table(metrics, study),
        _legend(study),
    )
    return "\n\n".join(parts)


def _legend(study: Study) -> str:
    return paper.escape_markdown(
        f"{paper.legend(study)} The answers above are corrected over all comparisons that they are about, so *better* "
        "here can stand beside *undecided* there. *Inconclusive* does not mean *no difference*."
    )


def markdown_table(metrics: Metrics, study: Study) -> str:
    """The main table: mean ± sd over seeds, difference from the baseline with its interval, verdict."""
    return "\n\n".join(map(paper.markdown, paper.main_grids(metrics, study)))


def replace_results(readme: str, results: str, path: Path, name: str = NAME) -> str:
    """The README's text with new results between the two markers; `path` is for the message of an error.

    Raises:
        ComparisonError: a marker is missing, doubled, or they are in the wrong order.
    """
    begin, end = markers(name)
    if (readme.count(begin), readme.count(end)) != (1, 1) or readme.index(begin) > readme.index(end):
        raise ComparisonError(f"{path}: expected {begin} once and {end} once after it; add the two lines")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n\n{results}\n\n{end}{rest.split(end)[1]}"


def update(sources: Sources) -> None:
    """Put a study's results into its README, and write the figure beside it."""
    metrics, study = sources.read()
    text = sources.readme.read_text(encoding="utf-8")
    text = replace_results(text, results_markdown(metrics, study), sources.readme)
    panels = charts.panels(metrics, 1 - study.comparison.alpha)
    write_figure(metrics, panels, png=sources.readme.with_name(FIGURE))
    write_atomically(sources.readme, text.encode("utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """Update each README and its figure; returns 1, with one clear message, if that cannot be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", help="committed studies (default: the study here)")
    folders = parser.parse_args(arguments).folders
    try:
        for sources in [Sources.of_folder(folder) for folder in folders] or [Sources.of_project(Path())]:
            update(sources)
            print(f"Updated {sources.readme} and {sources.readme.with_name(FIGURE)}")
    except (KdcacheError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
