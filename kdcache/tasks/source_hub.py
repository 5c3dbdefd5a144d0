"""Rows from a data set of the Hugging Face hub, or from its mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.checkpoints import hub
from kdcache.checkpoints.mirror import MIRROR, mirrored
from kdcache.errors import KdcacheError, TaskError
from kdcache.study import Source, Task
from kdcache.system.quoting import listed
from kdcache.tasks.rows import Columns, Loaded, Rows, columns_of, rows_of_dataset
from kdcache.tasks.source_files import file_digest, open_file


def mirror_folder(source: Source) -> Path | None:
    """The hub data set's folder in `KDCACHE_MIRROR`; None if there is no mirror."""
    try:
        return mirrored(source.hub or "")
    except KdcacheError as error:
        raise TaskError(f"{_hub_name(source)}: {error}") from None


def load_mirror(task: Task, folder: Path) -> Loaded:
    """A hub data set from `KDCACHE_MIRROR`: `<configuration>/<split>.parquet`.

    Raises:
        TaskError: the mirror lacks a split, or a split is a part or a sum of others; and as `open_file`.
    """
    source = task.source
    folder = folder / source.name if source.name else folder
    paths = {split: _mirror_file(source, folder, split) for split in source.split_names}
    splits = {split: open_file(split, path, columns_of(task, split)) for split, path in paths.items()}
    digests = {split: file_digest(path) for split, path in paths.items()}
    resolved = {"hub": source.hub, "name": source.name, "revision": source.revision, "mirrored": digests}
    return Loaded(splits, resolved)


def _mirror_file(source: Source, folder: Path, split: str) -> Path:
    """The file of a split in the mirror's folder of a configuration."""
    name = (source.splits or {}).get(split, split)
    if "[" in name or "+" in name:
        raise TaskError(
            f"{_hub_name(source)}, split {name!r}: a mirror has whole splits alone; put these rows there as a file of "
            f"their own and name it in splits, or unset {MIRROR} to ask the hub"
        )
    path = folder / f"{name}.parquet"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = listed(sorted(file.stem for file in folder.glob("*.parquet")))
        raise TaskError(
            f"{split}: {path}: the file does not exist (splits in this folder of the mirror: {there}); put it there, "
            f"or unset {MIRROR} to ask the hub"
        ) from None
    except (OSError, ValueError):
        pass  # `open_file` says why it cannot be read
    return path


def load_hub(task: Task) -> Loaded:
    """The rows of a hub data set, at the very commit that its revision names.

    Raises:
        TaskError: the hub does not deliver it, or it has no such split or column.
    """
    source = task.source
    if Path(source.hub or "").exists():
        raise TaskError(f"{source.hub}: is a local path; use `files` for it, or run from another folder")
    commit = _commit(source)
    splits: dict[str, Rows] = {}
    for split in source.split_names:
        chosen = (source.splits or {}).get(split, split)
        splits[split] = _open_hub_split(source, commit, chosen, columns_of(task, split))
    resolved = {"hub": source.hub, "name": source.name, "revision": source.revision, "commit": commit}
    return Loaded(splits, resolved)


def _commit(source: Source) -> str:
    """The commit hash that the revision names; without the hub, the one that it named last."""
    from huggingface_hub import HfApi

    hub.limit_waiting()
    with _asking_hub(source):
        revision = HfApi().resolve_revision(source.hub or "", repo_type="dataset", revision=source.revision)
    return str(revision.resolved)


def _open_hub_split(source: Source, commit: str, split: str, columns: Columns) -> Rows:
    import datasets

    with _asking_hub(source, split):
        data = datasets.load_dataset(source.hub, source.name, revision=commit, split=split)
    origin = f"{_hub_name(source)}, split {split!r}"
    data = _of_commit(origin, data, commit, split, source)
    return rows_of_dataset(origin, data, columns)


def _of_commit(origin: str, data: Any, commit: str, split: str, source: Source) -> Any:
    """The data of exactly that commit. (Without the hub, `datasets` takes the newest commit that it has cached.)

    Its cache folder ends in the commit hash: <name>/<configuration>/<version>/<commit>/<file>.arrow.
    """
    folders = [Path(file["filename"]).parent for file in data.cache_files]
    other = next((path for path in folders if hub.COMMIT.fullmatch(path.name) and path.name != commit), None)
    if other is None:
        return data
    if not other.with_name(commit).is_dir():
        raise TaskError(
            f"{origin}: asked for commit {commit}, but the hub did not deliver it and the local cache has "
            f"only {other.name}; check the revision and the network, or pin the cached commit"
        )
    from datasets.packaged_modules.cache.cache import Cache

    *_, configuration, version, _ = other.parts
    name = str(source.hub).split("/")[-1]
    builder = Cache(
        dataset_name=name, repo_id=source.hub, config_name=configuration, version=version, hash=commit
    )
    return builder.as_dataset(split=split)


def _hub_name(source: Source) -> str:
    config = f" ({source.name})" if source.name else ""
    return f"hub data set {source.hub}{config} at revision {source.revision}"


@contextmanager
def _asking_hub(source: Source, split: str | None = None) -> Iterator[None]:
    """Turn every failure to get a hub data set into one TaskError that says what to do."""
    try:
        yield
    except Exception as error:  # httpx, huggingface_hub, datasets and builders each raise their own kinds
        name = _hub_name(source) + (f", split {split!r}" if split else "")
        advice = hub.explain(
            error,
            "download its files and use `files`",
            "cannot be loaded; check its name, configuration, revision and splits",
        )
        raise TaskError(f"{name}: {advice}") from error
