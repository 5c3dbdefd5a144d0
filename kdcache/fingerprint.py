"""What makes two runs the same: short, stable hashes of data, weights, preprocessing and code.

Every function here gives the same answer on every machine, whatever the path, the order in which files are
listed, or the way a checkpoint is cut into files. A fingerprint is the sha256 of canonical content, in hex.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xxhash

from kdcache.errors import KdcacheError, ModelError
from kdcache.files import read_json

CHUNK = 1 << 20  # bytes read at a time

# Keys of config.json that say who wrote the file or how, not what the model computes.
VOLATILE_CONFIG_KEYS = frozenset(
    {"_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"}
)

# Keys of a tokenizer's settings that say where its files were found: transformers writes them when it saves one.
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
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


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
        KdcacheError: something else is in it.
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
    if hasattr(value, "detach"):  # a torch tensor; some of its types, such as bfloat16, NumPy does not have
        flat = value.detach().cpu().contiguous().reshape(-1)
        array, kind = flat.view(_torch_bytes()).numpy(), str(value.dtype).removeprefix("torch.")
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array, kind = np.ascontiguousarray(value, value.dtype.newbyteorder("<")), value.dtype.name
    else:
        raise KdcacheError(f"a {type(value).__name__} has no stable content to fingerprint")
    return {"array": kind, "shape": list(value.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}


def _torch_bytes() -> Any:
    import torch  # somebody who has a tensor has imported it

    return torch.uint8


def of_file(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        KdcacheError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    except OSError as error:
        raise KdcacheError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def of_files(folder: Path, patterns: Iterable[str] | str) -> str:
    """Names (relative to the folder) and contents of the files that match the glob patterns.

    Raises:
        KdcacheError: the folder is missing, or no file matches (an empty fingerprint would match anything).
    """
    folder = Path(folder)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not folder.is_dir():
        raise KdcacheError(f"{folder}: the folder does not exist")
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    if not found:
        raise KdcacheError(f"{folder}: no file matches {', '.join(patterns)}")
    return of_json({path.relative_to(folder).as_posix(): of_file(path) for path in found})


def of_weights(folder: Path) -> str:
    """What a checkpoint folder computes: its config and the name, type, shape and bytes of every tensor.

    The config is canonical JSON without `VOLATILE_CONFIG_KEYS` (at any depth). Tensors come from every
    `*.safetensors` of the folder, so one file or many shards give the same answer. A folder with a config and
    no weights (an architecture to be initialised) is allowed: only the config counts.

    Raises:
        ModelError: no config.json, a file that is no safetensors file, a tensor that is in two files, or
            weights in another format only.
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
    """A checkpoint's architecture: its config.json as canonical JSON, without `VOLATILE_CONFIG_KEYS`.

    Raises:
        ModelError: there is no config.json, or it is not JSON.
    """
    return of_json(_config(Path(folder)))


def of_tokenizer(folder: Path) -> str:
    """The tokenizer and preprocessor files of a checkpoint folder (those of `TOKENIZER_FILES` that exist).

    Settings count as JSON, without keys that say where the files came from; vocabularies by their bytes.

    Raises:
        ModelError: none of them is there, or one that should be JSON is not.
    """
    folder = Path(folder)
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(f"{folder}: no tokenizer or preprocessor file (one of {', '.join(TOKENIZER_FILES)})")
    return of_json({name: _tokenizer_file(folder / name) for name in present})


def _tokenizer_file(path: Path) -> Any:
    if path.name not in TOKENIZER_SETTINGS:
        return of_file(path)
    try:
        return _without(read_json(path), VOLATILE_TOKENIZER_KEYS)
    except KdcacheError as error:
        raise ModelError(str(error)) from None


def of_code(*modules: ModuleType | str) -> str:
    """What the modules' source says, whatever its comments, docstrings and formatting.

    Each module's AST, without docstrings, is written back with `ast.unparse` and hashed under the module's
    name. A string names a module, which is looked up on sys.path without importing it or its packages.

    Raises:
        KdcacheError: a module has no Python source or cannot be found.
    """
    return of_json({_module_name(module): _code_text(module) for module in modules})


def row_hash(parts: Sequence[bytes], label: int | float | None) -> int:
    """Stable 64-bit hash of one row's content and label, for joining logits to the rows they belong to.

    xxh3_64 over, for each part, its length (8 bytes, little-endian) and its bytes; then the label as `i` and
    8 bytes (signed, little-endian) or `f` and 8 bytes (IEEE 754 double, little-endian; -0.0 counts as 0.0).

    Args:
        parts: text columns in UTF-8, or the image's bytes, in column order.
        label: class index, or the target of a regression; None, of a row without one, counts as the further part
            `\\0unlabelled` and the label 0.

    Returns:
        An unsigned 64-bit integer.
    """
    if label is None:
        return row_hash([*parts, b"\0unlabelled"], 0)
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    if isinstance(label, Integral):  # NumPy's integers too
        digest.update(b"i" + struct.pack("<q", label))
    else:
        digest.update(b"f" + struct.pack("<d", label + 0.0))
    return int(digest.intdigest())


def _config(folder: Path) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder}: no config.json here, so this is no checkpoint folder")
    try:
        return _without(read_json(file), VOLATILE_CONFIG_KEYS)
    except KdcacheError as error:
        raise ModelError(str(error)) from None


def _without(value: Any, keys: frozenset[str]) -> Any:
    """The JSON value without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without(item, keys) for item in value]
    return value


def _tensors(file: Path) -> list[tuple[str, list[Any]]]:
    """(name, [dtype, shape, sha256 of its bytes]) of every tensor, read without loading torch.

    A safetensors file is: header size (8 bytes, little-endian), header (JSON), data; offsets count from the
    end of the header.
    """
    try:
        with file.open("rb") as handle:
            size = struct.unpack("<Q", handle.read(8))[0]
            if not 2 <= size <= file.stat().st_size - 8:
                raise ValueError("header size does not fit the file")
            header = json.loads(handle.read(size))
            header.pop("__metadata__", None)
            start = 8 + size
            return [(name, [*_tensor(handle, start, info, file)]) for name, info in header.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{file}: is no whole safetensors file ({error}); fetch or train it again") from None


def _tensor(handle: Any, start: int, info: dict[str, Any], file: Path) -> tuple[str, list[int], str]:
    begin, end = info["data_offsets"]
    if not 0 <= begin <= end <= file.stat().st_size - start:
        raise ValueError("a tensor lies outside the file")
    handle.seek(start + begin)
    digest, left = hashlib.sha256(), end - begin
    while left:
        block = handle.read(min(CHUNK, left))
        if not block:
            raise ValueError("the file ends inside a tensor")
        digest.update(block)
        left -= len(block)
    return str(info["dtype"]), list(info["shape"]), digest.hexdigest()


def _refuse_other_weights(folder: Path) -> None:
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack"):
        for file in sorted(folder.glob(pattern)):
            raise ModelError(
                f"{file}: weights must be safetensors; convert the checkpoint with save_pretrained"
            )


def _module_name(module: ModuleType | str) -> str:
    return module if isinstance(module, str) else module.__name__


def _code_text(module: ModuleType | str) -> str:
    name = _module_name(module)
    try:
        spec = _find_spec(name) if isinstance(module, str) else module.__spec__
        origin = spec.origin if spec is not None else getattr(module, "__file__", None)
        if not origin or not origin.endswith(".py"):
            raise KdcacheError(f"module {name!r}: no Python source file was found")
        return _without_comments(Path(origin).read_bytes())
    except (ImportError, OSError, ValueError, SyntaxError) as error:
        raise KdcacheError(f"module {name!r}: its source cannot be read: {error}") from error


@functools.lru_cache(maxsize=64)
def _without_comments(source: bytes) -> str:
    """Source in one layout, without docstrings and comments; kept, because every trial's identity asks for it."""
    return ast.unparse(_without_docstrings(ast.parse(source)))


def _find_spec(name: str) -> ModuleSpec | None:
    """Like importlib.util.find_spec, but without importing the packages above the module."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        whole = ".".join(parts[:depth])
        found = (finder.find_spec(whole, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((item for item in found if item is not None), None)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
