"""The logit cache: one model's logits on one task, in checked Parquet shards. See docs/cache-format.md."""

from kdcache.logits.augmented import AugmentedDataset
from kdcache.logits.cache import LogitCache
from kdcache.logits.disk import CachedSplit, Group, Verification
from kdcache.logits.format import (
    FORMAT_VERSION,
    Augmentation,
    Cost,
    Fingerprints,
    Manifest,
    ShardInfo,
    SplitInfo,
    schema,
)
from kdcache.logits.inference import write_logits
from kdcache.logits.predicting.views import replay, view_seed
from kdcache.logits.stream import LogitStream
from kdcache.logits.writer import LogitWriter

__all__ = [
    "FORMAT_VERSION",
    "Augmentation",
    "AugmentedDataset",
    "CachedSplit",
    "Cost",
    "Fingerprints",
    "Group",
    "LogitCache",
    "LogitStream",
    "LogitWriter",
    "Manifest",
    "ShardInfo",
    "SplitInfo",
    "Verification",
    "replay",
    "schema",
    "view_seed",
    "write_logits",
]
