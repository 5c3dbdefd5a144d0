"""manifest.json: its checksum, its version, and what is refused. It is written last and read first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.logits.records import MANIFEST, MOST_MANIFEST, Sealed
from kdcache.system.files import read_json

M = TypeVar("M", bound=Sealed)
SHOWN = 5  # how many mistakes one message lists
OPENED_BY = {(1, None): "kdcache.LogitCache", (2, "tokens"): "kdcache.TokenCache"}  # by version and kind


def manifest_json(manifest: Sealed) -> dict[str, Any]:
    """The JSON object of a manifest, with a checksum over all of it as the last key."""
    content = manifest.model_dump(mode="json")
    return {**content, "checksum": checksum_of(MANIFEST, content)}


def load_manifest(folder: Path, sort: type[M]) -> M:
    """Read and check a cache's manifest.

    Args:
        sort: the manifest's class, of the expected format.

    Raises:
        CacheError: the folder or the manifest is missing (the cache is incomplete), or the manifest has another format
            version, was edited, or is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        problem = f"there is no {MANIFEST}, so the cache is incomplete"
        if not folder.is_dir():
            problem = "is a file, not the folder of a cache" if folder.exists() else "no such folder"
        raise CacheError(f"{folder}: {problem}; cache the logits first (again, if that was interrupted)")
    try:
        raw = read_json(path, MOST_MANIFEST)
        _check_version(path, raw, sort.VERSION)
        checksum = raw.pop("checksum", None)
        actual = checksum_of(str(path), raw)
    except CacheError:
        raise
    except KdcacheError as error:
        raise CacheError(str(error)) from error
    if checksum != actual:
        raise CacheError(
            f"{path}: was edited or damaged: its checksum says {checksum!r:.80}, its content gives {actual}; "
            "restore it or cache the logits again"
        )
    try:
        return sort.model_validate(raw)
    except ValidationError as error:
        raise CacheError(
            f"{path}: is no manifest of format version {sort.VERSION}: {_problems(error)}"
        ) from None


def checksum_of(where: str, content: Mapping[str, Any]) -> str:
    """The checksum of a manifest's content, or of a part of it.

    Args:
        where: the file or folder, for the message.

    Raises:
        CacheError: the content is not JSON. The message names the key that has half a character (a surrogate).
    """
    try:
        return fingerprint.of_json(content)
    except KdcacheError as error:
        halves = (f"{key!r} has half a character, {half!r}" for key, half in _half_characters(content))
        problem = next(halves, str(error))
        raise CacheError(f"{where}: {problem}; expected JSON values with whole characters") from None


def _half_characters(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys that have a text with half a character, which UTF-8 cannot hold, and that half."""
    for key, value in content.items():
        try:
            json.dumps({key: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            yield key, error.object[error.start]
        except (TypeError, ValueError, RecursionError):
            continue


def _problems(error: ValidationError) -> str:
    """The first few mistakes, each cut to one line."""
    mistakes = error.errors(include_input=False, include_url=False)
    shown = [f"{'.'.join(map(str, e['loc'])) or 'top'}: {e['msg']}"[:200] for e in mistakes[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(mistakes) - SHOWN:,} more" if len(mistakes) > SHOWN else "")


def _check_version(path: Path, raw: Any, expected: int) -> None:
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if type(version) is not int or version < 1:
        raise CacheError(
            f"{path}: is no logit cache's manifest: expected format_version {expected}, found {version!r:.80}"
        )
    if version == expected:
        return
    kind = raw.get("kind")
    opener = OPENED_BY.get((version, kind if isinstance(kind, str) else None))
    if opener:
        raise CacheError(
            f"{path}: expected format version {expected}, found {version}, of another kind of cache; open it with "
            f"{opener}"
        )
    raise CacheError(
        f"{path}: expected format version {expected}, found the newer {version!r:.80}; update kdcache"
    )


def kind_of(folder: Path) -> str | None:
    """`tokens` for a token cache's folder, None for any other folder. Nothing else is checked: opening does that."""
    try:
        raw = read_json(folder / MANIFEST, MOST_MANIFEST)
    except (KdcacheError, OSError):
        return None
    return "tokens" if isinstance(raw, dict) and raw.get("kind") == "tokens" else None
