"""Find a checkpoint's folder, on disk or on the hub, and say what it holds. Imports no torch.

Everything downstream works on a local folder, so a hub checkpoint is first downloaded at its pinned revision; only
configurations, tokenizers and safetensors are fetched, never pickles and never code.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from kdcache.checkpoints import fingerprints, hub
from kdcache.checkpoints.mirror import mirrored
from kdcache.errors import KdcacheError, ModelError
from kdcache.hashing import fingerprint
from kdcache.study import Model

# What transformers reads, at the top of a repository: other copies of the weights (onnx/, *.bin, ...) stay there.
SETTINGS_FILES = ["*.json", "*.txt", "*.model", "*.codes"]
WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]


def find_checkpoint(model: Model) -> Path:
    """The local folder of a model's checkpoint, downloaded from the hub when it is not a folder already.

    Raises:
        ModelError: neither a folder nor reachable on the hub, no revision for a hub id, no readable config.json, or
            no weights although `init: pretrained` asks for them.
    """
    folder = Path(model.checkpoint)
    if not folder.is_dir():
        folder = _from_hub(model.checkpoint, model.revision, weights=model.init == "pretrained")
    read_config(folder)
    if model.init == "pretrained" and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: init: pretrained needs weights in *.safetensors, found "
            f"{', '.join(sorted(path.name for path in folder.iterdir()))}; "
            "use init: scratch, or convert the checkpoint (pickled weights are never loaded)"
        )
    return folder


def find_local(model: Model) -> Path | None:
    """The folder of a model's checkpoint if it is whole on this machine already; nothing is downloaded."""
    folder = Path(model.checkpoint)
    if not folder.is_dir():
        found = _kept(model.checkpoint, model.revision)
        if found is None:
            return None
        folder = found
    whole = (folder / "config.json").is_file()
    return folder if whole and (model.init == "scratch" or any(folder.glob("*.safetensors"))) else None


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json; a ModelError names what is wrong with it."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no config.json, so this is not a model; expected a transformers folder")
    config = read_settings(path)
    if "model_type" not in config:
        raise ModelError(f"{path}: expected an object with model_type (bert, gpt2, vit, ...)")
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """One of a checkpoint's JSON files; empty when it is not there.

    Raises:
        ModelError: the file cannot be read, or is no JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    return settings


def family(model: Model) -> str:
    """The architecture's name in transformers (`bert`, `roberta`, `gpt2`, `vit`, `resnet`, ...)."""
    return str(read_config(find_checkpoint(model))["model_type"])


def commit(model: Model) -> str | None:
    """The commit that a checkpoint's revision stood for when it was downloaded; None when it is a local folder."""
    name = find_checkpoint(model).name  # the hub's cache calls a download's folder by its commit
    return name if hub.COMMIT.fullmatch(name) and not Path(model.checkpoint).is_dir() else None


def start_fingerprint(model: Model, max_length: int | None) -> str:
    """What a model starts from and how it reads its rows, by content: a branch of the hub may have moved."""
    return fingerprint.of_json([weights_fingerprint(model), preprocessing_fingerprint(model, max_length)])


def weights_fingerprint(model: Model) -> str:
    """What the model starts from: config and weights, or the config alone when it starts from scratch."""
    folder = find_checkpoint(model)
    start = fingerprints.of_weights(folder) if model.init == "pretrained" else fingerprints.of_config(folder)
    return fingerprint.of_json({"init": model.init, "layers": model.layers, "start": start})


def preprocessing_fingerprint(model: Model, max_length: int | None) -> str:
    """What turns a row into the model's input: tokenizer or image settings, and the length limit.

    Args:
        max_length: the task's limit in tokens; None for images, where config.json alone may say enough.
    """
    folder = find_checkpoint(model)
    bare = not any((folder / name).is_file() for name in fingerprints.TOKENIZER_FILES)
    files = None if bare and max_length is None else fingerprints.of_tokenizer(folder)
    return fingerprint.of_json({"files": files, "max_length": max_length})


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    """A hub id's folder: the mirror's when one is set, else downloaded."""
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
    """A hub id's folder in the mirror, or in the hub's cache on this machine; None when it is not there."""
    import huggingface_hub

    try:
        folder = mirrored(name)
        if folder is None:
            folder = Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (KdcacheError, OSError, ValueError):  # not in the mirror; not in the cache; no hub id at all
        return None
    return folder


@functools.cache
def _download(name: str, revision: str, weights: bool) -> Path:
    """The hub is asked once per process and checkpoint, so that a run sees one version throughout."""
    import huggingface_hub

    hub.limit_waiting()
    wanted = [*SETTINGS_FILES, *(WEIGHT_FILES if weights else [])]
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
    except Exception as error:  # the hub's client passes on whatever its HTTP library raises
        advice = hub.explain(error, "use a local folder", "cannot be had from the hub")
        raise ModelError(f"checkpoint {name!r} at revision {revision!r}: {advice}") from error
    return Path(found)
