"""Ask DVC about the pipeline in the current folder, and change DVC's files in ways other than running a stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import load_yaml, modify_yaml

from kdcache.errors import KdcacheError

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
ENDING = 30  # seconds that a killed run's stages have to notice its end and stop; a report takes longest


@dataclass(frozen=True)
class Pipeline:
    """The stages that a `dvc repro` would look at."""

    order: list[str]  # the stages in the order of a serial `dvc repro`
    upstream: dict[str, set[str]]
    outs: dict[str, list[Path]]
    changed: dict[str, set[str]]  # what `dvc status` says has changed for each stage, such as paths of deps
    superseded: set[str]  # stages that were run with older data than dvc.lock now has for their dependencies


class Project:
    """The DVC project of the current folder.

    Raises:
        KdcacheError: DVC reports an error, here or in `read`.
    """

    def __init__(self) -> None:
        with _dvc_errors():
            self._repo = Repo()
        self.folder = Path(str(self._repo.tmp_dir)) / "kdcache"  # for logs and locks; DVC keeps it out of Git
        self.folder.mkdir(exist_ok=True)

    def read(self, targets: Sequence[str] = ()) -> Pipeline:
        """The targets' stages and all stages they depend on; without targets, all stages of dvc.yaml.

        Another DVC command that holds the lock (`dvc push` does while it runs) is waited for.
        """
        repo = Repo(_wait_for_lock=True)
        with _dvc_errors(), lock_repo(repo):
            graph = get_active_graph(repo.index.graph)
            steps: list[Any] = plan_repro(graph, collect_stages(repo, list(targets) or [PIPELINE]))
            return Pipeline(
                order=[step.addressing for step in steps],
                upstream={
                    step.addressing: {needed.addressing for needed in graph.successors(step)}
                    for step in steps
                },
                outs={step.addressing: [Path(out.fs_path) for out in step.outs] for step in steps},
                changed={name: _named(status) for name, status in _status(repo).items()},
                superseded={
                    step.addressing for step in steps if _is_superseded(step, graph.successors(step))
                },
            )

    @contextmanager
    def between_writes(self) -> Iterator[None]:
        """Keep DVC processes from writing dvc.lock, so that a stage ended meanwhile does not leave it half-written.

        A process that holds the lock for seconds is not waited for: it is hashing or copying data.
        """
        try:
            self._repo.lock.lock()
        except LockError:
            yield
            return
        try:
            yield
        finally:
            self._repo.lock.unlock()

    @contextmanager
    def lock_file_in_order(self, order: Sequence[str]) -> Iterator[None]:
        """At the end, put the stages that are new in dvc.lock into `order`, whichever of them ended first."""
        before = list(_recorded(Path(LOCK)))
        try:
            yield
        finally:
            now = list(_recorded(Path(LOCK)))
            place = {name: index for index, name in enumerate([*before, *order])}
            sorted_ = sorted(now, key=lambda name: place.get(name, len(place)))
            if now != sorted_:
                self._reorder(sorted_)

    def _reorder(self, names: list[str]) -> None:
        """Put the stages in dvc.lock into this order; leave it if another DVC command has the lock for seconds."""
        with _dvc_errors(), suppress(LockError), lock_repo(self._repo), modify_yaml(LOCK) as data:
            stages = data["stages"]
            for name in names:
                stages[name] = stages.pop(name)


def _status(repo: Repo) -> dict[str, Any]:
    """What `dvc status` says. Stages that still hold their outs are waited for, for a short time."""
    deadline = time.monotonic() + ENDING
    while True:
        try:
            return dict(repo.status())
        except LockError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def run_together(names: Sequence[str], allow_missing: bool = False) -> None:
    """Bring stages of dvc.yaml up to date in this order, in this process, and record all at once in dvc.lock.

    DVC itself reads and writes all of dvc.lock for every stage, which takes longer than a stage with nothing to do.
    Stages that have ended are recorded even if a later one fails.

    Raises:
        KdcacheError: a stage failed; its output says why.
    """
    repo = Repo(_wait_for_lock=True)
    with _dvc_errors(), lock_repo(repo):
        ran = []
        try:
            stages = {stage.addressing: stage for stage in collect_stages(repo, [PIPELINE])}
            for name in names:
                if stages[name].reproduce(allow_missing=allow_missing):
                    ran.append(stages[name])
        finally:
            if ran:
                ran[0].dvcfile.dump_stages(ran, update_pipeline=False)


def _named(status: Iterable[Any]) -> set[str]:
    """What has changed, from an entry of `dvc status`: `[{"changed deps": {"a/b": "modified"}}, "changed command"]`."""
    named: set[str] = set()
    for item in status:
        named |= {item} if isinstance(item, str) else {path for paths in item.values() for path in paths}
    return named


def _is_superseded(stage: Any, upstream: Iterable[Any]) -> bool:
    """Whether a stage has to run although its dependencies are not here; the check of `dvc repro --allow-missing`."""
    recorded = {out.fs_path: out.hash_info for stage_above in upstream for out in stage_above.outs}
    return any(recorded.get(dep.fs_path, dep.hash_info) != dep.hash_info for dep in stage.deps)


def _recorded(lock_file: Path) -> dict[str, Any]:
    """The stages in dvc.lock, in the file's order."""
    return dict(load_yaml(lock_file).get("stages", {})) if lock_file.exists() else {}


@contextmanager
def _dvc_errors() -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        raise KdcacheError(f"dvc: {_causes(error)}") from error


def _causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return ": ".join(text for text in texts if text)
