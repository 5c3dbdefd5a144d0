"""A fuzz harness: 1,200 caches damaged at random. Every damage that changes a value is refused, with a CacheError.

Other exceptions pass through and fail the test: to a user they would be a traceback.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import CacheError
from kdcache.logits import LogitCache

from .conftest import write_cache

ROUNDS, SEEDS = 150, 8


def flip_bytes(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    file = files[random.integers(len(files))]
    data = bytearray(file.read_bytes())
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] ^= random.integers(1, 256)
    file.write_bytes(data)


def cut_or_lengthen(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    file = files[random.integers(len(files))]
    data = file.read_bytes()
    cut = data[: random.integers(len(data))]
    file.write_bytes(cut if random.random() < 0.7 else data + random.bytes(random.integers(1, 20)))


def overwrite_a_run(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    """As a bad disk block does: zeros, or other bytes."""
    file = files[random.integers(len(files))]
    data = bytearray(file.read_bytes())
    start, length = int(random.integers(len(data))), int(random.integers(1, 200))
    length = min(length, len(data) - start)
    data[start : start + length] = bytes(length) if random.random() < 0.5 else random.bytes(length)
    file.write_bytes(data)


def swap_or_replace_shards(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    shards = [file for file in files if file.suffix == ".parquet"]
    one, other = (shards[k] for k in random.choice(len(shards), 2, replace=False))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    if random.random() < 0.5:
        other.write_bytes(first)


def delete_a_file(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    files[random.integers(len(files))].unlink()


def edit_the_manifest(cache: Path, files: list[Path], random: np.random.Generator) -> None:
    """Replace one value somewhere in it by something else that JSON can say."""
    path = cache / "manifest.json"
    content = json.loads(path.read_text())
    holders = [(holder, key) for holder in nested(content) for key in keys(holder)]
    holder, key = holders[random.integers(len(holders))]
    values = [None, True, -1, 0, 7, 2**63, 1e308, "", "x", "../../etc/passwd", [], {}, [[]]]
    holder[key] = values[random.integers(len(values))]
    path.write_text(json.dumps(content, indent=2))


def nested(value: object) -> list[dict | list]:
    inner = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else [])
    own = [value] if isinstance(value, dict | list) else []
    return own + [holder for item in inner for holder in nested(item)]


def keys(holder: dict | list) -> list:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


DAMAGES: list[Callable[[Path, list[Path], np.random.Generator], None]] = [
    flip_bytes,
    cut_or_lengthen,
    overwrite_a_run,
    swap_or_replace_shards,
    delete_a_file,
    edit_the_manifest,
]


def everything(path: Path) -> dict[str, bytes]:
    """All that a reader can learn from a cache, as bytes."""
    cache = LogitCache(path)
    cache.verify("quick")
    cache.verify("full")
    found = {"manifest": cache.manifest.model_dump_json().encode()}
    for split in cache.splits:
        part = cache.split(split)
        found[split] = part.ids.tobytes() + part.row_hashes.tobytes() + part.logits.tobytes()
        streamed = list(cache.stream(split, batch_size=7, seed=None))
        found[f"{split}, streamed"] = b"".join(batch.logits.tobytes() for batch in streamed)
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_damage_is_silent(tmp_path, seed):
    damage_many(write_cache(tmp_path / "whole"), everything, ROUNDS, seed)


def damage_many(whole: Path, everything: Callable[[Path], dict[str, bytes]], rounds: int, seed: int) -> None:
    """Damage copies of a cache, and see that what is read of each is the same or is refused."""
    random = np.random.default_rng(seed)
    expected, refused = everything(whole), 0
    for _ in range(rounds):
        damaged = whole.with_name("damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        (damaged / "cost.json").unlink(missing_ok=True)  # says nothing of the logits
        files = sorted(Path(folder) / name for folder, _, names in os.walk(damaged) for name in names)
        DAMAGES[random.integers(len(DAMAGES))](damaged, files, random)
        try:
            assert everything(damaged) == expected
        except CacheError:
            refused += 1
    assert (
        refused > 0.9 * rounds
    )  # the rest changed nothing that is read, such as white space, or a zero to a zero
