"""Teachers and their logits are made, whatever becomes of their copies in the store."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.engine import teaching
from kdcache.trials.store import Store


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of a teacher, or of its logits, that is made at once."""
    plan = SimpleNamespace(folder=tmp_path / "made", identity="one", model=None)

    def make(_: Any) -> dict[str, Any]:
        plan.folder.mkdir()
        (plan.folder / "file").write_text("made")
        return {"metrics": {"accuracy": 0.9}}

    for name in ("teacher_to_train", "cache_to_write"):
        monkeypatch.setattr(teaching, name, lambda *_: plan)
    monkeypatch.setattr(teaching, "cache_identity", lambda _: "one")
    monkeypatch.setattr(teaching, "share_cores", lambda: None)
    monkeypatch.setattr(teaching, "_hold_places", lambda _: nullcontext())
    monkeypatch.setattr("kdcache.trials.teach.teach", make)
    monkeypatch.setattr("kdcache.trials.cache.cache_logits", make)
    return plan


MAKERS = {"teachers": teaching.make_teacher, "caches": teaching.make_cache}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_made_is_stored(kind: str, plan: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 10**9)
    MAKERS[kind](None, None, "task", "teacher", store)
    assert [(entry.kind, entry.identity) for entry in store.entries()] == [(kind, "one")]


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_made_stays_if_it_cannot_be_stored(
    kind: str, plan: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is in a folder that is none; or it is smaller than what was made."""
    (tmp_path / "file").write_text("")
    for store, reason in (
        (Store(tmp_path / "file" / "store", 10**9), "cannot be stored: Not a directory"),
        (Store(tmp_path / "store", 1), "larger than KDCACHE_STORE_GB=1e-09: not stored"),
    ):
        caplog.clear()
        MAKERS[kind](None, None, "task", "teacher", store)
        assert "made: is finished, but not stored: " in caplog.text
        assert reason in caplog.text
        (plan.folder / "file").unlink()
        plan.folder.rmdir()
