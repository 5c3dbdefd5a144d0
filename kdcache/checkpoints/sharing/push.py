"""`kdcache push`: upload a verified cache and its data set card to the hub in one commit."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.checkpoints.hub import COMMIT, LOG_IN
from kdcache.checkpoints.sharing.card import CARD, card_of
from kdcache.checkpoints.sharing.remote import (
    MAIN,
    TYPE,
    Address,
    Remote,
    asking,
    connect,
    difference,
    look,
    parse,
    shards_of,
)
from kdcache.errors import CacheError
from kdcache.logits.cost import COST, read_cost
from kdcache.logits.opening import open_cache
from kdcache.logits.records import MANIFEST, Sealed
from kdcache.system.files import user_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def push(
    folder: str | Path,
    target: str,
    licence: str,
    *,
    private: bool = False,
    message: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Verify a cache in full and upload its files, with a data set card, in one commit.

    Args:
        folder: the cache's folder.
        target: `hf://datasets/OWNER/NAME[/FOLDER][@BRANCH]`. The repository is created if it does not exist.
        licence: an id that the hub knows, such as `cc-by-4.0`, or `other`.
        private: create a private repository. An existing public repository is refused.
        message: the commit's message.
        replace: overwrite what is at the target with the cache and its card.

    Returns:
        `path`, `address`, `commit`, `uploaded` (False if the same cache was there already), `rows`, `bytes`, and
        `card`: whether the card was written (an existing card stays, unless `replace`).

    Raises:
        CacheError: the cache is damaged or incomplete, another cache is at the target, or the hub refuses.
    """
    address, path = _writable(target), user_path(folder)
    licence = _checked(licence)
    api = connect()
    _require_login(address)
    cache = open_cache(path)
    verification = cache.verify("full")
    card = card_of(cache, address, licence)
    with asking(address, "the hub does not take its card; choose another licence"):
        _validate(api, card)
    answer = {
        "path": str(path),
        "address": str(address),
        "rows": verification.rows,
        "bytes": verification.bytes,
    }
    with asking(address, "cannot be written to the hub"):
        remote = _repository(api, address, private)
        if not replace and _is_there(remote, cache.manifest):
            return {**answer, "commit": remote.commit, "uploaded": False, "card": False}
        files: dict[str, Path | bytes] = {name: path / name for name in _own_files(path, cache.manifest)}
        gone = _replaced(remote, files, replace)
        with_card = replace or CARD not in remote.files
        if with_card:
            files[CARD] = card.encode()
        commit = _upload(
            api, remote, files, gone, message or f"Cache {cache.identity[:12]}, {verification.rows} rows"
        )
    return {**answer, "commit": commit, "uploaded": True, "card": with_card}


def _writable(target: str) -> Address:
    address = parse(target)
    if COMMIT.fullmatch(address.revision):
        raise CacheError(f"{address}: a commit cannot be changed; name a branch, or none for {MAIN}")
    return address


def _checked(licence: str) -> str:
    licence = licence.lower()  # SPDX writes Apache-2.0, and the hub writes apache-2.0
    if not LICENCE.fullmatch(licence):
        raise CacheError(
            f"{licence!r:.80}: is no licence's id; give one that the hub knows, such as cc-by-4.0, or other"
        )
    return licence


def _require_login(address: Address) -> None:
    from huggingface_hub import get_token

    if not get_token():
        raise CacheError(f"{address}: pushing needs a login that may write there: {LOG_IN}")


def _validate(api: HfApi, card: str) -> None:
    """Ask the hub whether it accepts the card, before anything is created there.

    `DatasetCard.validate` is not used: its older versions ignore HF_ENDPOINT and ask huggingface.co.
    """
    from huggingface_hub import get_session, hf_raise_for_status

    asked = {"content": card, "repoType": TYPE}
    response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=asked)
    if response.status_code == 400:
        raise ValueError(response.text[:500])
    hf_raise_for_status(response)


def _repository(api: HfApi, address: Address, private: bool) -> Remote:
    """What is at the address. A missing repository is created."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        remote = look(api, address)
    except RepositoryNotFoundError:
        if address.revision != MAIN:
            raise  # a new repository has no other branch
        api.create_repo(address.repository, repo_type=TYPE, private=private or None)
        return look(api, address)
    if private and not remote.private:
        raise CacheError(
            f"{address}: the repository is there and public, nothing was uploaded; make it private on its page, or "
            "push without --private"
        )
    return remote


def _is_there(remote: Remote, manifest: Sealed) -> bool:
    """Whether all of exactly this cache is at the address.

    Raises:
        CacheError: another cache is there, or its manifest cannot be read.
    """
    existing = remote.manifest
    if existing is None:
        return False
    if existing.identity != manifest.identity:
        raise CacheError(
            f"{remote.address}: another cache is there ({difference(existing, manifest, ('there', 'here'))}); name "
            "another folder or repository, or --replace it"
        )
    return not remote.lacks(shards_of(manifest))


def _own_files(path: Path, manifest: Sealed) -> list[str]:
    """The cache's files, without anything else in its folder."""
    cost = [COST] if read_cost(path) is not None else []
    return [MANIFEST, *cost, *(shard.file for shard in shards_of(manifest))]


def _replaced(remote: Remote, files: Collection[str], replace: bool) -> list[str]:
    """The files of an earlier cache that the new cache lacks and that are to be deleted.

    Raises:
        CacheError: there are files with the same names that belong to no cache.
    """
    try:
        existing = remote.manifest
    except CacheError:  # only with `replace`: without it, the manifest was read before
        existing = None
    if existing is None and not replace:
        foreign = sorted(set(files) & remote.files.keys())
        if foreign:
            raise CacheError(
                f"{remote.address}: {foreign[0]} is there already and is no cache's; name another folder, "
                "or --replace it"
            )
    old = [] if existing is None else [COST, *(shard.file for shard in shards_of(existing))]
    return [name for name in old if name in remote.files and name not in files]


def _upload(api: HfApi, remote: Remote, files: dict[str, Path | bytes], gone: list[str], message: str) -> str:
    """Upload in one commit on top of the commit that was looked at, and return it. A moved branch is refused.

    `upload_folder` is not used: with Xet it makes several commits of a large folder.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    address = remote.address
    deleted = [CommitOperationDelete(address.inside(name)) for name in gone]
    added = [CommitOperationAdd(address.inside(name), data) for name, data in files.items()]
    done = api.create_commit(
        address.repository,
        [*deleted, *added],
        commit_message=message,
        repo_type=TYPE,
        revision=address.revision,
        parent_commit=remote.commit,
    )
    return str(done.oid)
