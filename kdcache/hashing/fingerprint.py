"""Short, stable hashes of JSON, values and files.

Every function here gives the same answer on every machine, for any path and any order in which files are listed.
A fingerprint is the sha256 of canonical content, in hex.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import KdcacheError
from kdcache.system.files import open_regular

CHUNK = 1 << 20  # bytes read at a time


def of_json(value: Any) -> str:
    """sha256 of the value's canonical JSON: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises:
        KdcacheError: the value is not JSON.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()
    except (TypeError, ValueError, RecursionError) as error:
        raise KdcacheError(f"a fingerprint needs a JSON value: {error}") from error


def of_value(value: Any) -> str:
    """sha256 of a nest of mappings, lists, arrays, tensors (on any device), texts, bytes, numbers and None.

    Raises:
        KdcacheError: the value holds anything else, or a tensor without values.
    """
    return of_json(_described(value))


def _described(value: Any) -> Any:
    """The value as JSON, with a checksum in place of each array's bytes."""
    if isinstance(value, Mapping):
        return {"mapping": [[str(key), _described(value[key])] for key in sorted(value, key=str)]}
    if isinstance(value, list | tuple):
        return {"list": [_described(item) for item in value]}
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value) if isinstance(value, float) else value
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if getattr(value, "is_meta", False):  # a torch tensor
        raise KdcacheError(
            "a tensor on the device 'meta' has no values to fingerprint (Accelerate leaves it in place of an offloaded "
            "weight); pass `fingerprints` yourself"
        )
    if hasattr(value, "detach"):  # a torch tensor; NumPy lacks some of its types, such as bfloat16
        flat = value.detach().cpu().contiguous().reshape(-1)
        array, kind = flat.view(_torch_bytes()).numpy(), str(value.dtype).removeprefix("torch.")
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array, kind = np.ascontiguousarray(value, value.dtype.newbyteorder("<")), value.dtype.name
    else:
        raise KdcacheError(
            f"a {type(value).__name__} has no stable content to fingerprint; pass `fingerprints` yourself"
        )
    return {"array": kind, "shape": list(value.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}


def _torch_bytes() -> Any:
    import torch  # whoever passes a tensor has imported it already

    return torch.uint8


def of_file(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        KdcacheError: the file cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(Path(path)) as file:
            while block := file.read(CHUNK):
                digest.update(block)
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def of_files(folder: Path, patterns: Iterable[str] | str) -> str:
    """sha256 over the names (relative to the folder) and contents of the files that match the glob patterns.

    Raises:
        KdcacheError: the folder is missing, or no file matches (an empty fingerprint would match anything).
    """
    folder = Path(folder)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not folder.is_dir():
        raise KdcacheError(f"{folder}: the folder does not exist")
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    if not paths:
        raise KdcacheError(f"{folder}: no file matches {', '.join(patterns)}")
    return of_json({path.relative_to(folder).as_posix(): of_file(path) for path in paths})
