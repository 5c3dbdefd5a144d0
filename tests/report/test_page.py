"""The page: its structure, that names cannot break it, that it loads nothing, and that a browser draws it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdcache.report import page as page_module
from kdcache.report.charts import panels
from kdcache.report.page import render, write_report
from kdcache.results.reading import read_metrics
from kdcache.results.writing import write_summary, write_table
from kdcache.statistics import compare, compare_across_tasks, compare_calibration, summarize
from stages import report as stage
from tests.report import samples
from tests.statistics.helpers import make_study, make_trials

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom"),
]
EMPTY = {"br", "hr", "img", "input", "link", "meta"}


class Outline(HTMLParser):
    """Collects headings, tables, images and what is loaded; fails on tags closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)
        for kind, found in ((("h1", "h2"), self.headings), (("td", "th"), self.cells)):
            if tag in kind:
                found.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"h1", "h2"} & set(self.open):
            self.headings[-1] += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(samples.write_all(folder / "metrics"), folder / "report", samples.study())


@pytest.fixture(scope="module")
def text(report: Path) -> str:
    return report.read_text(encoding="utf-8")


def rendered(folder: Path) -> str:
    metrics = read_metrics(folder)
    return render(metrics, samples.study(), panels(metrics, 0.95))


def without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the 900 kB of Vega, which these tests do not read."""
    monkeypatch.setattr(page_module.charts, "javascript", lambda: "")


def test_the_answer_comes_first(text: str) -> None:
    headings = Outline(text).headings
    assert headings[0] == "Do label regularizers help the student?"
    assert headings[1] == "Does any regularizer make a real difference to a pretrained student?"
    assert headings[4] == "Is a teacher needed: does distillation beat what needs none?"
    assert headings[5:] == [
        *(
            "The teachers",
            "What each one changes",
            "Results",
            "Every comparison",
            "Does it help more from scratch?",
        ),
        *("Across tasks", "Would other seeds, or other rows, change it?", "What it cost"),
        *("What is inconclusive, and why", "Decided before the data", "Learning curves", "Calibration"),
        *("How this was made", "How to read this"),
    ]


def test_the_first_screen_has_claims_cost_and_certainty(text: str) -> None:
    first = re.sub(r"<[^>]+>", " ", text.split("</section>")[0].split("<main>")[1])
    words = " ".join(first.split())
    assert [words.count(verdict) for verdict in ("✓ supported", "✕ contradicted", "? inconclusive")] == [
        1,
        1,
        2,
    ]
    # two teachers of 100 s, two caches of 4 s; 75 trials of 13 s on average
    assert "in 3.5 min; 15 trials read those logits." in words
    assert "All trials together took 16.2 min, on cpu." in words
    assert "95% intervals over 5 seeds" in words
    assert "says little" not in words
    assert "kdcache settle" not in words


def test_the_first_screen_names_the_teachers_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vega(monkeypatch)
    samples.write_all(tmp_path)
    head = rendered(tmp_path).split("</header>")[0]
    assert (
        "Teachers: bert-small on bbc-headlines 81.5 in accuracy (100.0 on train), +1.50 points over its best student;"
    ) in head


def test_older_metrics_have_a_page_that_says_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vega(monkeypatch)
    headings = Outline(rendered(samples.write(tmp_path))).headings
    assert {"Calibration", "What it cost"} < set(headings)
    later = {"Across tasks", "Would other seeds, or other rows, change it?", "Learning curves"}
    assert not later & set(headings)


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2, 3, 4]])
def test_a_study_of_one_student_and_few_seeds_has_no_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    """From the real statistics: one student; with five seeds, one of them has failed."""
    without_vega(monkeypatch)
    study = make_study(seeds=seeds)
    scores = [80.0, 81.0, 79.5, 80.5, 80.2][: len(seeds)]
    table = make_trials({("news", "tiny", method): scores for method in ("base", "smooth")})
    table = table.assign(init="pretrained", checkpoint="tiny", layers=None, nll=0.5, brier=0.4, ece=0.1)
    table.loc[4:4, ["accuracy", "nll", "brier", "ece"]] = float("nan")
    compared, folder = compare(table, study), tmp_path / "metrics"
    tables = {"trials": table, "comparisons": compared, "across": compare_across_tasks(table, study)}
    tables |= {"calibration": compare_calibration(table, study), "cost": samples.cost().iloc[:0]}
    for name, frame in tables.items():
        write_table(frame, folder / f"{name}.csv")
    write_summary(summarize(table, study, compared), folder / "summary.json")
    shown = visible(write_report(folder, tmp_path / "report", study).read_text(encoding="utf-8"))
    assert not re.search(r"\b(NaN|nan|null|inf)\b|\bNone\b(?! of)", shown)
    assert re.search(
        r"pretrained student\s+hollow: inconclusive", shown
    )  # the figure's legend: nothing from scratch


def visible(text: str) -> str:
    """The page's words without its scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)


def test_every_verdict_has_its_word(text: str) -> None:
    cells = [" ".join(cell.split()) for cell in Outline(text).cells]
    assert any("80.5 ± 0.2 +0.45 [0.15, 0.75] ▲ better, negligible" in cell for cell in cells)
    assert any("? inconclusive" in cell for cell in cells)


def test_the_legend_names_both_kinds_of_students(text: str) -> None:
    assert re.search(r"pretrained student\s+from scratch\s+hollow: inconclusive", visible(text))


def test_header_cells_say_what_they_head_and_figures_have_text(text: str) -> None:
    outline = Outline(text)
    heads = re.findall(r"<th(?=[\s>])[^>]*>", text)
    assert heads
    assert all("scope=" in head for head in heads)
    alternatives = [value for tag, name, value in outline.attributes if (tag, name) == ("img", "alt")]
    names = ("interval", "Reliability", "Mean ranks", "Points gained pretrained", "Mean training loss")
    kinds = [sum(kind in words for words in alternatives) for kind in names]
    assert (kinds, len(alternatives)) == ([2, 3, 1, 1, 3], 10)
    targets = [value for _, name, value in outline.attributes if name == "id"]
    labels = [value for _, name, value in outline.attributes if name == "aria-labelledby"]
    assert len(targets) == len(set(targets))
    assert set(labels) <= set(targets)


def test_the_page_loads_nothing(text: str) -> None:
    loads = {"src", "href", "srcset", "action", "data", "poster"}
    addresses = [value for _, name, value in Outline(text).attributes if name in loads]
    assert all(value.startswith(("data:", "#")) for value in addresses)
    assert "url(" not in (text.split("<style>")[1].split("</style>")[0])
    assert "default-src 'none'" in text


def test_names_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vega(monkeypatch)
    folder = samples.write_all(tmp_path)
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace("vit-tiny", "</script><b onclick=x>"))
    text = rendered(folder)
    assert "<b onclick" not in text
    assert "&lt;b onclick=x&gt;" in text
    Outline(text)


def test_the_same_metrics_give_the_same_page(report: Path) -> None:
    again = write_report(report.parents[1] / "metrics", report.parents[1] / "again", samples.study())
    assert again.read_bytes() == report.read_bytes()


def test_a_study_of_the_baseline_alone_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vega(monkeypatch)
    folder = samples.write(tmp_path / "metrics")
    samples.trials().query("regularizer == 'base'").to_csv(folder / "trials.csv", index=False)
    samples.comparisons().iloc[:0].to_csv(folder / "comparisons.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"claims": [], "interaction": []}))
    study = samples.study().model_copy(update={"distillers": {}})
    text = write_report(folder, tmp_path / "report", study).read_text(encoding="utf-8")
    assert "Nothing to compare yet" in text
    Outline(text)


def test_missing_trials_leave_dashes_and_no_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vega(monkeypatch)
    folder = samples.write(tmp_path)
    table = samples.comparisons()
    numbers = ["mean", "sd", "difference", "ci_low", "ci_high", "t_p", "tost_p", "hedges_g", "detectable"]
    table.loc[table["student"] == "vit-tiny", numbers] = float("nan")
    table.loc[table["student"] == "vit-tiny", ["verdict", "note"]] = ["inconclusive", "no trials yet"]
    table.to_csv(folder / "comparisons.csv", index=False)
    text = rendered(folder)
    assert "no trials yet" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(samples.PARAMS)
    metrics = samples.write(tmp_path / "metrics")
    command = ["--params", str(params), "--metrics", str(metrics), "--out", str(tmp_path / "report")]
    assert stage.main(command) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "index.html",
        "figure.svg",
        "figure.png",
    }
    (metrics / "cost.csv").unlink()
    assert stage.main(command) == 1
    assert "cost.csv: missing" in capsys.readouterr().err


def browse(address: str, folder: Path) -> tuple[str, list[str], list[str]]:
    """Open a page without a network: the drawn document, console lines, and what the page asked for."""
    log = folder / "net.json"
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own requests (its updates, the time) have no origin; a page's have one.
    asked = [event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console, [url for url in asked if url.startswith("http")]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)")
def test_a_browser_draws_it_and_asks_the_network_for_nothing(report: Path, tmp_path: Path) -> None:
    document, console, asked = browse(report.as_uri(), tmp_path)
    assert (console, asked) == ([], [])
    assert len(re.findall(r'class="live drawn[^"]*"[^>]*><svg', document)) == 10


ACT = """
const table = document.getElementById("comparisons");
const heading = Array.from(table.tHead.rows[0].cells).find((cell) => cell.textContent === "difference");
heading.querySelector("button").click();
heading.querySelector("button").click();
const form = document.querySelector("form.filter");
form.elements.words.value = "KD bert";
form.elements.init.value = "scratch";
form.dispatchEvent(new Event("input"));
const main = document.querySelector("table.main");
main.querySelectorAll("thead tr")[1].cells[1].querySelector("button").click();
const order = Array.from(main.tBodies[0].rows).map((row) => row.cells[0].firstChild.textContent).join(" ");
document.title = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden).map((row) => row.cells[0].textContent
  + " " + row.cells[6].textContent).join("; ") + " | " + form.querySelector("output").textContent
  + " | " + heading.getAttribute("aria-sort") + " | " + order;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)")
def test_a_browser_sorts_and_filters_the_comparisons(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = report.read_text(encoding="utf-8")
    before, end, after = text.rpartition("</body>")
    page.write_text(f"{before}<script>{ACT}</script>{end}{after}", encoding="utf-8")
    document, console, _ = browse(page.as_uri(), tmp_path)
    assert console == []
    # scratch students of which a name holds "bert" and the regularizer "kd": 2.40 before 0.70
    assert (
        "<title>kd +2.40; self_kd +0.70 | 2 of 12 | descending | {} </title>".format(
            "tf_reg base self_kd label_smoothing kd"
        ).replace(" </title>", "</title>")
        in document
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)")
def test_the_browser_test_would_see_a_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://pictures.invalid/a.png'><script>console.error('x')</script>")
    _, console, asked = browse(page.as_uri(), tmp_path)
    assert (len(console) > 0, asked[0]) == (True, "http://pictures.invalid/a.png")
