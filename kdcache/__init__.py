"""Cache a teacher's logits once; train and compare any number of students and regularizers against them."""

from kdcache.errors import KdcacheError
from kdcache.logits import (
    Augmentation,
    AugmentedDataset,
    Cost,
    Fingerprints,
    LogitCache,
    LogitWriter,
    write_logits,
)
from kdcache.study import Study, load_study

__all__ = [
    "Augmentation",
    "AugmentedDataset",
    "Cost",
    "Fingerprints",
    "KdcacheError",
    "LogitCache",
    "LogitWriter",
    "Study",
    "load_study",
    "write_logits",
]
