"""1,000 token caches damaged at random: every damage that changes a value is refused, with a CacheError."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import CacheError
from kdcache.logits.tokens import TokenCache
from tests.logits.test_corruption import damage_many
from tests.logits.test_hostile import reseal

from .conftest import write_cache

ROUNDS, SEEDS = 250, 4


def everything(path: Path) -> dict[str, bytes]:
    """All that a reader can learn from a cache, as bytes."""
    cache = TokenCache(path)
    cache.verify("quick")
    cache.verify("full")
    found = {"manifest": cache.manifest.model_dump_json().encode()}
    for name in cache.splits:
        rows = cache.split(name)
        columns = b"".join(
            column.values.tobytes() + column.lengths.tobytes() for column in rows.columns.values()
        )
        found[name] = rows.ids.tobytes() + rows.row_hashes.tobytes() + columns
        streamed = list(cache.stream(name, batch_size=7, seed=None))
        found[f"{name}, streamed"] = b"".join(
            value.numpy().tobytes()
            for batch in streamed
            for value in (batch.tokens, batch.token, batch.weight)
        )
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_damage_is_silent(tmp_path, seed):
    damage_many(write_cache(tmp_path / "whole"), everything, ROUNDS, seed)


def sealed(folder: Path, column: str, change) -> None:
    """Change one column of the first shard, with all checksums right."""
    path = folder / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = pa.array(change(table[column].to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), values).cast(table.schema), path)
    reseal(folder)


def shifted(rows: list[list]) -> list[list]:
    return [*rows[1:], rows[0]]


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("tokens", lambda rows: [[*row[1:], row[0]] for row in rows], "has other tokens in row id 0"),
        ("loss", lambda rows: [[False] * len(row) for row in rows], "has other tokens in row id 0"),
        ("tokens", shifted, "the lengths of .* do not fit"),
        ("heads", shifted, "the lengths of .* do not fit"),
        ("tail_ids", lambda rows: [[60000] * len(row) for row in rows], "has an entry for token"),
        ("head_logprobs", lambda rows: [[0.5] * len(row) for row in rows], "no log-probabilities"),
        ("entropy", lambda rows: [[float("nan")] * len(row) for row in rows], "no log-probabilities"),
        ("id", lambda rows: [-1, *rows[1:]], "has the row id -1"),
        ("id", lambda rows: [rows[1], *rows[1:]], "has row id 1 twice"),
    ],
)
def test_rows_that_somebody_changed_on_purpose(tmp_path, column, change, message):
    folder = write_cache(tmp_path)
    sealed(folder, column, change)
    for read in (lambda cache: cache.verify("full"), lambda cache: cache.batch([3])):
        with pytest.raises(CacheError, match=message):
            read(TokenCache(folder))


def test_another_estimator_in_the_manifest(tmp_path):
    folder = write_cache(tmp_path)
    path = folder / "manifest.json"
    from kdcache.hashing import fingerprint

    manifest = json.loads(path.read_text())
    manifest["estimator"]["eps"] = 0.25
    manifest.pop("checksum")
    path.write_text(json.dumps({**manifest, "checksum": fingerprint.of_json(manifest)}))
    with pytest.raises(CacheError, match="is not the shard that the manifest means"):
        TokenCache(folder).verify("quick")
