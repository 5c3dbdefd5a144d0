"""The commands about logit caches.

Each command computes its answer as one JSON-like object and prints it as a table, or with --json as JSON. A command
itself imports slow modules (scoring, torch, data sets), so that the other commands start at once.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdcache.cli.app import Json, app, print_json, printing
from kdcache.errors import CacheError

if TYPE_CHECKING:
    from kdcache.logits import LogitCache
    from kdcache.logits.tokens import TokenCache

Cache = Annotated[Path, typer.Argument(help="A logit cache's folder (it holds manifest.json).")]
Split = Annotated[str | None, typer.Option(help="Only this split. Default: all.")]
Task = Annotated[Path | None, typer.Option(help="The prepared task's folder (it holds card.json).")]


@app.command()
def info(cache: Cache, as_json: Json = False) -> None:
    """Show what a logit cache holds, what it was computed from and what that cost."""
    answer = _any_kind(cache).info()
    print_json(answer) if as_json else printing().print_info(answer)


@app.command()
def head(
    cache: Cache,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 10,
    split: Split = None,
    task: Task = None,
    as_json: Json = False,
) -> None:
    """Show the first rows by id with their top probabilities. With --task also their text and label."""
    from kdcache.cli import tokens
    from kdcache.cli.head import head_of

    of_tokens = tokens.token_cache(cache)
    if of_tokens is not None:
        if task is not None:
            raise CacheError(
                f"{cache}: is a token cache, whose rows have their tokens in themselves; leave out --task"
            )
        token_heads = {name: tokens.head_of(of_tokens, name, rows) for name in tokens.names(of_tokens, split)}
        print_json({"path": str(cache), "splits": token_heads}) if as_json else tokens.print_heads(
            token_heads
        )
        return
    opened = _opened(cache)
    heads = {name: head_of(opened, name, rows, task) for name in _splits(opened, split)}
    if as_json:
        print_json({"path": str(cache), "splits": heads})
    else:
        printing().print_heads(opened, heads, with_task=task is not None)


@app.command()
def verify(
    cache: Cache,
    quick: Annotated[bool, typer.Option(help="Check files, sizes and footers, not every byte.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="TEACHER", help="Also re-run this teacher's checkpoint; needs --task."),
    ] = None,
    task: Task = None,
    split: Annotated[str | None, typer.Option(help="Re-run on this split. Default: all.")] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Random rows to re-run the teacher on, of each split.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of rows.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Largest |difference| / (1 + |cached logit|); bfloat16 needs about 0.1."
        ),
    ] = 1e-3,
    as_json: Json = False,
) -> None:
    """Check a logit cache for damage: every checksum and every value, unless --quick.

    With --against the teacher is run again on some random rows, and its logits are compared with the cached ones.
    """
    if (against is None) != (task is None):
        raise CacheError("verify: --against TEACHER and --task FOLDER go together; give both or neither")
    if against is not None:
        _refuse_tokens(cache, "--against cannot run its teacher again")
    checked = _any_kind(cache).verify("quick" if quick else "full")
    answer: dict[str, Any] = {"path": str(cache), **asdict(checked)}
    text = f"{cache}: whole ({checked.level}: {checked.shards} shards, {checked.rows} rows, {checked.bytes} bytes)"
    if against is not None and task is not None:
        from kdcache.cli.against import rerun  # imports torch

        opened = _opened(cache)
        answer["against"] = rerun(opened, _splits(opened, split), against, task, rows, seed, tolerance)
        text += (
            "\n{teacher}: gives the same logits on {rows} rows (largest relative difference {difference:.2g})"
        )
        text = text.format(**answer["against"])
    print_json(answer) if as_json else typer.echo(text)


@app.command()
def stats(cache: Cache, split: Split = None, task: Task = None, as_json: Json = False) -> None:
    """Show how sure a teacher is and what it predicts. With --task also how often it is right, and its calibration."""
    from kdcache.cli.analysis import stats as stats_of
    from kdcache.cli.analysis import task_rows

    _refuse_tokens(cache, "stats describes predicted classes, which its rows do not have")
    opened = _opened(cache)
    answers = []
    for name in _splits(opened, split):
        labels = None
        if task is not None and name != "unlabelled":
            labels = task_rows(opened, name, task, ["label"])["label"].to_numpy()
        answers.append(stats_of(opened, name, labels))
    if as_json:
        print_json({"path": str(cache), "splits": {item["split"]: item for item in answers}})
    else:
        printing().print_stats(opened, answers)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A logit cache's folder.")],
    b: Annotated[Path, typer.Argument(help="Another cache's folder, of the same data.")],
    split: Annotated[str | None, typer.Option(help="Only this split. Default: all that both have.")] = None,
    as_json: Json = False,
) -> None:
    """Show where two teachers differ: how often they disagree, and how far apart their probabilities are."""
    from kdcache.cli import tokens
    from kdcache.cli.analysis import diff as diff_of

    pair = tokens.open_both(a, b)
    first: Any = pair[0] if pair else _opened(a)
    second: Any = pair[1] if pair else _opened(b)
    asked = tokens.names(first, split) if pair else _splits(first, split)
    names = [name for name in asked if split or name in second.splits]
    if not names:
        raise CacheError(f"{b}: has no split in common with {a} ({', '.join(second.splits)})")
    answers = [(tokens.diff if pair else diff_of)(first, second, name) for name in names]
    if as_json:
        print_json({"a": str(a), "b": str(b), "splits": {item["split"]: item for item in answers}})
    else:
        printing().print_diffs(str(a), str(b), answers)
        if pair:
            tokens.print_largest(answers)


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

    _refuse_tokens(cache, "export writes logits of classes; the cache's shards are Parquet files already")
    opened = _opened(cache)
    names = _splits(opened, split)
    chosen = write_export(opened, names, out, form, task)
    rows = sum(opened.manifest.splits[name].rows for name in names)
    answer = {"path": out, "format": chosen, "splits": names, "rows": rows}
    print_json(answer) if as_json else typer.echo(f"{out}: {rows} rows")


@app.command()
def ensemble(
    out: Annotated[Path, typer.Argument(help="The new cache's folder.")],
    caches: Annotated[list[Path], typer.Argument(help="The caches to combine, two or more.")],
    of: Annotated[Literal["logits", "probabilities"], typer.Option(help="What is averaged.")] = "logits",
    weight: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1e9, help="A cache's weight. Give one for each cache, in their order."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the cache at OUT, if there is one.")] = False,
    as_json: Json = False,
) -> None:
    """Make one logit cache from several teachers' caches: the mean of their logits or of their probabilities."""
    from kdcache.logits.ensemble import ensemble as make_ensemble

    if len(caches) < 2:
        raise CacheError(
            f"{out}: an ensemble is made of two caches or more, found {len(caches)} (OUT comes first)"
        )
    for cache in caches:
        _refuse_tokens(cache, "ensemble cannot average distributions of which only a part is stored")
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CacheError(
            f"{out}: is there already; name a new folder first (OUT CACHE CACHE ...), or --overwrite"
        )
    answer = make_ensemble(caches, out, of=of, weights=weight or None).info()
    rows = sum(answer["rows"].values())
    print_json(answer) if as_json else typer.echo(
        f"{out}: the mean {of} of {len(caches)} caches, {rows} rows"
    )


@app.command()
def push(
    cache: Cache,
    target: Annotated[
        str, typer.Argument(help="hf://datasets/OWNER/NAME, with /FOLDER and @BRANCH if wanted.")
    ],
    licence: Annotated[
        str, typer.Option(help="The licence's id as the hub writes it, such as cc-by-4.0; or `other`.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is new, make it private.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the cache and the card that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a cache and upload it to a data set of the Hugging Face hub, with a card, in one commit.

    Needs a login: `hf auth login` or HF_TOKEN.
    """
    from kdcache.checkpoints.sharing import push as push_cache

    answer = push_cache(cache, target, licence, private=private, message=message, replace=replace)
    done = "{address}: uploaded {path} ({rows} rows, {bytes} bytes) as commit {commit}"
    if not answer["uploaded"]:
        done = "{address}: has this cache already, at commit {commit}; nothing was uploaded"
    elif not answer["card"]:
        done += (
            "\n{address}: README.md was there and was left as it is; --replace writes the card in its place"
        )
    print_json(answer) if as_json else typer.echo(done.format(**answer))


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(help="hf://datasets/OWNER/NAME, with /FOLDER and @REVISION if wanted.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder that the cache is written to.")],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FINGERPRINT",
            help="Refuse a cache of another `weights` (the teacher), `data` (the rows), `preprocessing`, `code`, or "
            "`identity` (all of it).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a cache from the Hugging Face hub, verify it in full, and only then put it in its place."""
    from kdcache.checkpoints.sharing import pull as pull_cache

    wrong = [item for item in expect or [] if "=" not in item]
    if wrong:
        raise CacheError(f"pull: --expect {wrong[0]}: expected NAME=FINGERPRINT, such as weights=3f2a...")
    expected = {name: value for name, _, value in (item.partition("=") for item in expect or [])}
    answer = pull_cache(source, folder, expected)
    if as_json:
        print_json(answer)
    else:
        new = (
            "downloaded and whole"
            if answer["downloaded"]
            else "has this cache already, whole; it stays as it is"
        )
        typer.echo(f"{folder}: {new}")
        printing().print_info(answer)


def _refuse_tokens(path: Path, problem: str) -> None:
    """Refuse a token cache.

    Args:
        problem: what the command cannot do with it.

    Raises:
        CacheError: the folder has a token cache.
    """
    from kdcache.cli.tokens import is_token_cache

    if is_token_cache(path):
        raise CacheError(
            f"{path}: is a token cache, and {problem}; info, head, diff and verify (without --against) take "
            "token caches"
        )


def _opened(path: Path) -> LogitCache:
    from kdcache.logits import LogitCache

    return LogitCache(path)


def _any_kind(path: Path) -> LogitCache | TokenCache:
    from kdcache.logits.opening import open_cache

    return open_cache(path)


def _splits(cache: LogitCache, split: str | None) -> list[str]:
    if split is None:
        return cache.splits
    if split not in cache.splits:
        raise CacheError(
            f"{cache.path}: no split {split!r} in this cache (there are: {', '.join(cache.splits)})"
        )
    return [split]
