"""The commands. Each finds its answer as one JSON-like object, and prints it as a table or, with --json, as it is.

A KdcacheError is printed as one message on standard error, without a traceback, and the exit code is 1. A command
imports what it alone needs (scoring, torch, data sets), so that the others start at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdcache.errors import CacheError, KdcacheError

if TYPE_CHECKING:
    from kdcache.logits import LogitCache
    from kdcache.logits.tokens import TokenCache

app = typer.Typer(name="kdcache", no_args_is_help=True)
Cache = Annotated[Path, typer.Argument(help="A logit cache's folder (it holds manifest.json).")]
Split = Annotated[str | None, typer.Option(help="Only this split; default: all.")]
Task = Annotated[Path | None, typer.Option(help="The prepared task's folder (it holds card.json).")]
Version = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version.", callback=lambda asked: _version(asked), is_eager=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never returns normally (SystemExit carries the exit code)."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="kdcache")
    except KdcacheError as error:
        print(f"kdcache: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _version(asked: bool) -> None:
    if asked:
        import kdcache

        typer.echo(f"kdcache {kdcache.__version__}")
        raise typer.Exit


@app.callback()
def options(version: Version = False) -> None:
    """Look at studies and logit caches."""


@app.command()
def check(
    params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Check a study file: all its mistakes at once, before anything runs."""
    from kdcache.study import load_study

    study = load_study(params)
    configurations = len(list(study.configurations()))
    counts = {
        "path": str(params),
        "tasks": len(study.tasks),
        "teachers": len(study.teachers),
        "students": len(study.students),
        "configurations": configurations,
        "seeds": len(study.seeds),
        "looks": study.looks,
        "trials": configurations * len(study.seeds),
    }
    text = (
        "{path}: no mistakes; {tasks} tasks, {teachers} teachers, {students} students, "
        "{configurations} configurations x {seeds} seeds = {trials} trials"
    )
    if len(study.looks) > 1:
        text += f" at most, judged after {', '.join(map(str, study.looks))} seeds"
    _print_json(counts) if as_json else typer.echo(text.format(**counts))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder; it is made where it is not there.")],
    template: Annotated[
        Literal["default", "text", "images", "paper"], typer.Option(help="Which study to start from.")
    ] = "default",
    data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="TRAIN VALIDATION", help="Your own texts: two CSV, Parquet or JSON lines files."
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="The texts' column; twice for pairs.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The classes' column.")] = None,
) -> None:
    """Write a project that runs: params.yaml, dvc.yaml, stages, and small models that need no network."""
    from kdcache.repro.init import Data, start_project

    given = [bool(text), bool(label)]
    if any(given) != (data is not None) or any(given) != all(given):
        raise KdcacheError("init: --data TRAIN VALIDATION, --text COLUMN and --label COLUMN go together")
    files = None if data is None else Data(*data, text=text or [], label=label or "")
    typer.echo("\n".join(start_project(folder, template, files)))


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages; default: all of dvc.yaml.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Stages at once.")] = 2,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", "-k", help="When a stage fails, run those that do not need it.")
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Do not make again what is only not here, such as a teacher."),
    ] = False,
) -> None:
    """Do what `dvc repro` does, with several independent stages at once on this machine."""
    from kdcache.repro.driver import reproduce  # imports DVC

    raise typer.Exit(reproduce(targets or [], jobs, keep_going, allow_missing))


@app.command()
def settle(
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Stages at once.")] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run next, and run nothing.")
    ] = False,
) -> None:
    """Run a study to its end: look after look, more seeds only where a comparison is open, a report after each.

    Ctrl-C keeps all that is finished; run it again to go on.
    """
    from kdcache.repro import settle as settling  # imports DVC

    if dry_run:
        typer.echo(settling.next_step(jobs))
    else:
        raise typer.Exit(settling.settle(jobs, typer.echo))


@app.command()
def adopt(
    params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml"),
    sample: Annotated[int, typer.Option(min=1, help="Trials that are run again at least.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which trials are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """After a refactoring: run some finished trials again, and keep all results if not a bit of them differs.

    Every model family, method and task is among them, and teachers with their logits. Nothing but the code may differ.
    """
    from kdcache.cli.keeping import adopt_results

    result = adopt_results(params, sample, seed)
    text = (
        "{checked} trainings came out the same, bit for bit; the new identity is given to {teachers} teachers, "
        "{caches} caches and {trials} trials. `dvc repro` records it without training anything."
    )
    nothing = "every result has the identity of this code already; nothing was run"
    _print_json(result) if as_json else typer.echo(text.format(**result) if result["checked"] else nothing)


store = typer.Typer(
    help="Finished trials, teachers and caches that are kept by their identity.", no_args_is_help=True
)
app.add_typer(store, name="store")


@store.command("list")
def list_store(as_json: Json = False) -> None:
    """What is kept: how many trials, teachers and caches, and their bytes."""
    from kdcache.cli.keeping import stored

    result = stored()
    _print_json(result) if as_json else _printing().print_store(result)


@store.command()
def gc(
    gigabytes: Annotated[float, typer.Option("--keep", min=0, help="Keep at most so many GB.")],
    as_json: Json = False,
) -> None:
    """Free space: the longest unused entries go first."""
    from kdcache.cli.keeping import freed

    result = freed(gigabytes)
    text = "{entries} entries removed, {bytes:,} bytes freed; {left:,} bytes are left"
    _print_json(result) if as_json else typer.echo(text.format(**result))


@app.command()
def plan(
    params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="Where the stages keep tasks/, logits/ and trials/.")] = Path(
        "data"
    ),
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Time a few steps of each model on each task, on this machine."),
    ] = False,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=TRAIN,EVALUATED[,CLASSES[,UNLABELLED]]", help="Rows of a task that is not prepared."
        ),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation of the paired differences, in points, to simulate."),
    ] = None,
    effects: Annotated[
        str | None, typer.Option(metavar="0,0.5,1", help="True differences in points; needs --sd.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a study takes: stages, trials, optimizer steps, hours and disk, and what of it is there already.

    For a study with looks also how many trials it will probably need and what they decide, simulated from --sd and
    --effects, or from the spreads of its own results where there are some.

    Hours come from finished runs, or from --calibrate, which fetches a hub model's configuration and tokenizer but no
    weights; nothing else asks a network.
    """
    from kdcache.cli.plans import find_plan

    answer = find_plan(params, data, rows or [], calibrate, sd, effects)
    _print_json(answer) if as_json else _printing().print_plan(answer)


@app.command()
def table(
    what: Annotated[
        Literal["main", "comparisons", "calibration", "across", "cost"], typer.Argument(help="Which table.")
    ] = "main",
    form: Annotated[Literal["latex", "markdown", "csv"], typer.Option("--format")] = "markdown",
    metrics: Annotated[Path, typer.Option(help="The folder with the study's metrics.")] = Path("metrics"),
    params: Annotated[Path, typer.Option(help="The study file.")] = Path("params.yaml"),
) -> None:
    """A table of a study's results for a paper: the words of the report as LaTeX (booktabs), Markdown or CSV."""
    from kdcache.report.paper import paper_table
    from kdcache.results.reading import read_metrics
    from kdcache.study import load_study

    study = load_study(params)
    typer.echo(paper_table(read_metrics(metrics), study, what, form))


@app.command()
def compare_runs(
    a: Annotated[str, typer.Argument(help="A Git revision, a DVC experiment, or a folder with a study.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    metrics: Annotated[Path, typer.Option(help="The metrics folder in each.")] = Path("metrics"),
    params: Annotated[Path, typer.Option(help="The study file in each.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Two runs of a study side by side: which parameters differ, and what became of every configuration."""
    from kdcache.cli.compare_runs import compared, print_compared, read_run

    one, other = (read_run(name, params, metrics) for name in (a, b))
    _print_json(compared(one, other)) if as_json else print_compared(one, other)


@app.command()
def info(cache: Cache, as_json: Json = False) -> None:
    """What a logit cache holds, what it was computed from and what that cost."""
    answer = _any_kind(cache).info()
    _print_json(answer) if as_json else _printing().print_info(answer)


@app.command()
def head(
    cache: Cache,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 10,
    split: Split = None,
    task: Task = None,
    as_json: Json = False,
) -> None:
    """The first rows by id with their top probabilities; with --task also their text and label."""
    from kdcache.cli import tokens
    from kdcache.cli.head import head_of

    of_tokens = tokens.token_cache(cache)
    if of_tokens is not None:
        found = {name: tokens.head_of(of_tokens, name, rows) for name in tokens.names(of_tokens, split)}
        _print_json({"path": str(cache), "splits": found}) if as_json else tokens.print_heads(found)
        return
    opened = _opened(cache)
    heads = {name: head_of(opened, name, rows, task) for name in _splits(opened, split)}
    if as_json:
        _print_json({"path": str(cache), "splits": heads})
    else:
        _printing().print_heads(opened, heads, with_task=task is not None)


@app.command()
def verify(
    cache: Cache,
    quick: Annotated[bool, typer.Option(help="Only files, sizes and footers, not every byte.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="TEACHER", help="Also re-run this teacher's checkpoint; needs --task."),
    ] = None,
    task: Task = None,
    split: Annotated[str | None, typer.Option(help="Re-run on this split; default: all.")] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Random rows to re-run the teacher on, of each split.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which random rows.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Largest |difference| / (1 + |cached logit|); bfloat16 needs about 0.1."),
    ] = 1e-3,
    as_json: Json = False,
) -> None:
    """Check a logit cache for damage: every checksum and every value, unless --quick.

    With --against the teacher is run again on some random rows, and its logits are compared with the cached ones.
    """
    if (against is None) != (task is None):
        raise CacheError("verify: --against TEACHER and --task FOLDER go together; give both or neither")
    whole = _any_kind(cache).verify("quick" if quick else "full")
    answer: dict[str, Any] = {"path": str(cache), **asdict(whole)}
    text = f"{cache}: whole ({whole.level}: {whole.shards} shards, {whole.rows} rows, {whole.bytes} bytes)"
    if against is not None and task is not None:
        from kdcache.cli.against import rerun  # imports torch

        opened = _opened(cache)
        answer["against"] = rerun(opened, _splits(opened, split), against, task, rows, seed, tolerance)
        text += (
            "\n{teacher}: gives the same logits on {rows} rows (largest relative difference {difference:.2g})"
        )
        text = text.format(**answer["against"])
    _print_json(answer) if as_json else typer.echo(text)


@app.command()
def stats(cache: Cache, split: Split = None, task: Task = None, as_json: Json = False) -> None:
    """How sure a teacher is and what it predicts; with --task also how often it is right, and its calibration."""
    from kdcache.cli.analysis import stats as stats_of
    from kdcache.cli.analysis import task_rows

    opened = _opened(cache)
    answers = []
    for name in _splits(opened, split):
        labels = None
        if task is not None and name != "unlabelled":
            labels = task_rows(opened, name, task, ["label"])["label"].to_numpy()
        answers.append(stats_of(opened, name, labels))
    if as_json:
        _print_json({"path": str(cache), "splits": {item["split"]: item for item in answers}})
    else:
        _printing().print_stats(opened, answers)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A logit cache's folder.")],
    b: Annotated[Path, typer.Argument(help="Another cache's folder, of the same data.")],
    split: Annotated[str | None, typer.Option(help="Only this split; default: all that both have.")] = None,
    as_json: Json = False,
) -> None:
    """Where two teachers differ: how often they disagree, and how far apart their probabilities are."""
    from kdcache.cli import tokens
    from kdcache.cli.analysis import diff as diff_of

    pair = tokens.both(a, b)
    one: Any = pair[0] if pair else _opened(a)
    other: Any = pair[1] if pair else _opened(b)
    asked = tokens.names(one, split) if pair else _splits(one, split)
    names = [name for name in asked if split or name in other.splits]
    if not names:
        raise CacheError(f"{b}: has no split in common with {a} ({', '.join(other.splits)})")
    answers = [(tokens.diff if pair else diff_of)(one, other, name) for name in names]
    if as_json:
        _print_json({"a": str(a), "b": str(b), "splits": {item["split"]: item for item in answers}})
    else:
        _printing().print_diffs(str(a), str(b), answers)


@app.command()
def export(
    cache: Cache,
    out: Annotated[
        str, typer.Argument(help="A file ending in .csv, .jsonl or .parquet, or a folder ending in /.")
    ],
    split: Split = None,
    task: Task = None,
    form: Annotated[
        Literal["csv", "jsonl", "parquet", "dataset"] | None,
        typer.Option("--format", help="Default: as OUT ends. `dataset`: a Hugging Face data set's folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a logit cache to one file or as a Hugging Face data set, its rows sorted by split and id.

    In CSV and JSON lines a row hash is 16 hexadecimal digits (many readers lose 64-bit integers). A data set
    (`datasets.load_from_disk`) also gets the task's columns with --task.
    """
    from kdcache.cli.exports import write_export

    opened = _opened(cache)
    names = _splits(opened, split)
    chosen = write_export(opened, names, out, form, task)
    rows = sum(opened.manifest.splits[name].rows for name in names)
    answer = {"path": out, "format": chosen, "splits": names, "rows": rows}
    _print_json(answer) if as_json else typer.echo(f"{out}: {rows} rows")


@app.command()
def ensemble(
    out: Annotated[Path, typer.Argument(help="The new cache's folder.")],
    caches: Annotated[list[Path], typer.Argument(help="The caches to combine, two or more.")],
    of: Annotated[
        Literal["logits", "probabilities"], typer.Option(help="The mean of what the new logits are.")
    ] = "logits",
    weight: Annotated[
        list[float] | None, typer.Option(help="A cache's weight; once for each, in their order.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a cache that is at OUT.")] = False,
    as_json: Json = False,
) -> None:
    """Make one logit cache of several teachers' caches: the mean of their logits or of their probabilities."""
    from kdcache.logits.ensemble import ensemble as make_ensemble

    if len(caches) < 2:
        raise CacheError(
            f"{out}: an ensemble is made of two caches or more, found {len(caches)} (OUT comes first)"
        )
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CacheError(
            f"{out}: is there already; name a new folder first (OUT CACHE CACHE ...), or --overwrite"
        )
    answer = make_ensemble(caches, out, of=of, weights=weight or None).info()
    rows = sum(answer["rows"].values())
    _print_json(answer) if as_json else typer.echo(
        f"{out}: the mean {of} of {len(caches)} caches, {rows} rows"
    )


def _printing() -> ModuleType:
    from kdcache.cli import printing  # imports Rich and the cache

    return printing


def _opened(path: Path) -> LogitCache:
    from kdcache.logits import LogitCache

    return LogitCache(path)


def _any_kind(path: Path) -> LogitCache | TokenCache:
    from kdcache.logits.manifests import kind_of

    if kind_of(path) != "tokens":
        return _opened(path)
    from kdcache.logits.tokens import TokenCache

    return TokenCache(path)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _splits(cache: LogitCache, split: str | None) -> list[str]:
    if split is None:
        return cache.splits
    if split not in cache.splits:
        raise CacheError(
            f"{cache.path}: no split {split!r} in this cache (there are: {', '.join(cache.splits)})"
        )
    return [split]
