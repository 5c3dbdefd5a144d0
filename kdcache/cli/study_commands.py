"""The commands about studies.

Each command computes its answer as one JSON-like object and prints it as a table, or with --json as JSON. A command
itself imports slow modules (DVC, torch), so that the other commands start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdcache.cli.app import Json, app, print_json, printing
from kdcache.errors import KdcacheError

MOST_JOBS = 4096  # stages at once
MOST_GIGABYTES = 1e9
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=MOST_JOBS, help="Stages at once.")]


@app.command()
def check(
    params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml"),
    files: Annotated[
        bool,
        typer.Option("--files/--no-files", help="Also check what it names: data, checkpoints, functions."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Check a study file and what it names: all mistakes at once, before anything runs. No network is asked."""
    from kdcache.cli.named import find_mistakes
    from kdcache.errors import ParamsError
    from kdcache.study import load_study

    study = load_study(params)
    mistakes, unseen = find_mistakes(study) if files else ([], [])
    if mistakes:
        raise ParamsError(params, mistakes)
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
        "not_looked_at": unseen,
    }
    if study.tuning is not None:
        counts["tuning_trials"] = study.tuning_trials()
    text = (
        "{path}: no mistakes; {tasks} tasks, {teachers} teachers, {students} students, "
        "{configurations} configurations x {seeds} seeds = {trials} trials"
    )
    if len(study.looks) > 1:
        text += f" at most, judged after {', '.join(map(str, study.looks))} seeds"
    if study.tuning is not None:
        text += (
            f"; tuned before in {{tuning_trials}} trials: at most {study.tuning.budget} settings of each, "
            f"{len(study.tuning.seeds)} seeds"
        )
    text = text.format(**counts)
    if unseen:
        text += f"\nnot looked at, since only the hub has it: {', '.join(unseen)}"
    print_json(counts) if as_json else typer.echo(text)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder. It is created if needed.")],
    template: Annotated[
        Literal["default", "text", "images", "language-model", "paper"] | None,
        typer.Option(help="Which study to start from: default, if neither --data nor --images is given."),
    ] = None,
    data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="TRAIN VALIDATION", help="Your own texts: two CSV, Parquet or JSON lines files."
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="The column of the texts. Give two for pairs.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the classes.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Your own images: a folder with train/ and validation/, each with a folder per class."
        ),
    ] = None,
) -> None:
    """Write a project that runs: params.yaml, dvc.yaml, stages, and small models that need no network."""
    from kdcache.repro.init import start_project
    from kdcache.repro.own_data import Images, Texts

    given = [bool(text), bool(label)]
    if any(given) != (data is not None) or any(given) != all(given):
        raise KdcacheError("init: --data TRAIN VALIDATION, --text COLUMN and --label COLUMN go together")
    if data is not None and images is not None:
        raise KdcacheError("init: give --data or --images, not both")
    if template is not None and (data is not None or images is not None):
        raise KdcacheError("init: --template is for a study without data of your own; leave it out")
    texts = None if data is None else Texts(*data, text=text or [], label=label or "")
    own = texts if images is None else Images(images)
    typer.echo("\n".join(start_project(folder, template or "default", own)))


@app.command()
def repro(
    targets: Annotated[
        list[str] | None, typer.Argument(help="The stages to run. Default: all of dvc.yaml.")
    ] = None,
    jobs: Jobs = 2,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", "-k", help="When a stage fails, still run the stages that do not need it."
        ),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Accept outputs that are only missing here, such as a teacher."),
    ] = False,
) -> None:
    """Do what `dvc repro` does, with several independent stages at once on this machine."""
    from kdcache.repro.driver import reproduce  # imports DVC

    raise typer.Exit(reproduce(targets or [], jobs, keep_going, allow_missing))


@app.command()
def settle(
    jobs: Jobs = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run next, and run nothing.")
    ] = False,
) -> None:
    """Run a study to its end: look after look, with more seeds only for open comparisons, and a report after each look.

    Ctrl-C keeps all that is finished. Run the command again to go on.
    """
    from kdcache.repro import settle as settling  # imports DVC

    if dry_run:
        typer.echo(settling.next_step(jobs))
    else:
        raise typer.Exit(settling.settle(jobs, typer.echo))


@app.command()
def adopt(
    params: Annotated[Path, typer.Argument(help="The study file.")] = Path("params.yaml"),
    sample: Annotated[int, typer.Option(min=1, help="The least number of trials to run again.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of trials.")] = 0,
    as_json: Json = False,
) -> None:
    """After a refactoring: run some finished trials again, and keep all results if every bit of them is the same.

    The trials have every model family, method and task. Teachers are run again with their logits. Only the code may
    differ.
    """
    from kdcache.cli.keeping import adopt_results

    result = adopt_results(params, sample, seed)
    text = (
        "{checked} trainings came out the same, bit for bit; the new identity is given to {teachers} teachers, "
        "{caches} caches and {trials} trials. `dvc repro` records it without training anything."
    )
    nothing = "every result has the identity of this code already; nothing was run"
    print_json(result) if as_json else typer.echo(text.format(**result) if result["checked"] else nothing)


@app.command()
def student(
    task: Annotated[str, typer.Argument(help="The task's name in params.yaml.")],
    name: Annotated[str, typer.Argument(metavar="STUDENT", help="The student's name.")],
    method: Annotated[str, typer.Argument(help="The regularizer's or distiller's name.")],
    out: Annotated[Path, typer.Option(help="The folder for the model. It must be new or empty.")],
    seed: Annotated[int | None, typer.Option(help="The trial's seed. Default: the first one.")] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write model.onnx too, checked on every row of validation.")
    ] = False,
    params: Annotated[Path, typer.Option(help="The study file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Hand out a trained student: a folder that transformers loads, with a card that says where the model comes from.

    A model that was kept (`keep` in params.yaml) is copied. Any other model is trained again. Its logits must be those
    of the trial, bit for bit.
    """
    from kdcache.cli.keeping import handed_out

    answer = handed_out(params, (task, name, method), seed, out, onnx)
    text = "{out}: {student} by {regularizer}, seed {seed}, on {task}: {scored}\n{how}"
    scored = ", ".join(f"{metric} {value:.6g}" for metric, value in answer["scores"].items())
    how = (
        "trained again; its logits are the trial's, bit for bit"
        if answer["trained_again"]
        else "as it was kept"
    )
    how += ", as ONNX too: its logits are torch's to 1e-4" if onnx else ""
    print_json(answer) if as_json else typer.echo(text.format(**answer, scored=scored, how=how))


@app.command()
def distance(
    teacher: Annotated[str | None, typer.Option(help="The teacher. Default: each student's own.")] = None,
    split: Annotated[str, typer.Option(help="The evaluated split whose documents are used.")] = "validation",
    params: Annotated[Path, typer.Option(help="The study file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Show how far trained language models are from their teacher: KL in nats per token, and the acceptance rate.

    The models are those that trials kept (`keep` in params.yaml). The teacher's token cache stands for the teacher. KL
    from a sampled cache is unbiased, and has its standard error over documents. The acceptance rate needs a full cache.
    """
    from kdcache.cli.distances import find_distances, print_distances

    answer = find_distances(params, teacher, split)
    print_json(answer) if as_json else print_distances(answer)


store = typer.Typer(
    help="Show or free the store of finished trials, teachers and caches.", no_args_is_help=True
)
app.add_typer(store, name="store")


@store.command("list")
def list_store(as_json: Json = False) -> None:
    """Show what is kept: how many trials, teachers and caches, and their bytes."""
    from kdcache.cli.keeping import stored

    result = stored()
    print_json(result) if as_json else printing().print_store(result)


@store.command()
def gc(
    gigabytes: Annotated[
        float, typer.Option("--keep", min=0, max=MOST_GIGABYTES, help="Keep at most this many GB.")
    ],
    as_json: Json = False,
) -> None:
    """Free space. The entries that were unused for longest go first."""
    from kdcache.cli.keeping import freed

    result = freed(gigabytes)
    text = "{entries} entries removed, {bytes:,} bytes freed; {left:,} bytes are left"
    print_json(result) if as_json else typer.echo(text.format(**result))


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
        typer.Option(
            help="Standard deviation of the paired differences, in points (a loss: in its unit), to simulate.",
        ),
    ] = None,
    effects: Annotated[
        str | None, typer.Option(metavar="0,0.5,1", help="True differences in that unit; needs --sd.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a study takes: stages, trials, optimizer steps, hours and disk, and what of it is there already.

    For a study with looks, it also shows how many trials the study will probably need and what they decide. That is
    simulated from --sd and --effects, or from the spreads of the study's own results if there are some.

    Hours come from finished runs, or from --calibrate. It fetches a hub model's configuration and tokenizer but no
    weights. Nothing else asks a network.
    """
    from kdcache.cli.plans import find_plan

    answer = find_plan(params, data, rows or [], calibrate, sd, effects)
    print_json(answer) if as_json else printing().print_plan(answer)


@app.command()
def table(
    what: Annotated[
        Literal["main", "comparisons", "calibration", "across", "cost"],
        typer.Argument(help="The table to print."),
    ] = "main",
    form: Annotated[Literal["latex", "markdown", "csv"], typer.Option("--format")] = "markdown",
    metrics: Annotated[Path, typer.Option(help="The folder with the study's metrics.")] = Path("metrics"),
    params: Annotated[Path, typer.Option(help="The study file.")] = Path("params.yaml"),
) -> None:
    """Print a table of a study's results for a paper: the report's words as LaTeX (booktabs), Markdown or CSV."""
    from kdcache.report.paper import paper_table
    from kdcache.results.reading import read_metrics
    from kdcache.study import load_study

    study = load_study(params)
    typer.echo(paper_table(read_metrics(metrics), study, what, form))


@app.command()
def compare_runs(
    a: Annotated[str, typer.Argument(help="A Git revision, a DVC experiment, or a folder with a study.")],
    b: Annotated[str, typer.Argument(help="The other one, likewise.")],
    metrics: Annotated[Path, typer.Option(help="The metrics folder in each.")] = Path("metrics"),
    params: Annotated[Path, typer.Option(help="The study file in each.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Show two runs of a study side by side: which parameters differ, and the result of every configuration."""
    from kdcache.cli.compare_runs import compared, print_compared, read_run

    first, second = (read_run(name, params, metrics) for name in (a, b))
    print_json(compared(first, second)) if as_json else print_compared(first, second)
