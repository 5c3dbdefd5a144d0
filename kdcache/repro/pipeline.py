"""What DVC says about the pipeline in the current folder, and what is done to its files besides running stages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True)
class Pipeline:
    """The stages that a `dvc repro` would look at."""

    order: list[str]  # as a serial `dvc repro` takes them
    upstream: dict[str, set[str]]
    outs: dict[str, list[Path]]
    changed: dict[str, set[str]]  # by `dvc status`: what of each stage, such as paths of deps
    superseded: set[str]  # dvc.lock has newer data for something that they depend on than they were run with


class Project:
    """The DVC project of the current folder.

    Raises:
        KdcacheError: here and in `read`: what DVC has to say.
    """

    def __init__(self) -> None:
        with _dvc_errors():
            self._repo = Repo()
        self.folder = Path(str(self._repo.tmp_dir)) / "kdcache"  # logs and locks; DVC keeps it out of Git
        self.folder.mkdir(exist_ok=True)

    def read(self, targets: Sequence[str] = ()) -> Pipeline:
        """The targets' stages and all that they depend on; without targets the stages of dvc.yaml."""
        with _dvc_errors(), lock_repo(self._repo):
            graph = get_active_graph(self._repo.index.graph)
            steps: list[Any] = plan_repro(graph, collect_stages(self._repo, list(targets) or [PIPELINE]))
            return Pipeline(
                order=[step.addressing for step in steps],
                upstream={
                    step.addressing: {one.addressing for one in graph.successors(step)} for step in steps
                },
                outs={step.addressing: [Path(out.fs_path) for out in step.outs] for step in steps},
                changed={name: _named(what) for name, what in self._repo.status().items()},
                superseded={
                    step.addressing for step in steps if _is_superseded(step, graph.successors(step))
                },
            )

    @contextmanager
    def between_writes(self) -> Iterator[None]:
        """Keep DVC processes from their bookkeeping: a stage that is ended meanwhile leaves no half-written dvc.lock.

        One that is at it for seconds is not waited for: it hashes or copies data then.
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
        """In the end stages that are new in dvc.lock stand in `order` there, whichever ended first."""
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
        with _dvc_errors(), lock_repo(self._repo), modify_yaml(LOCK) as data:
            stages = data["stages"]
            for name in names:
                stages[name] = stages.pop(name)


def run_together(names: Collection[str], allow_missing: bool = False) -> None:
    """Bring stages of dvc.yaml up to date one after the other in this process, and record all at once in dvc.lock.

    DVC itself reads and writes the whole of dvc.lock for every stage, which takes longer than a stage that has nothing
    to do. Stages that have ended are recorded also when a later one fails.

    Raises:
        KdcacheError: a stage failed; what it printed says why.
    """
    repo = Repo(_wait_for_lock=True)
    with _dvc_errors(), lock_repo(repo):
        ran = []
        try:
            for stage in collect_stages(repo, [PIPELINE]):
                if stage.addressing in names and stage.reproduce(allow_missing=allow_missing):
                    ran.append(stage)
        finally:
            if ran:
                ran[0].dvcfile.dump_stages(ran, update_pipeline=False)


def _named(status: Iterable[Any]) -> set[str]:
    """What an entry of `dvc status` names: `[{"changed deps": {"a/b": "modified"}}, "changed command"]`."""
    named: set[str] = set()
    for item in status:
        named |= {item} if isinstance(item, str) else {path for paths in item.values() for path in paths}
    return named


def _is_superseded(stage: Any, upstream: Iterable[Any]) -> bool:
    """Whether a stage has to run although what it depends on is not here: what `dvc repro --allow-missing` looks at."""
    recorded = {out.fs_path: out.hash_info for one in upstream for out in one.outs}
    return any(recorded.get(dep.fs_path, dep.hash_info) != dep.hash_info for dep in stage.deps)


def _recorded(lock_file: Path) -> dict[str, Any]:
    """The stages in dvc.lock, in their order there."""
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
