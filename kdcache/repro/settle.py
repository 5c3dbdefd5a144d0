"""Run a study with looks to its end: run the trials of a look, judge, and add seeds where comparisons are open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdcache.engine.shared_server import SharedServer
from kdcache.errors import ComparisonError, KdcacheError
from kdcache.repro.driver import alone, reproduce
from kdcache.repro.pipeline import Project
from kdcache.repro.work import PARAMS
from kdcache.results.reading import read_table
from kdcache.results.schema import CostRow, TrialRow
from kdcache.statistics import wording
from kdcache.statistics.going_on import Standing, standing
from kdcache.study import Study, load_study
from kdcache.study.schema import SeedCounts
from kdcache.study.settled import ensure_settled, read_settled, settled_beside, write_settled
from kdcache.trials.layout import Layout

COMPARE, REPORT = "compare", "report"  # stages of dvc.yaml


def settle(jobs: int = 2, say: Callable[[str], None] = print) -> int:
    """Run look after look, with a report after each. A fixed design has one look.

    If no trial is here, start with the first look, whatever settle.json asks for; the end is the same.

    It can be stopped and started again at any moment: settle.json asks for a look's trials before they run. It has
    the present declaration only once trials have been judged by it.

    Returns:
        The exit code, see `reproduce`.

    Raises:
        KdcacheError: see `reproduce` and `load_study`; or trials cannot be judged.
    """
    load_study(PARAMS)  # what is wrong with params.yaml is said first, also where there is no project
    with alone(Project()):
        study = load_study(PARAMS)
        path = settled_beside(PARAMS)
        ensure_settled(path)
        if study.comparison.looks is not None:
            return _settle_looks(study, path, jobs, say)
        code = reproduce(jobs=jobs)
        if not code:
            say(_line(study, _judged(study), jobs))
        return code


def _settle_looks(study: Study, path: Path, jobs: int, say: Callable[[str], None]) -> int:
    """Ask for the next look's trials, then run and judge.

    The file has the declarations of trials that were judged; the present one may not be among them yet.
    """
    judged_by = read_settled(path).about(study.seeds).declared
    if not any(Layout().data.glob("trials/*/*/*/seed-*")):
        study = study.with_settled({}, judged_by)  # as in a fresh clone: a first report comes soon
    write_settled(path, study, _asked(study), judged_by)
    with SharedServer() as server:
        return _look_by_look(study, path, jobs, say, server)


def _look_by_look(
    study: Study, path: Path, jobs: int, say: Callable[[str], None], server: SharedServer
) -> int:
    """Run and judge looks until nothing is open. A look's report is made beside the next look's first trials."""
    due: list[str] = []
    while True:
        if code := reproduce([COMPARE], jobs, beside=due, server=server):
            return code
        asked, now = _asked(study), _judged(study)
        say(_line(study, now, jobs))
        study = study.with_settled(now.counts, study.declarations)
        write_settled(path, study, _asked(study))
        if now.counts == asked:
            return reproduce(jobs=jobs, server=server)
        due = [REPORT]


def next_step(jobs: int = 2) -> str:
    """What `settle` would do next, in one line; nothing is run or written."""
    study = load_study(PARAMS)
    try:
        now = _judged(study)
    except ComparisonError:
        trials = len(list(study.all_trials()))
        return f"nothing is judged yet; next {wording.count(trials, 'trial')}, {study.looks[0]} seeds each"
    return _line(study, now, jobs)


def _asked(study: Study) -> SeedCounts:
    """How many seeds every configuration has now."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for task, student, method in study.configurations():
        seeds = len(study.seeds_of(task, student, method))
        counts.setdefault(task, {}).setdefault(student, {})[method] = seeds
    return counts


def _judged(study: Study) -> Standing:
    path = Layout().metrics / "trials.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ComparisonError(f"{path}: missing; `dvc repro compare` writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KdcacheError(f"{path}: cannot be read: {error}") from None
    return standing(read_table(text, path, TrialRow), study)


def _line(study: Study, now: Standing, jobs: int) -> str:
    """Such as "look 2 of 4, 10 seeds: 5 of 12 settled (4 equivalent, 1 worse); next 35 trials, about 3 minutes"."""
    settled, total = sum(now.verdicts.values()), len(now.outcomes)
    words = ", ".join(f"{n} {word}" for word, n in now.verdicts.items())
    result = f"{settled} of {total} settled" + (f" ({words})" if words else "")
    more = _more(study, now.counts)
    if more:
        looked = f"look {now.look} of {len(study.looks)}, {study.looks[max(now.look, 1) - 1]} seeds: {result}"
        minutes = _minutes(more, jobs)
        about = "" if minutes is None else f", about {wording.count(max(1, round(minutes)), 'minute')}"
        return f"{looked}; next {wording.count(sum(more.values()), 'trial')}{about}"
    trials, most = len(list(study.all_trials())), len(list(study.configurations())) * len(study.seeds)
    unsettled = [
        wording.count(n, "comparison") + f" {outcome}"
        for n, outcome in (
            (now.stopped("maximum"), f"undecided at the maximum of {len(study.seeds)} seeds"),
            (now.stopped("hopeless"), "given up, since more seeds would hardly decide"),
        )
        if n
    ]
    ran = f"{trials} of at most {most} trials" if trials < most else wording.count(trials, "trial")
    return "; ".join([f"{result}, with {ran}", *unsettled])


def _more(study: Study, counts: SeedCounts) -> dict[tuple[str, str, str], int]:
    """How many trials every configuration lacks."""
    more = {
        name: counts[name[0]][name[1]][name[2]] - len(study.seeds_of(*name))
        for name in study.configurations()
    }
    return {name: n for name, n in more.items() if n > 0}


def _minutes(more: dict[tuple[str, str, str], int], jobs: int) -> float | None:
    """The expected minutes, from the cost of trials so far; None if that is not known here."""
    path = Layout().metrics / "cost.csv"
    if not path.exists():
        return None
    cost = read_table(path.read_text(encoding="utf-8"), path, CostRow)
    took = cost[cost["kind"] == "trial"].groupby(["task", "model", "regularizer"])["seconds"].mean().dropna()
    if not set(more) <= set(took.index):
        return None
    return sum(float(took[name]) * n for name, n in more.items()) / jobs / 60
