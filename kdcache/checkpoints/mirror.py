"""Local folders instead of the hub, for machines without a network: `KDCACHE_MIRROR=DIR`.

`DIR/<owner>/<name>/` stands for the hub id `<owner>/<name>`. A model is a transformers folder. A data set holds
`<configuration>/<split>.parquet`, or `<split>.parquet` if it has no configurations. Fingerprints cover content, so a
trial's identity is the same as with the hub. If a mirror is set, the hub is never asked.
"""

from __future__ import annotations

import os
from pathlib import Path

from kdcache.errors import KdcacheError

MIRROR = "KDCACHE_MIRROR"


def mirrored(name: str) -> Path | None:
    """The mirror's folder for a hub id; None if no mirror is set.

    Raises:
        KdcacheError: the mirror is not a folder, or lacks this id.
    """
    root = os.environ.get(MIRROR)
    if not root:
        return None
    if not Path(root).is_dir():
        raise KdcacheError(
            f"{MIRROR}={root}: no such folder; name one that has <owner>/<name>/ for each hub id"
        )
    folder = Path(root) / name
    if ".." in Path(name).parts or not folder.is_dir():
        raise KdcacheError(
            f"{name!r} is not in the mirror: {folder} is no folder; put it there, or unset {MIRROR} to ask the hub"
        )
    return folder
