"""The part of an identity that stands for the code: a hash of all modules that compute values.

All code in `INFERENCE` counts for a logit cache, and all code in `TRAINING` for a trained model. No list of files is
kept by hand. The packages in `TOKENS` and the token cache's code count for language models only.

A refactoring changes nothing here: comments, docstrings, formatting, imports, which file or folder a definition is in,
and the order of definitions do not count. A changed number, operator, default, name or text does.

Method: each top-level definition of each module is written down separately, without docstrings and imports. An
imported name is replaced by its full name: `F.kl_div` and `torch.nn.functional.kl_div` are the same. A name imported
from kdcache is replaced by the bare name, whatever its module. The hash covers the set of definitions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError
from kdcache.hashing.fingerprint import of_json

INFERENCE = ("kdcache.modelling", "kdcache.logits.predicting")
TRAINING = (*INFERENCE, "kdcache.training")
# What only language models use: packages inside those above that count for nothing else, and the token cache's code.
TOKENS = ("kdcache.modelling.tokens", "kdcache.training.tokens")
TOKEN_CACHE = "kdcache.logits.tokens"
OURS = "kdcache"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def of_training(tokens: bool) -> str:
    """A hash of the code that trains a model: on labelled rows, or on every token of documents."""
    return of_packages([*TRAINING, TOKEN_CACHE]) if tokens else of_packages(TRAINING, without=TOKENS)


def of_inference(tokens: bool) -> str:
    """A hash of the code that computes a trained model's logits of rows, or its distributions at every token."""
    return of_packages([*INFERENCE, TOKEN_CACHE]) if tokens else of_packages(INFERENCE, without=TOKENS)


def of_packages(names: Sequence[str], without: Sequence[str] = ()) -> str:
    """A hash of all that the modules of the packages (and of the packages inside them) compute.

    Args:
        without: packages inside them that do not count.

    Raises:
        KdcacheError: a package or a module's source cannot be found or read.
    """
    left_out = [_folder(name) for name in without]
    files = (file for name in names for file in sorted(_folder(name).rglob("*.py")))
    return _of_files(file for file in files if not any(folder in file.parents for folder in left_out))


def of_module(name: str) -> str:
    """A hash of one module's code. The module is found on sys.path; neither it nor its packages are imported.

    Raises:
        KdcacheError: the module or its source cannot be found or read.
    """
    return _of_files([_source(name)])


def _of_files(files: Iterator[Path] | list[Path]) -> str:
    written: set[str] = set()
    for file in files:
        try:
            written.update(definitions(file.read_bytes()))
        except (OSError, ValueError, SyntaxError, RecursionError) as error:
            raise KdcacheError(f"{file}: its source cannot be read: {error}") from error
    return of_json(sorted(written))


@functools.lru_cache(maxsize=256)
def definitions(source: bytes) -> frozenset[str]:
    """A digest of each top-level definition and statement of a module. It is cached: every identity needs it."""
    tree = ast.parse(source)
    tree = _Canonical(_imported(tree)).visit(tree)
    texts = (json.dumps(_plain(statement), sort_keys=True) for statement in tree.body)
    return frozenset(hashlib.sha256(text.encode()).hexdigest() for text in texts)


def _imported(tree: ast.Module) -> dict[str, str]:
    """The full name of each imported name of a module: `torch.nn.functional`, or a bare name of kdcache's own."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full_name = alias.name if alias.asname else alias.name.split(".")[0]
                names[alias.asname or full_name] = full_name
        elif isinstance(node, ast.ImportFrom):
            ours = node.level > 0 or (node.module or "").split(".")[0] == OURS
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name if ours else f"{node.module}.{alias.name}"
    return names


class _Canonical(ast.NodeTransformer):
    """Leaves out everything that computes nothing. Replaces imported names by their full names."""

    def __init__(self, imported: dict[str, str]) -> None:
        self._imported = imported

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return super().visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Leave out `if TYPE_CHECKING:`, which only has imports."""
        kept = self.generic_visit(node)
        return kept if isinstance(kept, ast.If) and (kept.body or kept.orelse) else None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        lists_names = any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
        return None if lists_names else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._imported.get(node.id, node.id), node.ctx)


def _plain(node: Any) -> Any:
    """A syntax tree as JSON: node types and values, without line numbers. It is the same in every version of Python."""
    if isinstance(node, ast.Constant):
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node


def _folder(package: str) -> Path:
    spec = _found_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise KdcacheError(f"package {package!r}: its folder was not found")
    return Path(folders[0])


def _source(module: str) -> Path:
    try:
        spec = _found_spec(module)
    except (ImportError, ValueError) as error:
        raise KdcacheError(f"module {module!r}: cannot be found: {error}") from error
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise KdcacheError(f"module {module!r}: no Python source file was found")
    return Path(spec.origin)


def _found_spec(name: str) -> ModuleSpec | None:
    """Does what importlib.util.find_spec does, but without importing the packages above the module."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        module = ".".join(parts[:depth])
        specs = (finder.find_spec(module, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((candidate for candidate in specs if candidate is not None), None)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec
