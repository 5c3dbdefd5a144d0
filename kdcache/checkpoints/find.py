"""Find a checkpoint's folder, on disk or on the hub. Imports no torch.

All other code works on a local folder. So a hub checkpoint is first downloaded, at its pinned revision. Only
configurations, tokenizers and safetensors are fetched, never pickles and never code.
"""

from __future__ import annotations

import functools
from pathlib import Path

from kdcache.checkpoints import hub
from kdcache.checkpoints.checkpoint import Checkpoint, read_config
from kdcache.checkpoints.mirror import mirrored
from kdcache.errors import KdcacheError, ModelError
from kdcache.study import Model
from kdcache.system.files import refuse_pipes

# What transformers reads from the top of a repository. Other copies of the weights (onnx/, *.bin, ...) are not fetched.
SETTINGS_FILES = ["*.json", "*.txt", "*.model", "*.codes", "*.spm", "*.tokenizer"]
WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]


def find_checkpoint(model: Model) -> Checkpoint:
    """The checkpoint of a model, downloaded from the hub if it is not a folder on this machine.

    Raises:
        ModelError: the checkpoint is not a folder and the hub does not give it; a hub id has no revision; config.json
            cannot be read; something is a pipe; or there are no weights although `init: pretrained` asks for them.
    """
    folder = Path(model.checkpoint)
    downloaded = not folder.is_dir()
    if downloaded:
        folder = _from_hub(model.checkpoint, model.revision, weights=model.init == "pretrained")
    try:
        refuse_pipes(folder)
    except (KdcacheError, OSError) as error:
        raise ModelError(str(error)) from None
    read_config(folder)
    if model.init == "pretrained" and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: init: pretrained needs weights in *.safetensors, found "
            f"{', '.join(sorted(path.name for path in folder.iterdir()))}; "
            "use init: scratch, or convert the checkpoint (pickled weights are never loaded)"
        )
    return Checkpoint(folder, model.init, model.layers, downloaded)


def find_local(model: Model) -> Checkpoint | None:
    """The checkpoint of a model if all of it is on this machine already, else None. Nothing is downloaded."""
    folder, downloaded = Path(model.checkpoint), False
    if not folder.is_dir():
        kept = _kept(model.checkpoint, model.revision)
        if kept is None:
            return None
        folder, downloaded = kept, True
    has_config = (folder / "config.json").is_file()
    if not has_config or (model.init == "pretrained" and not any(folder.glob("*.safetensors"))):
        return None
    return Checkpoint(folder, model.init, model.layers, downloaded)


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    """A hub id's folder. If a mirror is set, the folder is there. Otherwise it is downloaded."""
    if revision is None:
        raise ModelError(
            f"checkpoint {name!r}: no such folder; if it is a hub id, give its revision "
            "(a commit hash, or `main` to accept changes)"
        )
    try:
        return mirrored(name) or _download(name, revision, weights)
    except KdcacheError as error:
        raise error if isinstance(error, ModelError) else ModelError(f"checkpoint {error}") from None


def _kept(name: str, revision: str | None) -> Path | None:
    """A hub id's folder in the mirror, or in the hub's cache on this machine; None if it is in neither."""
    import huggingface_hub

    try:
        folder = mirrored(name)
        if folder is None:
            folder = Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (KdcacheError, OSError, ValueError):  # not in the mirror, not in the cache, or not a hub id
        return None
    return folder


@functools.cache
def _download(name: str, revision: str, weights: bool) -> Path:
    """Download a checkpoint once per process, so that a run sees the same version throughout. Return its folder."""
    import huggingface_hub

    hub.limit_waiting()
    patterns = [*SETTINGS_FILES, *(WEIGHT_FILES if weights else [])]
    try:
        snapshot = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    except Exception as error:  # the hub's client passes on whatever its HTTP library raises
        advice = hub.explain(error, "use a local folder", "cannot be had from the hub")
        raise ModelError(f"checkpoint {name!r} at revision {revision!r}: {advice}") from error
    return Path(snapshot)
