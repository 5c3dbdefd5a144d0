"""Run as a program: ask kdcache for everything that stdin lists, in one process, and print a line of JSON for each.

It needs a process of its own, because the hub's client reads HF_ENDPOINT and HF_HOME when it is imported.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from huggingface_hub import constants

from kdcache.checkpoints import hub
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import KdcacheError
from kdcache.study import Model, Task
from kdcache.tasks.sources import load_source


def model(name: str, revision: str) -> dict[str, Any]:
    chosen = Model(checkpoint=name, revision=revision, learning_rate=1, epochs=1, batch_size=1)
    checkpoint = find_checkpoint(chosen)
    folder = checkpoint.folder
    return {
        "commit": checkpoint.commit,
        "files": sorted(path.name for path in folder.iterdir()),
        "weights": (folder / "model.safetensors").read_bytes().hex(),
        "start": checkpoint.start_fingerprint(8),
    }


def data(name: str, revision: str) -> dict[str, Any]:
    source = {"hub": name, "revision": revision}
    task = {"source": source, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    loaded = load_source(Task.model_validate(task))
    texts = {split: rows.batches() for split, rows in loaded.splits.items()}
    return {
        "commit": loaded.resolved["commit"],
        "texts": {
            split: [row for batch in found for row in batch["text"].to_pylist()]
            for split, found in texts.items()
        },
    }


def main() -> None:
    hub.PATIENCE = 2.0
    constants.DOWNLOAD_CHUNK_SIZE = 16  # so that half of a small file is kept
    time.sleep = lambda seconds: None  # between its five tries
    for ask in json.load(sys.stdin):
        try:
            answer = {"model": model, "data": data}[ask["kind"]](ask["name"], ask["revision"])
        except KdcacheError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
