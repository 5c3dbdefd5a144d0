"""The results in the README: `python -m tools.readme_results` puts the table and the figure there.

The text between `<!-- results:begin -->` and `<!-- results:end -->` is replaced by what the metrics say; the
figure goes to docs/results.png beside the README. `--name families` does the same with another study's results:
the markers are `<!-- families:begin -->` and so on, the figure docs/families.png; `--figure` puts it elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdcache.errors import ComparisonError, KdcacheError
from kdcache.report import charts, paper
from kdcache.report.claims import claims
from kdcache.report.page import write_figure
from kdcache.results.reading import Metrics, read_metrics
from kdcache.study import Study, load_study

NAME = "results"


ALT = "Difference from plain fine-tuning with its interval, per regularizer, pretrained beside scratch"


def markers(name: str) -> tuple[str, str]:
    """The lines between which a study's results stand."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def figure_path(name: str) -> Path:
    """Where a study's figure is unless said otherwise, relative to the README."""
    return Path("docs") / f"{name}.png"


def results_markdown(metrics: Metrics, study: Study, figure: Path) -> str:
    """The claims, the figure (a path relative to the README) and the main table as Markdown."""
    answers = [f"- **{claim.question} {claim.answer}.** {claim.sentence}" for claim in claims(metrics)]
    picture = f"![{ALT}]({figure.as_posix()})"
    parts = (
        paper.escape_markdown("\n".join(answers)),
        picture,
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


def replace_results(readme: str, results: str, where: Path, name: str = NAME) -> str:
    """The README's text with new results between the two markers.

    Raises:
        ComparisonError: a marker is missing, doubled, or they are in the wrong order.
    """
    begin, end = markers(name)
    if (readme.count(begin), readme.count(end)) != (1, 1) or readme.index(begin) > readme.index(end):
        raise ComparisonError(f"{where}: expected {begin} once and {end} once after it; add the two lines")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n\n{results}\n\n{end}{rest.split(end)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Update the README and its figure; 1 with one clear message when that cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--name", default=NAME, help="of the markers and the figure (default: results)")
    parser.add_argument("--figure", type=Path, help="relative to the README (default: docs/NAME.png)")
    options = parser.parse_args(arguments)
    figure = options.figure or figure_path(options.name)
    try:
        update(options.metrics, options.readme, load_study(options.params), options.name, figure)
    except (KdcacheError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Updated {options.readme} and {options.readme.parent / figure}")
    return 0


def update(metrics_folder: Path, readme: Path, study: Study, name: str, figure: Path) -> None:
    """Put the results of a metrics folder into a README, and write the figure, a path relative to it."""
    metrics = read_metrics(metrics_folder)
    results = results_markdown(metrics, study, figure)
    text = replace_results(readme.read_text(encoding="utf-8"), results, readme, name)
    picture = readme.parent / figure
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_figure(metrics, charts.panels(metrics, 1 - study.comparison.alpha), png=picture)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
