"""Tables for a paper: whatever the names, LaTeX that compiles, Markdown and CSV with the cells in their columns."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cli import main
from kdcache.errors import ComparisonError
from kdcache.report import paper
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples

HOSTILE = r"a_b & 100% {$x^2$} #1 ~\ |<[*]>"
STUDY = samples.study()


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write_all(tmp_path))


def hostile(metrics: Metrics) -> Metrics:
    """The same results of a task with a name full of special characters, at the start of a cell too."""
    renamed = {
        name: getattr(metrics, name).replace(
            {"task": {"digits": HOSTILE}, "group": {"pretrained": f"[{HOSTILE}"}}
        )
        for name in ("trials", "comparisons", "cost", "calibration", "across")
    }
    return replace(metrics, **renamed)


def hostile_study():
    return STUDY.model_copy(update={"tasks": {**STUDY.tasks, HOSTILE: STUDY.tasks["digits"]}})


def test_every_character_that_latex_reads_is_escaped() -> None:
    assert paper.escape_latex(HOSTILE) == (
        r"a\_b \& 100\% \{\$x\textasciicircum{}2\$\} \#1 \textasciitilde{}\textbackslash{} \textbar{}$<$[*]$>$"
    )
    assert paper.escape_latex("[−0.29,\N{NO-BREAK SPACE}0.45] ± ≈") == r"{[}$-$0.29,~0.45] $\pm$ $\approx$"


@pytest.mark.parametrize("table", paper.TABLES)
def test_latex_has_every_cell_in_its_column(metrics: Metrics, table: str) -> None:
    text = paper.paper_table(hostile(metrics), hostile_study(), table, "latex")
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    for tabular in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", tabular).group(1))
        rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
        cells = [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows if r"\multicolumn" not in row]
        assert set(cells) == {columns}
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"\\\\\s*[\[*]", text)  # would be an argument of the line break
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH")
def test_latex_compiles(metrics: Metrics, tmp_path: Path) -> None:
    body = "\n".join(
        paper.paper_table(hostile(metrics), hostile_study(), name, "latex") for name in paper.TABLES
    )
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_only_what_is_better_by_the_test_is_bold(metrics: Metrics) -> None:
    text = paper.paper_table(metrics, STUDY, "main", "latex")
    # bert-tiny 80.45 (better, negligible), bert-tiny-scratch 75.4 (better); vit-tiny's best, 95.6, is inconclusive
    assert re.findall(r"\\textbf\{(\S+)", text) == ["80.5", "75.4"]
    assert "95.6" in text


def test_a_cell_of_the_main_table(metrics: Metrics) -> None:
    (grid,) = paper.main_grids(metrics, STUDY)
    assert grid.groups == (("", 1), ("bbc-headlines (accuracy)", 2), ("digits (accuracy)", 1))
    lines = paper.latex(grid).splitlines()
    place = lines.index(next(line for line in lines if line.startswith("kd &")))
    assert [line.split(" & ")[1] for line in lines[place : place + 3]] == [
        *(r"\textbf{80.5 $\pm$ 0.2}", "+0.45 [0.15,~0.75]", r"$\uparrow$ better, negligible")
    ]
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in lines


@pytest.mark.parametrize("table", paper.TABLES)
def test_csv_and_markdown_hold_the_same_cells(metrics: Metrics, table: str) -> None:
    (first, *_) = paper.TABLES[table](metrics, STUDY)
    heads, *rows = csv.reader(io.StringIO(paper.comma_separated(first)))
    assert {len(row) for row in rows} == {len(heads)} == {len(first.heads)}
    assert rows == [["; ".join(cell.lines) for cell in row] for row in first.rows]
    lines = paper.markdown(first).splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {len(heads) + 1}


def test_a_bar_in_a_name_does_not_end_a_markdown_cell() -> None:
    grid = paper.Grid("", [paper.Text(("a",))], [False], [[paper.Text(("x|y_z",))]])
    assert paper.markdown(grid).splitlines()[2] == r"| x\|y\_z |"


def test_what_the_study_cannot_show_is_an_error(metrics: Metrics) -> None:
    alone = replace(metrics, across=metrics.across[metrics.across["tasks"] == 1])
    with pytest.raises(ComparisonError, match="no student has two tasks"):
        paper.paper_table(alone, STUDY, "across", "csv")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = samples.write_all(tmp_path / "metrics")
    (tmp_path / "params.yaml").write_text(samples.PARAMS)
    command = ["table", "--metrics", str(folder), "--params", str(tmp_path / "params.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--format", "latex"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == paper.paper_table(read_metrics(folder), STUDY, "main", "latex") + "\n"
    (folder / "trials.csv").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([*command, "cost"])
    assert stopped.value.code == 1
    assert "trials.csv: missing" in capsys.readouterr().err
