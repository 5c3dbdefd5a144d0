"""Run as a program: run the `kdcache` commands that stdin lists (a line of JSON each) in one process without torch.

It needs a process of its own, because the hub's client reads HF_ENDPOINT and HF_HOME when it is imported. Each answer
is a line of JSON: the exit code, and what the command printed.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment]  # a cache is shared without it

from huggingface_hub import constants  # noqa: E402

from kdcache.checkpoints import hub  # noqa: E402
from kdcache.cli import main as kdcache  # noqa: E402


def run(arguments: list[str], token: str | None) -> dict[str, Any]:
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            kdcache(arguments)
        except SystemExit as end:
            code = end.code
    return {"code": code or 0, "out": out.getvalue(), "err": err.getvalue()}


def main() -> None:
    hub.PATIENCE = 2.0
    constants.DOWNLOAD_CHUNK_SIZE = 16  # so that half of a small file is kept
    time.sleep = lambda seconds: None  # between its five tries
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["arguments"], asked["token"])), flush=True)


if __name__ == "__main__":
    main()
