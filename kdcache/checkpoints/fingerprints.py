"""Fingerprints of a checkpoint: its weights, its configuration, its tokenizer.

How a checkpoint is split into files does not matter.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError, ModelError
from kdcache.hashing.fingerprint import CHUNK, of_file, of_json
from kdcache.system.files import open_regular, read_json

# Keys of config.json that say who wrote the file and how, not what the model computes.
VOLATILE_CONFIG_KEYS = frozenset(
    {"_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"}
)

# Keys of a tokenizer's settings that say where its files were found. transformers writes them when it saves one.
VOLATILE_TOKENIZER_KEYS = frozenset(
    {"is_local", "local_files_only", "name_or_path", "tokenizer_file", "vocab_file"}
)
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "bpe.codes",
    "byte_maps.json",
    "prophetnet.tokenizer",
    "source.spm",
    "spm_char.model",
    "target.spm",
    "tekken.json",
    "tiktoken.model",
    "vocab-src.json",
    "vocab-tgt.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)
# Files that some tokenizers need beside a vocabulary. They decide tokens too, but none makes a tokenizer alone.
BESIDE_VOCABULARY = (
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "target_vocab.json",
    "word_pronunciation.json",
    "word_shape.json",
)
VERSIONED = "tokenizer.[0-9]*.json"  # transformers since that version reads it in place of tokenizer.json


def of_weights(folder: Path) -> str:
    """Fingerprint of a checkpoint folder: its config and the name, type, shape and bytes of every tensor.

    The config is canonical JSON without `VOLATILE_CONFIG_KEYS` (at any depth). Tensors come from every
    `*.safetensors` of the folder, so one file or many shards give the same answer. A folder with a config and
    no weights (an architecture to be initialised) is allowed. Then only the config counts.

    Raises:
        ModelError: config.json is missing, a `*.safetensors` file is not in that format, a tensor is in two files, or
            the only weights are in another format.
    """
    folder = Path(folder)
    config = _config(folder)
    tensors: dict[str, list[Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in _tensors(file):
            if name in tensors:
                raise ModelError(f"{file}: tensor {name!r} is also in another file of {folder}")
            tensors[name] = tensor
    if not tensors:
        _refuse_other_weights(folder)
    return of_json({"config": config, "tensors": tensors})


def of_config(folder: Path) -> str:
    """Fingerprint of a checkpoint's architecture: its config.json as canonical JSON, without `VOLATILE_CONFIG_KEYS`.

    Raises:
        ModelError: config.json is missing, or is not JSON.
    """
    return of_json(_config(Path(folder)))


def of_tokenizer(folder: Path) -> str:
    """Fingerprint of a checkpoint's tokenizer and preprocessor files.

    They are those of `TOKENIZER_FILES`, `BESIDE_VOCABULARY` and `VERSIONED` that exist.
    Settings count as JSON, without keys that say where the files came from. Vocabularies count by their bytes.

    Raises:
        ModelError: none of `TOKENIZER_FILES` exists, or a file that should be JSON is not JSON.
    """
    folder = Path(folder)
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(f"{folder}: no tokenizer or preprocessor file (one of {', '.join(TOKENIZER_FILES)})")
    present += [name for name in BESIDE_VOCABULARY if (folder / name).is_file()]
    present += [path.name for path in folder.glob(VERSIONED) if path.is_file()]
    return of_json({name: _tokenizer_file(folder / name) for name in present})


def _tokenizer_file(path: Path) -> Any:
    if path.name not in TOKENIZER_SETTINGS:
        return of_file(path)
    try:
        return _without(read_json(path, ours=False), VOLATILE_TOKENIZER_KEYS)
    except KdcacheError as error:
        raise ModelError(str(error)) from None


def _config(folder: Path) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder}: no config.json here, so this is no checkpoint folder")
    try:
        return _without(read_json(file, ours=False), VOLATILE_CONFIG_KEYS)
    except KdcacheError as error:
        raise ModelError(str(error)) from None


def _without(value: Any, keys: frozenset[str]) -> Any:
    """The JSON value without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without(item, keys) for item in value]
    return value


def tensor_names(file: Path) -> list[str]:
    """The names of a safetensors file's tensors. Only its header is read.

    Raises:
        ModelError: the file is not in that format.
    """
    with _whole(file), open_regular(file) as handle:
        return list(_header(handle, file)[0])


def _tensors(file: Path) -> list[tuple[str, list[Any]]]:
    """(name, [dtype, shape, sha256 of its bytes]) of every tensor, read without loading torch."""
    with _whole(file), open_regular(file) as handle:
        header, start = _header(handle, file)
        return [(name, [*_tensor(handle, start, info, file)]) for name, info in header.items()]


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn whatever reading a safetensors file raises into a ModelError."""
    try:
        yield
    except KdcacheError as error:
        raise ModelError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{file}: is no whole safetensors file ({error}); fetch or train it again") from None


def _header(handle: Any, file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each tensor, by name, and where the tensors' bytes begin.

    A safetensors file is: header size (8 bytes, little-endian), header (JSON), data. Offsets count from the
    end of the header.
    """
    size = struct.unpack("<Q", handle.read(8))[0]
    if not 2 <= size <= file.stat().st_size - 8:
        raise ValueError("header size does not fit the file")
    header = json.loads(handle.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def _tensor(handle: Any, start: int, info: dict[str, Any], file: Path) -> tuple[str, list[int], str]:
    begin, end = info["data_offsets"]
    if not 0 <= begin <= end <= file.stat().st_size - start:
        raise ValueError("a tensor lies outside the file")
    handle.seek(start + begin)
    digest, bytes_left = hashlib.sha256(), end - begin
    while bytes_left:
        block = handle.read(min(CHUNK, bytes_left))
        if not block:
            raise ValueError("the file ends inside a tensor")
        digest.update(block)
        bytes_left -= len(block)
    return str(info["dtype"]), list(info["shape"]), digest.hexdigest()


def _refuse_other_weights(folder: Path) -> None:
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack"):
        for file in sorted(folder.glob(pattern)):
            raise ModelError(
                f"{file}: weights must be safetensors; convert the checkpoint with save_pretrained"
            )
