"""A cache's place on the hub: its address, and what is there at one commit."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from kdcache.checkpoints import hub
from kdcache.checkpoints.mirror import MIRROR
from kdcache.errors import CacheError
from kdcache.logits.opening import read_manifest
from kdcache.logits.records import MANIFEST, MOST_MANIFEST, Sealed, ShardInfo

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TYPE = "dataset"
MAIN = "main"
FORM = "hf://datasets/OWNER/NAME[/FOLDER][@REVISION]"
# The revision may also follow the name, as the hub itself writes it: OWNER/NAME@REVISION/FOLDER.
ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>refs/[^/@]+/[^/@]+|[^/@]+))?"
    r"(?P<folder>(?:/[\w-][\w.-]*)*)/?(?:@(?P<last>[^@]+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Address:
    """A folder of a data set repository at a branch, a tag or a commit. `folder` is empty for the top."""

    repository: str
    folder: str
    revision: str

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        revision = quote(self.revision, safe="/" if self.revision.startswith("refs/") else "")
        return f"hf://datasets/{self.repository}{folder}{'' if revision == MAIN else f'@{revision}'}"

    def inside(self, name: str) -> str:
        """The path in the repository of a file of the cache."""
        return f"{self.folder}/{name}" if self.folder else name


def parse(text: str) -> Address:
    """Read `hf://datasets/OWNER/NAME[/FOLDER][@REVISION]`. Without a revision it is `main`.

    Raises:
        CacheError: the text is not such an address.
    """
    match = ADDRESS.fullmatch(text)
    if match is None or (match["revision"] and match["last"]):
        raise CacheError(f"{text!r:.200}: is no address of a cache on the hub; write it as {FORM}")
    revision = unquote(match["revision"] or match["last"] or MAIN)
    return Address(match["repository"], match["folder"].strip("/"), revision)


def connect() -> HfApi:
    """The hub's client, with huggingface_hub's own login.

    Raises:
        CacheError: HF_HUB_OFFLINE or KDCACHE_MIRROR is set, so the hub must not be asked.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise CacheError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it to push or pull")
    if os.environ.get(MIRROR):
        raise CacheError(f"{MIRROR} is set, so the hub is not asked; unset it to push or pull")
    if not sys.stderr.isatty() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    hub.limit_waiting()
    return HfApi(library_name="kdcache")


@contextmanager
def asking(address: Address, otherwise: str) -> Iterator[None]:
    """Turn errors of the hub's client into a CacheError of one line.

    Args:
        otherwise: what to say about an error that has nothing to do with the hub.
    """
    try:
        yield
    except CacheError:
        raise
    except Exception as error:  # the hub's client passes on whatever its HTTP library raises
        advice = hub.explain(error, "copy the cache's folder in another way", otherwise)
        raise CacheError(f"{address}: {advice}") from error


@dataclass(frozen=True)
class RemoteFile:
    """A file's size in bytes, and its sha256 if the hub knows it (it does for large files)."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Remote:
    """What is at an address at one commit: `files`, by their paths within its folder."""

    address: Address
    commit: str
    private: bool
    files: Mapping[str, RemoteFile]

    @cached_property
    def manifest(self) -> Sealed | None:
        """The cache's manifest; None if there is no manifest.

        Raises:
            CacheError: the file is not a manifest, is damaged, has a newer format, or cannot be downloaded.
        """
        if MANIFEST not in self.files:
            return None
        if self.files[MANIFEST].size > MOST_MANIFEST:
            raise CacheError(
                f"{self.address}: {MANIFEST} has {self.files[MANIFEST].size:,} bytes, expected at most "
                f"{MOST_MANIFEST:,}"
            )
        with tempfile.TemporaryDirectory(prefix="kdcache-") as folder:
            self._fetch_manifest(folder)
            place = Path(folder, self.address.folder)
            try:
                return read_manifest(place)
            except CacheError as error:
                raise CacheError(str(error).replace(str(place), str(self.address))) from None

    def _fetch_manifest(self, folder: str) -> None:
        import huggingface_hub

        with asking(self.address, "its manifest cannot be had from the hub"):
            huggingface_hub.hf_hub_download(
                self.address.repository,
                self.address.inside(MANIFEST),
                repo_type=TYPE,
                revision=self.commit,
                local_dir=folder,
            )

    def lacks(self, shards: list[ShardInfo]) -> list[str]:
        """Which of these shards are missing, or differ from the manifest."""
        return [shard.file for shard in shards if not self._has(shard)]

    def _has(self, shard: ShardInfo) -> bool:
        stored = self.files.get(shard.file)
        return stored is not None and stored.size == shard.bytes and stored.sha256 in (None, shard.sha256)


def look(api: HfApi, address: Address) -> Remote:
    """What is at an address now. Errors of the hub's client are passed on."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    info = api.repo_info(address.repository, repo_type=TYPE, revision=address.revision)
    try:
        tree = api.list_repo_tree(
            address.repository, address.folder or None, recursive=True, revision=info.sha, repo_type=TYPE
        )
        entries = list(tree)
    except EntryNotFoundError:  # the folder does not exist yet
        entries = []
    start = len(address.inside(""))
    files = {
        entry.path[start:]: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if isinstance(entry, RepoFile)
    }
    return Remote(address, str(info.sha), bool(info.private), files)


def shards_of(manifest: Sealed) -> list[ShardInfo]:
    """All shards of all splits."""
    return [shard for split in manifest.splits.values() for shard in split.shards]


def difference(existing: Sealed, expected: Sealed, names: tuple[str, str]) -> str:
    """How two caches differ, for a message. It names the fingerprints that differ, if any.

    Args:
        names: what each is called, such as ("there", "here").
    """
    actual_prints, expected_prints = existing.fingerprints.model_dump(), expected.fingerprints.model_dump()
    different = [name for name in actual_prints if actual_prints[name] != expected_prints[name]]
    if not different:
        return "its fingerprints are the same, but its rows, splits or values are others"
    return "; ".join(
        f"{key}: {names[0]} {actual_prints[key]}, {names[1]} {expected_prints[key]}" for key in different
    )
