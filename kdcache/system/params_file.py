"""params.yaml as plain objects: YAML 1.2, as DVC reads it, and within limits.

DVC reads the file and `dvc exp run -S` writes it, both with ruamel.yaml; so ruamel.yaml reads it here. The file may
come from strangers: only a regular file is opened, and its size, its depth and the number of its values are limited
before anything is built from it. (An alias counts as everything it stands for.) Tags and dates are refused: no study
needs them, and YAML readers understand them differently.

Stages that have nothing to do import this module, so it must not import anything heavy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

from kdcache.errors import ParamsError
from kdcache.system.quoting import quoted, shown

MOST_BYTES = 2**20
MOST_VALUES = 20_000  # each takes 0.06 ms to read; DVC reads them several times
CHARACTERS = 100  # every so many characters of a text count as one more value
DEEPEST = 20  # levels of nested mappings and lists; a study needs 6
LONGEST_NUMBER = 40  # characters
TAG = "tag:yaml.org,2002:"
PLAIN = ("null", "bool", "int", "float", "str")


def read_params(path: str | Path) -> Mapping[str, Any]:
    """A study file's content, unchecked: mappings, lists, texts, numbers, booleans and None.

    The result is cached, so do not change it.

    Raises:
        ParamsError: the file is missing, not a regular file, or not a YAML mapping within the limits.
    """
    path = Path(path)
    return parse_params(_text(path), path)


def parse_params(text: str, path: str | Path) -> Mapping[str, Any]:
    """As `read_params`, from the file's text; `path` is named in error messages."""
    path = Path(path)
    try:
        content = _content(text)
    except YAMLError as error:
        raise ParamsError(path, [_description(error)]) from None
    except (ValueError, OverflowError) as error:  # of ruamel.yaml: "\\U7fffffff" is beyond Unicode
        raise ParamsError(path, [f"is not valid YAML: {_first_line(str(error))}"]) from None
    except AssertionError as error:  # of ruamel.yaml: %YAML 1.3
        raise ParamsError(path, [f"is no YAML 1.2: {_first_line(str(error))}; leave %YAML out"]) from None
    if not isinstance(content, dict):
        actual = "an empty file" if content is None else quoted(content)
        raise ParamsError(path, [f"expected a mapping with seeds, tasks, students, ..., found {actual}"])
    return content


@lru_cache(maxsize=1)  # a stage looks at the file up to three times
def _content(text: str) -> Any:
    return _Reader(text).content()


_ABSENT = (
    "the file does not exist; go to the folder of your project, or begin one with `kdcache init DIR` "
    "(in a clone of kdcache: cp studies/smoke.yaml params.yaml)"
)
_TOO_LARGE = f"is larger than {MOST_BYTES // 1024} KiB; a study file has a few"


def _text(path: Path) -> str:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ParamsError(path, ["is a pipe, socket or device; expected a regular file"])
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ParamsError(path, [_ABSENT]) from None
    except OSError as error:
        raise ParamsError(path, [f"cannot be read: {error.strerror}"]) from None
    if len(data) > MOST_BYTES:
        raise ParamsError(path, [_TOO_LARGE])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ParamsError(path, [f"is not valid YAML: line {line}: not UTF-8; save it as UTF-8"]) from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would block


def _description(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError):
        return f"is not valid YAML: {_first_line(str(error))}"
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    if isinstance(error, _Refused):
        return f"{place}{error.problem}"
    return f"is not valid YAML: {place}{_first_line(error.problem or error.context or str(error))}"


def _first_line(text: str) -> str:
    return shown((text.splitlines() or [""])[0])


class _Refused(MarkedYAMLError):
    """Valid YAML that a study file may not have."""


class _Reader:
    """Builds a document from ruamel.yaml's events, so that every limit holds before anything is built."""

    def __init__(self, text: str) -> None:
        self._yaml = YAML(typ="safe", pure=True)  # what DVC uses; pure: its C parser has other messages
        self._events: Iterator[Any] = self._yaml.parse(text)
        self._anchored: dict[str, tuple[Any, int]] = {}  # an anchor's value and its number of values
        self._size = 0  # number of values read so far, aliases written out

    def content(self) -> Any:
        """The one document; None for an empty file."""
        content, documents = None, 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    _refuse(event, "a second document begins; a study file is one")
                if event.version not in (None, (1, 2)):
                    _refuse(event, "is YAML 1.1; leave %YAML out: DVC writes YAML 1.2")
                content = self._value(next(self._events), 0)
        return content

    def _value(self, event: NodeEvent, depth: int) -> Any:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        before = self._size
        self._count(event, 1)
        if depth > DEEPEST:
            _refuse(event, f"more than {DEEPEST} lists and mappings in one another")
        value = self._node(event, depth)
        if event.anchor:
            self._anchored[event.anchor] = value, self._size - before
        return value

    def _alias(self, event: AliasEvent) -> Any:
        if event.anchor not in self._anchored:
            _refuse(event, f"*{shown(event.anchor)} stands for nothing that ends before it")
        value, size = self._anchored[event.anchor]
        self._count(event, size)
        return value

    def _count(self, event: Event, values: int) -> None:
        self._size += values
        if self._size > MOST_VALUES:
            _refuse(
                event, f"more than {MOST_VALUES} values, aliases (*) written out; a study has a few hundred"
            )

    def _node(self, event: Any, depth: int) -> Any:
        if event.tag is not None:
            _refuse(
                event, f"the tag {quoted(str(event.tag))}: a value is what it looks like; leave the tag out"
            )
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        return self._list(depth) if isinstance(event, SequenceStartEvent) else self._mapping(depth)

    def _list(self, depth: int) -> list[Any]:
        return [self._value(event, depth + 1) for event in self._until_end()]

    def _mapping(self, depth: int) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] | None = None
        for event in self._until_end():
            if self._kind(event) == "merge":
                if merged is not None:
                    _refuse(event, "the key '<<' is given twice")
                merged = self._merged(next(self._events), depth)
                continue
            key = self._key(event, depth)
            if key in own:
                _refuse(event, f"the key {quoted(key)} is given twice")
            own[key] = self._value(next(self._events), depth + 1)
        return {**(merged or {}), **own}

    def _until_end(self) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, CollectionEndEvent):
                return
            yield event

    def _key(self, event: NodeEvent, depth: int) -> Any:
        key = self._value(event, depth + 1)
        if isinstance(key, list | dict):
            _refuse(event, "a list or a mapping is no key")
        return key

    def _merged(self, event: NodeEvent, depth: int) -> dict[Any, Any]:
        """The keys that `<<` merges in, each from the first mapping that has it."""
        value = self._value(event, depth + 1)
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            _refuse(event, "<< takes a mapping or a list of mappings")
        return {key: item for mapping in reversed(mappings) for key, item in mapping.items()}

    def _kind(self, event: Any) -> str:
        """The type that YAML 1.2 gives an unquoted value: "str", "int", "timestamp", ..."""
        if not isinstance(event, ScalarEvent) or event.tag is not None or not event.implicit[0]:
            return "str"
        return str(self._yaml.resolver.resolve(ScalarNode, event.value, event.implicit)).removeprefix(TAG)

    def _scalar(self, event: ScalarEvent) -> Any:
        kind, text = self._kind(event), event.value
        if kind == "str":
            return self._text(event, text)
        if kind not in PLAIN:
            meaning = "a date" if kind == "timestamp" else f"of the kind {quoted(kind)}"
            _refuse(event, f"{quoted(text)} is {meaning} to YAML; if it is text, put it in quotes")
        if len(text) > LONGEST_NUMBER:
            _refuse(event, f"{quoted(text)} is a number of more than {LONGEST_NUMBER} characters")
        try:
            return self._yaml.constructor.construct_object(ScalarNode(TAG + kind, text))
        except ValueError:  # 0x_
            _refuse(event, f"{quoted(text)} looks like a number but is none; if it is text, put it in quotes")

    def _text(self, event: Event, text: str) -> str:
        self._count(event, len(text) // CHARACTERS)
        if "\0" in text or text.encode("utf-8", "replace").decode() != text:
            _refuse(
                event, f"{quoted(text)} has a NUL or half a character in it, which no file or table can hold"
            )
        return text


def _refuse(event: Event, problem: str) -> NoReturn:
    raise _Refused(problem=problem, problem_mark=event.start_mark)
