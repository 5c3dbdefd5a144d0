"""A model's checkpoint, found once and passed on: its folder, its configuration, and its fingerprints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kdcache.checkpoints import fingerprints, hub
from kdcache.errors import KdcacheError, ModelError
from kdcache.hashing import fingerprint
from kdcache.system.files import open_regular


@dataclass(frozen=True)
class Checkpoint:
    """A folder that transformers reads, and how a model starts from it. Weights are hashed at most once.

    Args:
        folder: the checkpoint's folder on this machine.
        init: `scratch` takes only the checkpoint's configuration.
        layers: keep this many of its first layers; None keeps all.
        downloaded: whether the folder is in the hub's cache, where it is named by its commit.
    """

    folder: Path
    init: Literal["pretrained", "scratch"] = "pretrained"
    layers: int | None = None
    downloaded: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json. It names the model's type."""
        return read_config(self.folder)

    @property
    def family(self) -> str:
        """The architecture's name in transformers (`bert`, `roberta`, `gpt2`, `vit`, `resnet`, ...)."""
        return str(self.config["model_type"])

    @property
    def commit(self) -> str | None:
        """The commit that a hub revision stood for when it was downloaded; None for a local folder."""
        return self.folder.name if self.downloaded and hub.COMMIT.fullmatch(self.folder.name) else None

    @cached_property
    def weights(self) -> str:
        """Fingerprint of config and weights, or of the config alone if the model starts from scratch."""
        return (fingerprints.of_weights if self.init == "pretrained" else fingerprints.of_config)(self.folder)

    @property
    def weights_fingerprint(self) -> str:
        """Fingerprint of what the model starts from (weights or configuration) and how (`init`, `layers`)."""
        return fingerprint.of_json({"init": self.init, "layers": self.layers, "start": self.weights})

    def preprocessing_fingerprint(self, max_length: int | None) -> str:
        """Fingerprint of what turns a row into the model's input: tokenizer or image settings, and the length limit.

        Args:
            max_length: the task's limit in tokens; None for images, where config.json alone may be enough.
        """
        bare = not any((self.folder / name).is_file() for name in fingerprints.TOKENIZER_FILES)
        files = None if bare and max_length is None else fingerprints.of_tokenizer(self.folder)
        return fingerprint.of_json({"files": files, "max_length": max_length})

    def start_fingerprint(self, max_length: int | None) -> str:
        """Fingerprint of what a model starts from and how it reads rows: of the content, as hub branches move."""
        return fingerprint.of_json([self.weights_fingerprint, self.preprocessing_fingerprint(max_length)])


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json.

    Raises:
        ModelError: the file is missing, or not an object with `model_type`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no config.json, so this is not a model; expected a transformers folder")
    config = read_settings(path)
    if "model_type" not in config:
        raise ModelError(f"{path}: expected an object with model_type (bert, gpt2, vit, ...)")
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """The content of one of a checkpoint's JSON files; an empty dictionary if the file is missing.

    Raises:
        ModelError: the file cannot be read, or is not a JSON object.
    """
    try:
        with open_regular(path) as file:
            settings = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except KdcacheError as error:
        raise ModelError(str(error)) from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    return settings
