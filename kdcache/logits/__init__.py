"""The logit cache: one model's logits on one task, in checked Parquet shards. See docs/cache-format.md."""

from kdcache.logits.augmented import AugmentedDataset
from kdcache.logits.cache import LogitCache
from kdcache.logits.disk import Group, Verification
from kdcache.logits.format import FORMAT_VERSION, Manifest, schema
from kdcache.logits.inference import write_logits
from kdcache.logits.predicting.views import replay, view_seed
from kdcache.logits.records import Augmentation, Cost, Fingerprints, ShardInfo, SplitInfo
from kdcache.logits.rows import CachedSplit
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
