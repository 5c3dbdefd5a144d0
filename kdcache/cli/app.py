"""The `kdcache` application: the parts that all its commands share.

A KdcacheError is printed as one message on standard error, without a traceback, and the exit code is 1. A missing
optional library is reported in the same way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

import typer

from kdcache.errors import KdcacheError

# The extra that installs a library, if it is not `study`.
EXTRAS = {"huggingface_hub": "hub", "onnxruntime": "onnx", "onnxscript": "onnx"}
app = typer.Typer(name="kdcache", no_args_is_help=True)
Version = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version.", callback=lambda asked: _version(asked), is_eager=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. It ends with SystemExit, which has the exit code."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="kdcache")
    except KdcacheError as error:
        print(f"kdcache: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:  # a closed pipe, for example
            raise
        print(f"kdcache: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "kdcache"):
            raise
        extra = EXTRAS.get(package, "study")
        print(f"kdcache: this needs {package}: pip install 'kdcache[{extra}]'", file=sys.stderr)
        raise SystemExit(1) from None


def _version(asked: bool) -> None:
    if asked:
        import kdcache

        typer.echo(f"kdcache {kdcache.__version__}")
        raise typer.Exit


@app.callback()
def options(version: Version = False) -> None:
    """Run studies, and look into studies and logit caches."""


def printing() -> ModuleType:
    """The module that prints answers for people."""
    from kdcache.cli import printing  # imports Rich and the cache

    return printing


def print_json(value: dict[str, Any]) -> None:
    """Print an answer for scripts: one JSON object."""
    typer.echo(json.dumps(value, allow_nan=False))
