"""params.yaml is read as DVC reads it, within limits: the content, or one error with its line."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from kdcache.errors import ParamsError
from kdcache.system.params_file import MOST_BYTES, MOST_VALUES, parse_params, read_params

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


def problem_of(text: str) -> str:
    with pytest.raises(ParamsError) as caught:
        parse_params(text, "params.yaml")
    (problem,) = caught.value.mistakes
    return problem


# ---- the same as DVC ----


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_studies_are_read_as_dvc_reads_them(path: Path) -> None:
    read = read_params(path)
    assert read == YAML(typ="safe").load(path)
    assert list(read) == list(YAML(typ="safe").load(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("true", True),
        ("1e3", 1000.0),
        ("5e-4", 0.0005),
        ("0x10", 16),
        ("0o10", 8),
        ("010", 10),
        ("1_000", 1000),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("'1e3'", "1e3"),
        ('"no"', "no"),
        ("1:30", "1:30"),
        ("{}", {}),
        ("[]", []),
        ("|\n  two\n  lines", "two\nlines"),
    ],
)
def test_a_value_is_what_it_is_to_yaml_1_2(text: str, value: object) -> None:
    read = parse_params(f"a: {text}", "params.yaml")["a"]
    assert (read, type(read)) == (value, type(value))
    assert YAML(typ="safe").load(f"a: {text}")["a"] == value


def test_merges_are_written_out(tmp_path: Path) -> None:
    text = "one: &one {a: 1, b: 2}\ntwo: &two {b: 3, c: 4}\nall: {d: 5, <<: [*one, *two], c: 6}\n"
    read = parse_params(text, "params.yaml")
    assert read["all"] == {"a": 1, "b": 2, "c": 6, "d": 5}
    assert read == YAML(typ="safe").load(text)


def test_a_byte_order_mark_is_none_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbfseeds: [0]\r\n")
    assert read_params(path) == {"seeds": [0]}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
)
CONTENTS = st.dictionaries(
    st.text(max_size=10),
    st.recursive(
        SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=20
    ),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(CONTENTS)
def test_what_dvc_writes_is_read_again(content: dict[str, Any]) -> None:
    from dvc.utils.serialize import dumps_yaml

    text = dumps_yaml(content)
    try:
        expected = YAML(typ="safe").load(text)
    except YAMLError:  # DVC cannot read it either: a half character, a control character
        expected = None
    try:
        parsed = parse_params(text, "params.yaml")
    except ParamsError as error:
        refused = str(error)
    else:
        refused = None
        assert parsed == expected
    understood = refused is None or re.search("NUL or half a character|more than 20 lists", refused)
    assert understood or expected is None, refused


# ---- what is refused, and where it is ----

REFUSED = [
    ("", "expected a mapping with seeds, tasks, students, ..., found an empty file"),
    ("# only a comment\n", "expected a mapping with seeds, tasks, students, ..., found an empty file"),
    ("- a\n- b\n", "expected a mapping with seeds, tasks, students, ..., found ['a', 'b']"),
    ("hello", "expected a mapping with seeds, tasks, students, ..., found 'hello'"),
    ("seeds: [0, 1", "is not valid YAML: line 1, column"),
    ("a: b: c", "is not valid YAML: line 1, column 5: "),
    ("a: 1\n\tb: 2", "is not valid YAML: line 2, column 1: found character '\\t' that cannot start any token"),
    ("a: 1\0b: 2", "is not valid YAML: unacceptable character #x0000"),
    ("a: '\x1b'", "is not valid YAML: unacceptable character #x001b"),
    ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins"),
    ("%YAML 1.3\n---\na: no", "is no YAML 1.2: version minor part can only be 2 or 1, got (1, 3); leave %YAML out"),
    ("%YAML 1.0\n---\na: no", "is no YAML 1.2: version minor part can only be 2 or 1, got (1, 0); leave %YAML out"),
    ("%YAML 1.1\n---\na: no", "line 2, column 1: is YAML 1.1; leave %YAML out"),
    ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11: the key 'c' is given twice"),
    ("1: a\n1.0: b", "line 2, column 1: the key 1.0 is given twice"),
    ("<<: {a: 1}\n<<: {b: 1}", "line 2, column 1: the key '<<' is given twice"),
    ("<<: 3", "line 1, column 5: << takes a mapping or a list of mappings"),
    ("<<: [3]", "line 1, column 5: << takes a mapping or a list of mappings"),
    ("a: <<", "line 1, column 4: '<<' is of the kind 'merge' to YAML; if it is text, put it in quotes"),
    ("a: =", "line 1, column 4: '=' is of the kind 'value' to YAML"),
    ("? [a]\n: 1", "line 1, column 3: a list or a mapping is no key"),
    ("? {a: 1}\n: 1", "line 1, column 3: a list or a mapping is no key"),
    ("a: 2024-01-31", "line 1, column 4: '2024-01-31' is a date to YAML; if it is text, put it in quotes"),
    ("a: 2024-13-45", "line 1, column 4: '2024-13-45' is a date to YAML; if it is text, put it in quotes"),
    ("a: 0x_", "line 1, column 4: '0x_' looks like a number but is none"),
    ("a: " + "9" * 5000, "line 1, column 4: '99999"),
    ("a: 0x" + "f" * 5000, "line 1, column 4: '0xfff"),
    ("a: !!int abc", "line 1, column 4: the tag 'tag:yaml.org,2002:int': a value is what it looks like"),
    ("a: !!bool maybe", "line 1, column 4: the tag 'tag:yaml.org,2002:bool'"),
    ("a: ! 3", "line 1, column 4: the tag '!'"),
    ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: the tag 'tag:yaml.org,2002:python/object"),
    ("!!set {a, b}", "line 1, column 1: the tag 'tag:yaml.org,2002:set'"),
    ("a: *b", "line 1, column 4: *b stands for nothing that ends before it"),
    ("a: &a [*a]", "line 1, column 8: *a stands for nothing that ends before it"),
    ('a: "\\0"', "line 1, column 4: '\\x00' has a NUL or half a character in it"),
    ('a: "\\ud83d"', "line 1, column 4: '\\ud83d' has a NUL or half a character in it"),
    ("a: " + "[" * 500 + "]" * 500, "line 1, column 24: more than 20 lists and mappings in one another"),
    ("a:\n" + "".join(f"{' ' * i}b:\n" for i in range(1, 400)), "line 21, column 21: more than 20 lists"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[repr(text[:25]) for text, _ in REFUSED])
def test_what_no_study_needs_is_refused_with_its_place(text: str, expected: str) -> None:
    problem = problem_of(text)
    assert problem.startswith(expected)
    assert len(problem) < 400


# ---- limits ----


def _seconds(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def _alias_bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _alias_bomb(9),
        "a: &a {b: 1}\n" + "\n".join(f"k{i}: {{<<: [*a, *a, *a]}}" for i in range(9000)),
        "a: &a " + "x" * 1000 + "\nb: [" + ", ".join(["*a"] * 2500) + "]",
        f"seeds: [{', '.join(map(str, range(200_000)))}]"[:MOST_BYTES],
        "".join(f"- {i}\n" for i in range(MOST_VALUES + 1)),
    ],
    ids=["aliases of aliases", "merges", "aliases of a long text", "numbers", "lines"],
)
def test_a_file_of_very_many_values_is_refused_before_they_are_built(text: str) -> None:
    assert _seconds(lambda: f"more than {MOST_VALUES} values" in problem_of(text)) < 20
    assert f"more than {MOST_VALUES} values, aliases (*) written out" in problem_of(text)


def test_as_many_values_as_the_limit_are_read() -> None:
    text = f"seeds: [{', '.join(map(str, range(MOST_VALUES - 3)))}]"  # and a mapping, a key, a list
    assert len(parse_params(text, "params.yaml")["seeds"]) == MOST_VALUES - 3


def test_a_file_that_is_larger_than_any_study_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES * 100_000)  # 100 GB, sparse
    with pytest.raises(ParamsError, match=r"is larger than 1024 KiB"):
        read_params(path)


# ---- the file itself ----


def test_a_missing_file_says_where_to_copy_one_from(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nothing\.yaml: 1 mistake\n.*does not exist.*studies/"):
        read_params(tmp_path / "nothing.yaml")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="cannot be read: Is a directory"):
        read_params(tmp_path)


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(ParamsError, match="is a pipe, socket or device; expected a regular file"):
            read_params(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(ParamsError, match="cannot be read: No such device or address"):
            read_params(tmp_path / "socket")


def test_a_link_to_a_study_is_one(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").symlink_to(ROOT / "studies" / "smoke.yaml")
    assert read_params(tmp_path / "params.yaml") == read_params(ROOT / "studies" / "smoke.yaml")


@pytest.mark.parametrize(
    ("data", "line"), [(b"\xff\xfea\0:\0", 1), (b"a: 1\nb: caf\xe9\n", 2), (b"a: 1\n\n# \x80", 3)]
)
def test_what_is_not_utf_8_has_its_line(tmp_path: Path, data: bytes, line: int) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(data)
    with pytest.raises(ParamsError, match=f"is not valid YAML: line {line}: not UTF-8; save it as UTF-8"):
        read_params(path)


@pytest.mark.parametrize("escape", ["\\U7fffffff", "\\U00110000", "\\Uffffffff"])
def test_a_character_beyond_unicode(escape: str) -> None:
    assert problem_of(f'seeds: "{escape}"').startswith("is not valid YAML: ")
