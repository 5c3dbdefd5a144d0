"""The code of an identity: a refactoring changes nothing, a changed number, operator, default or name does."""

from __future__ import annotations

import ast
import copy
import importlib
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import KdcacheError
from kdcache.trials import code

FILES = sorted(
    file for name in code.TRAINING for file in code._folder(name).rglob("*.py") if file.name != "__init__.py"
)
KDCACHE = Path(code.__file__).parents[1]
SOURCES = {str(file.relative_to(KDCACHE).with_suffix("")): file.read_text() for file in FILES}
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Not: ast.UAdd,
    ast.USub: ast.UAdd,
}


def of(source: str) -> frozenset[str]:
    return code.definitions(source.encode())


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Docstrings are the constants that do not count."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def mutants(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Every statement that differs from this one in one constant or one operator."""
    for index, node in enumerate(ast.walk(statement)):
        kinds = [type(node)] if isinstance(node, ast.Constant) else []
        kinds += [type(item) for item in vars(node).values() if type(item) in OPERATORS]
        kinds += [type(item) for item in getattr(node, "ops", []) if type(item) in OPERATORS]
        if kinds:
            other = copy.deepcopy(statement)
            mutate(list(ast.walk(other))[index])
            yield other


def mutate(node: ast.AST) -> None:
    if isinstance(node, ast.Constant):
        value = node.value
        node.value = (
            not value
            if isinstance(value, bool)
            else value + "x"
            if isinstance(value, str)
            else value + 1
            if isinstance(value, int | float)
            else "another"
        )
    elif isinstance(node, ast.Compare):
        node.ops[0] = OPERATORS[type(node.ops[0])]()
    else:
        name = next(name for name, item in vars(node).items() if type(item) in OPERATORS)
        setattr(node, name, OPERATORS[type(getattr(node, name))]())


@pytest.mark.parametrize("name", SOURCES)
def test_every_changed_constant_or_operator_counts(name: str) -> None:
    """Each definition is changed by itself: the digests of a file are those of its definitions, none of them twice."""
    tree = without_docstrings(ast.parse(SOURCES[name]))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    def of_one(statement: ast.stmt) -> frozenset[str]:
        return of(ast.unparse(ast.Module([*imports, statement], [])))

    before, changed = [of_one(statement) for statement in tree.body], 0
    assert sorted(digest for one in before for digest in one) == sorted(of(ast.unparse(tree)))
    for statement, unchanged in zip(tree.body, before, strict=True):
        for mutant in mutants(statement):
            assert of_one(mutant) != unchanged, ast.unparse(mutant)
            changed += 1
    assert changed > 3


@pytest.mark.parametrize("name", SOURCES)
def test_formatting_comments_and_docstrings_do_not_count(name: str) -> None:
    source = SOURCES[name]
    tree = ast.parse(source)
    assert of(ast.unparse(tree)) == of(source)  # another layout, without comments
    assert of(ast.unparse(without_docstrings(ast.parse(source)))) == of(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is None:
            node.body.insert(0, ast.Expr(ast.Constant("What it is for.")))
    assert of(ast.unparse(ast.fix_missing_locations(tree))) == of(source)


@pytest.mark.parametrize("name", SOURCES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_the_order_of_imports_and_definitions_does_not_count(name: str, seed: int) -> None:
    tree = without_docstrings(ast.parse(SOURCES[name]))
    random.Random(seed).shuffle(tree.body)
    assert of(ast.unparse(tree)) == of(SOURCES[name])


def test_a_renamed_definition_counts() -> None:
    assert of("def f(x):\n    return x") != of("def g(x):\n    return x")
    assert of("def f(x=1):\n    return x") != of("def f(x=2):\n    return x")
    assert of("A = 'kept'") != of("A = 'changed'")
    assert of("A = 1") != of("A = 1.0") != of("A = True")


def test_an_imported_name_stands_for_what_it_is() -> None:
    body = "\ndef f(x):\n    return {}(x)"
    assert of("import torch" + body.format("torch.exp")) == of("import torch as t" + body.format("t.exp"))
    assert of("from math import exp" + body.format("exp")) != of(
        "from math import expm1 as exp" + body.format("exp")
    )
    moved = [f"from kdcache.{place} import f as g" + body.format("g") for place in ("a.b", "c")]
    assert of(moved[0]) == of(moved[1]) == of("from kdcache.d import f" + body.format("f"))
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import b\n"
    assert of(hidden + body.format("exp")) == of(body.format("exp"))


def test_a_moved_definition_and_a_renamed_file_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "moving"
    (package / "training").mkdir(parents=True)
    for file in (package / "__init__.py", package / "training" / "__init__.py"):
        file.write_text("raise RuntimeError('must not be imported')" if file.parent == package else "")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    loop, losses = package / "training" / "loop.py", package / "training" / "losses.py"
    loop.write_text(
        "import math\n\ndef step(x):\n    return loss(x) + math.pi\n\ndef loss(x):\n    return x * 2\n"
    )
    before = code.of_packages(["moving.training"])
    loop.write_text(
        "import math\nfrom kdcache.moving import loss\n\ndef step(x):\n    return loss(x) + math.pi\n"
    )
    losses.write_text("def loss(x):\n    return x * 2\n")
    assert code.of_packages(["moving.training"]) == before
    (package / "training" / "deeper").mkdir()
    shutil.move(loop, package / "training" / "deeper" / "fitting.py")
    assert code.of_packages(["moving.training"]) == before
    losses.write_text("def loss(x):\n    return x * 3\n")
    assert code.of_packages(["moving.training"]) != before
    assert "moving" not in sys.modules


def test_no_two_definitions_of_the_counted_code_share_a_name_nor_is_a_module_of_ours_imported() -> None:
    """Names of ours stand for themselves wherever they are, so each has to stand for one thing."""
    names: Counter[str] = Counter()
    for source in SOURCES.values():
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names[node.name] += 1
            elif isinstance(node, ast.Assign) and ast.unparse(node) != "log = logging.getLogger(__name__)":
                names.update(ast.unparse(target) for target in node.targets)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdcache"):
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    assert code._found_spec(module) is None, f"import the names of {module}, not the module"
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("name", ["no_such_module_here", "kdcache.no_such", "kdcache.errors.deep", "sys"])
def test_what_has_no_source_is_refused(name: str) -> None:
    with pytest.raises(KdcacheError, match=f"module '{name}': no Python source"):
        code.of_module(name)
    with pytest.raises(KdcacheError, match=f"package '{name}': its folder was not found"):
        code.of_packages([name])


def test_a_module_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_losses.py"
    file.write_text("def loss(logits):\n    return logits.mean()\n")
    importlib.invalidate_caches()
    before = code.of_module("my_losses")
    file.write_text('def loss(logits):\n    """Mine."""\n    return logits.mean()\n')
    assert code.of_module("my_losses") == before
    file.write_text("def loss(logits):\n    return logits.sum()\n")
    assert code.of_module("my_losses") != before
    file.write_text("def loss(:\n")
    with pytest.raises(KdcacheError, match="cannot be read"):
        code.of_module("my_losses")
